"""Tar's demo, 5 of 5: the language model reads and draws digits; the de-tokenizer's parts travel with it.

unitok train --config configs/demo/tar_lm.py --workdir runs/demo-tar/lm
"""

from ml_collections import ConfigDict

from configs.demo import common, tar

PROMPT = ("{caption}",)  # as released: the caption alone


def get_config() -> ConfigDict:
    config = tar.stage("lm", batch=16, steps=800, lr=2e-3, task="caption")
    config.model = tar.model("lm", "ar")
    config.stage_options = dict(
        row_length=192, images=4, scales=(1,), scale_weights=(1.0,), labels="answers", carry=("ar",)
    )
    config.data.train = [
        tar.source("caption", weight=0.25),
        tar.source("question", weight=0.25),
        tar.source("generate", weight=0.5, prompts=PROMPT),
    ]
    config.data.validation = dict(
        captions=[tar.source("caption", split="held_out")],
        questions=[tar.source("question", split="held_out")],
        drawings=[tar.source("generate", split="held_out", prompts=PROMPT)],
    )
    config.init_from = dict(ta_tok="runs/demo-tar/tokenizer", ar="runs/demo-tar/ar", vq="runs/demo-tar/ar")
    config.fresh = ("lm",)
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=16),
        draw=dict(text=dict(temperature=0.0), image=dict(temperature=0.7), max_steps=24),
        prompts=dict(generate="{caption}"),
        batch_size=64,
    )
    config.evaluation = dict(targets=common.targets(reconstruction_judged=0.75))
    return config
