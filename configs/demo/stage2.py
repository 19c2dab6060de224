"""Demo, 4 of 4: stage II, understanding (captions, questions) and generation mixed in every step.

    unitok train --config configs/demo/stage2.py --workdir runs/demo/stage2

Codes are blanked now and then where an image is read, so that the LM leans on codes and features alike; one
generation row in ten lacks its prompt, which is what guidance compares with. The release does neither.
"""

from ml_collections import ConfigDict

from configs.demo import common


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage = "unitoken", "lm"
    config.seed = 0
    config.model = common.model()
    config.stage_options = dict(
        row_length=80,
        pack=True,
        images=2,
        pictures=2,
        answer_features=False,
        code_dropout=0.2,
        feature_dropout=0.1,
        condition_dropout=0.1,
    )
    config.data = dict(
        train=[
            common.source("caption", weight=0.25),
            common.source("question", weight=0.25),
            common.source("generate", weight=0.5, prompts=("Generate an image of {caption}",)),
        ],
        validation=dict(
            captions=[common.source("caption", split="held_out")],
            questions=[common.source("question", split="held_out")],
            drawings=[common.source("generate", split="held_out", prompts=("Generate an image of {caption}",))],
        ),
        batch_size=16,
    )
    config.steps = 800
    config.optimizer = dict(
        lr=2.5e-3,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip=1.0,
        schedule=dict(name="cosine", warmup=30, floor=0.02),
        groups=[dict(match="^vit/", lr_scale=0.1)],
    )
    config.init_from = dict(
        lm="runs/demo/stage1", adapter="runs/demo/stage1", vit="runs/demo/stage1", vqgan="runs/demo/stage1"
    )
    config.log_every, config.checkpoint_every, config.eval_every = 40, 400, 800
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=12),
        draw=dict(text=dict(temperature=0.0), image=dict(temperature=0.7), guidance=2.0, max_steps=32),
        prompts=dict(generate="Generate an image of {caption}"),
        batch_size=64,
    )
    return config
