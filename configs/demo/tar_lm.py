"""Tar's demo, 5 of 5: the language model reads and draws digits; the de-tokenizer's parts travel with it.

    unitok train --config configs/demo/tar_lm.py --workdir runs/demo-tar/lm

Words change it, for claims: ``words`` begins with the language model of `tar_words.py`; ``reading`` or ``drawing``
learns one of the two alone.
"""

from ml_collections import ConfigDict

from configs.demo import common, tar

PROMPT = ("{caption}",)  # as released: the caption alone


def get_config(arg: str = "") -> ConfigDict:
    words = set(filter(None, arg.split(",")))
    if words - {"words", "reading", "drawing"}:
        raise ValueError(f"no such word in {arg!r}; known: words, reading, drawing")
    config = tar.stage("lm", batch=16, steps=1200, lr=2e-3, task="caption")
    config.model = tar.model("lm", "ar")
    config.stage_options = dict(
        row_length=192, images=4, scales=(1,), scale_weights=(1.0,), labels="answers", carry=("ar",)
    )
    config.data.train = [
        tar.source("caption", weight=0.25),
        tar.source("question", weight=0.25),
        tar.source("generate", weight=0.5, prompts=PROMPT),
    ]
    if words & {"reading", "drawing"}:
        drawn = "drawing" in words
        config.data.train = [one for one in config.data.train if (one["task"] == "generate") == drawn]
    config.data.validation = dict(
        captions=[tar.source("caption", split="held_out")],
        questions=[tar.source("question", split="held_out")],
        drawings=[tar.source("generate", split="held_out", prompts=PROMPT)],
    )
    config.init_from = dict(ta_tok="runs/demo-tar/tokenizer", ar="runs/demo-tar/ar", vq="runs/demo-tar/ar")
    config.fresh = ("lm",)
    if "words" in words:
        config.init_from.lm, config.fresh = "runs/demo-tar/words", ()
        config.start = dict(lm=dict(name="grown", rows=tar.ROWS))
        config.model.ta_tok.decoder.channels = tar.LM_WIDTH
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=16),
        draw=dict(text=dict(temperature=0.0), image=dict(temperature=0.7), max_steps=24),
        prompts=dict(generate="{caption}"),
        batch_size=64,
    )
    config.evaluation = dict(targets=common.targets(reconstruction_judged=0.75))
    return config
