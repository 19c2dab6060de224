"""What the stages of UniWeTok's demo share: a model small enough to train on two CPU cores in minutes.

Pictures are 16 x 16; a token is 4 x 4 pixels and 16 bits, in two groups of 8.
"""

from ml_collections import ConfigDict

CHANNELS = 16


def vae() -> dict:
    """The hybrid tokenizer."""
    return dict(
        channels=32, multipliers=(1, 2, 2), res_blocks=1, z_channels=CHANNELS, bit_groups=2, attn_blocks=1, heads=4
    )


def source(task: str, weight: float = 1.0, split: str = "train", kind: str = "digits", **options) -> dict:
    """One entry of `config.data`."""
    return dict(kind=kind, task=task, split=split, weight=weight, **options)


def adam(lr: float, warmup: int = 30, floor: float = 0.02) -> ConfigDict:
    """`config.optimizer`."""
    schedule = dict(name="cosine", warmup=warmup, floor=floor)
    return ConfigDict(dict(lr=lr, betas=(0.9, 0.95), weight_decay=0.01, clip=1.0, schedule=schedule))
