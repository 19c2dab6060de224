"""TA-Tok, the text-aligned tokenizer: 200 M pictures once, against a frozen SigLIP2.

    unitok train --config configs/tar/ta_tok.py --workdir runs/tar/ta_tok

Needs 100 M raw and 100 M aesthetic LAION pictures as WebDataset shards, SigLIP2-SO400M/14 at 384, and Qwen2.5-1.5B, of
whose words 65,536 become the codebook (any language model's that is as wide will do). No trainer of TA-Tok is public:
the recipe is the paper's appendix E. Not run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg)
    config = ConfigDict()
    config.stage = "ta_tok"
    config.model = dict(ta_tok=parts.ta_tok(flags))
    config.stage_options = dict(scales=(1, 2, 3), scale_weights=(2.0, 1.0, 1.0), commitment=0.25, codebook=1.0)
    train = parts.pictures(options["data"], "laion_raw", "laion_aesthetic")
    config.data = dict(train=parts.digits("image") if "tiny" in flags else train)
    steps = 200_000_000 // 512
    config.optimizer = dict(
        lr=2e-4,
        betas=(0.9, 0.99),
        weight_decay=1e-4,
        decay_all=True,
        clip=1.0,
        schedule=dict(name="cosine", warmup=0.04 * steps, floor=0.01),
    )
    siglip = f"{options['weights']}/siglip2-so400m-patch14-384"
    config.init_from = dict(vit=siglip, ta_tok=f"{options['weights']}/Qwen2.5-1.5B-Instruct")
    config.start = dict(ta_tok=dict(name="words", rows=151_936, used=151_665))
    return parts.finish(flags, config, batch=512, steps=steps)
