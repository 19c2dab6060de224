"""Demo, 3 of 4: stage I, captions of coloured handwritten digits from their codes and features.

    unitok train --config configs/demo/stage1.py --workdir runs/demo/stage1

The paper's stage I trains tower and adapter around a finished LM; here the LM starts from nothing and learns too.
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
    )
    config.data = dict(train=[common.source("caption")], batch_size=16)
    config.steps = 100
    config.optimizer = dict(
        lr=2e-3,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip=1.0,
        schedule=dict(name="cosine", warmup=30, floor=0.5),
        groups=[dict(match="^vit/", lr_scale=0.1)],
    )
    config.init_from = dict(vqgan="runs/demo/tokenizer", vit="runs/demo/tower")
    config.fresh = ("lm", "adapter")
    config.log_every, config.checkpoint_every = 25, 100
    return config
