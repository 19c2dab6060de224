"""Demo, 2 of 4: trains the tower on captions with SigLIP's sigmoid loss; there is no released one to start from.

    unitok train --config configs/demo/tower.py --workdir runs/demo/tower

Two equal captions in a batch are not negatives of each other.
"""

from ml_collections import ConfigDict

from configs.demo import common


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage = "unitoken", "tower"
    config.seed = 0
    config.model = common.model(tower_text=True)
    config.data = dict(
        train=[common.source("caption")],
        validation=dict(held_out=[common.source("caption", split="held_out")]),
        batch_size=128,
    )
    config.steps = 400
    config.optimizer = dict(
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        clip=1.0,
        schedule=dict(name="cosine", warmup=30, floor=0.05),
    )
    config.fresh = ("vit", "text")
    config.log_every, config.checkpoint_every, config.eval_every = 50, 400, 400
    return config
