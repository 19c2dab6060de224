"""Tar's demo, 2 of 5: TA-Tok learns to give back the teacher's features from codes.

    unitok train --config configs/demo/tar_tokenizer.py --workdir runs/demo-tar/tokenizer

There is no language model to take words from: the codebook's rows are drawn, and only their linear map learns.
``:words`` begins with the teacher's tower and the words of a language model (`tar_words.py`, exported).
"""

from ml_collections import ConfigDict

from configs.demo import tar


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "words"):
        raise ValueError(f"{arg!r}; known: words")
    config = tar.stage("ta_tok", batch=64, steps=3000, lr=1e-3)
    config.model = tar.model()
    config.stage_options = dict(scales=(1, 2), scale_weights=(2.0, 1.0), commitment=0.25, codebook=1.0)
    config.init_from = dict(vit="runs/demo-tar/tower")
    config.fresh = ("ta_tok",)
    if arg == "words":
        config.init_from.ta_tok, config.fresh = "runs/demo-tar/words-exported", ()
        config.start = dict(ta_tok=tar.WORDS)
        config.model.ta_tok.decoder.channels = tar.LM_WIDTH
    return config
