"""Demo, 1 of 4: trains the VQGAN tokenizer on coloured handwritten digits by reconstruction.

    unitok train --config configs/demo/tokenizer.py --workdir runs/demo/tokenizer

The release has no tokenizer training; codes that go unused are restarted from latents.
"""

from ml_collections import ConfigDict

from configs.demo import common


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage = "unitoken", "vqgan"
    config.seed = 0
    config.model = common.model()
    config.stage_options = dict(l2=1.0, codebook=1.0, commitment=0.25, restart_every=20, restart_until=300)
    config.data = dict(
        train=[common.source("image")],
        validation=dict(held_out=[common.source("image", split="held_out")]),
        batch_size=32,
    )
    config.steps = 500
    config.optimizer = dict(
        lr=3e-3,
        betas=(0.9, 0.95),
        weight_decay=1e-4,
        clip=1.0,
        schedule=dict(name="cosine", warmup=30, floor=0.02),
    )
    config.fresh = ("vqgan",)
    config.log_every, config.checkpoint_every, config.eval_every = 50, 250, 500
    return config
