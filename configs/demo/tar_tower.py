"""Tar's demo, 1 of 5: the teacher, trained on captions with SigLIP's sigmoid loss; there is no released one.

unitok train --config configs/demo/tar_tower.py --workdir runs/demo-tar/tower
"""

from ml_collections import ConfigDict

from configs.demo import tar


def get_config() -> ConfigDict:
    config = tar.stage("tower", batch=128, steps=500, lr=1e-3, task="caption")
    config.model = tar.model("text")
    config.fresh = ("vit", "text")
    return config
