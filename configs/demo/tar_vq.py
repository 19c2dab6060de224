"""Tar's demo, 3 of 5: the VQ-VAE whose codes the de-tokenizer writes, by reconstruction alone.

unitok train --config configs/demo/tar_vq.py --workdir runs/demo-tar/vq
"""

from ml_collections import ConfigDict

from configs.demo import tar


def get_config() -> ConfigDict:
    config = tar.stage("vq", batch=32, steps=500, lr=3e-3)
    config.model = tar.model("vq")
    config.stage_options = dict(l2=1.0, codebook=1.0, commitment=0.25, restart_every=20, restart_until=300)
    config.fresh = ("vq",)
    return config
