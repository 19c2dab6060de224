"""Beside Tar's demo: a language model of words alone, for a text-aligned codebook to take its words from.

    unitok train --config configs/demo/tar_words.py:words.jsonl --workdir runs/demo-tar/words

The argument is a file of records ``{"prompt": ..., "text": ...}``. `make claims` writes one and compares codebooks.
"""

from ml_collections import ConfigDict

from configs.demo import tar


def get_config(arg: str = "words.jsonl") -> ConfigDict:
    config = tar.stage("lm", batch=16, steps=500, lr=2e-3)
    config.model = tar.model("lm")
    config.stage_options = dict(row_length=64, images=1, scales=(1,), scale_weights=(1.0,), labels="answers")
    config.data.train = [dict(kind="jsonl", path=arg, task="text")]
    config.data.validation = {}
    config.fresh = ("lm", "ta_tok")
    return config
