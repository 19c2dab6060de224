"""UniWeTok's demo, 2 of 3: digits by class, two by two tokens at a time.

unitok train --config configs/demo/uniwetok_c2i.py --workdir runs/demo-uniwetok/c2i
"""

from ml_collections import ConfigDict

from configs.demo import uniwetok_common as common


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage, config.seed = "uniwetok", "c2i", 0
    head = dict(kind="transformer", width=128, depth=2, modulations=1, head_dim=32, repeat=4)
    generator = dict(
        width=128, layers=3, heads=4, channels=common.CHANNELS, grid=(4, 4), classes=10, class_tokens=4,
        parallel_num=4, order="patch", head=head,
    )  # fmt: skip
    config.model = dict(image_size=16, vae=common.vae(), generator=generator)
    config.stage_options = dict(perturb=0.1, random_crops=0.0, flip=False)
    config.data = dict(train=[common.source("image")], batch_size=64)
    config.steps = 1500
    config.optimizer = common.adam(1e-3)
    config.ema = dict(decay=0.99)
    config.init_from = dict(vae="runs/demo-uniwetok/tokenizer")
    config.fresh = ("generator",)
    config.log_every, config.checkpoint_every = 50, 500
    return config
