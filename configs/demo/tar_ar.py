"""Tar's demo, 4 of 5: the autoregressive de-tokenizer writes the VQ-VAE's codes from TA-Tok's features.

unitok train --config configs/demo/tar_ar.py --workdir runs/demo-tar/ar
"""

from ml_collections import ConfigDict

from configs.demo import tar


def get_config() -> ConfigDict:
    config = tar.stage("ar", batch=64, steps=1500, lr=2e-3)
    config.model = tar.model("ar")
    config.stage_options = dict(scales=(1, 2), scale_weights=(2.0, 1.0), condition_dropout=0.1)
    config.init_from = dict(ta_tok="runs/demo-tar/tokenizer", vq="runs/demo-tar/vq")
    config.fresh = ("ar",)
    return config
