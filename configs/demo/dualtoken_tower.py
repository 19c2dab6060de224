"""DualToken's demo, 1 of 3: the tower, trained on captions with SigLIP's sigmoid loss; there is no released one.

unitok train --config configs/demo/dualtoken_tower.py --workdir runs/demo-dualtoken/tower
"""

from ml_collections import ConfigDict

from configs.demo import dualtoken


def get_config() -> ConfigDict:
    config = dualtoken.stage("tower", batch=128, steps=900, lr=2e-3, tasks=dict(caption=1.0))
    config.model = dualtoken.model("text")
    config.fresh = ("vit", "text")
    return config
