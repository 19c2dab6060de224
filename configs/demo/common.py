"""What the stages of the demo share: a UniToken small enough to train on two CPU cores in minutes.

Pictures are 16 x 16; the VQGAN reads one as 4 x 4 codes of 256, the tower as 2 x 2 features.
"""

from ml_collections import ConfigDict

DATA = "digits"  # scikit-learn's handwritten digits, coloured


def model(tower_text: bool = False) -> ConfigDict:
    """`config.model`; the text tower is there in the tower's own stage only."""
    config = ConfigDict()
    config.image_size = 16
    config.vqgan = dict(
        channels=32,
        multipliers=(1, 2),
        patch=2,
        res_blocks=1,
        z_channels=64,
        embed_dim=16,
        codebook_size=256,
        resolution=16,
        groups=8,
    )
    config.vit = dict(width=128, ffn=256, layers=2, heads=4, image_size=16, patch_size=8)
    config.lm = dict(
        vocab_size=704,
        width=128,
        ffn=352,
        layers=3,
        heads=4,
        kv_heads=4,
        head_dim=32,
        qk_norm="layernorm",
    )
    if tower_text:
        config.text = dict(width=64, ffn=128, layers=2, heads=2, vocab_size=704, max_length=6, projection=128)
    return config


def source(task: str, weight: float = 1.0, split: str = "train", **options) -> dict:
    """One entry of `config.data`."""
    return dict(kind=DATA, task=task, split=split, weight=weight, **options)


def targets(**more: float) -> dict:
    """`config.evaluation.targets` of the other systems: UniToken's rates less 0.15, and what a system adds."""
    rates = dict(
        caption_exact=0.73,
        answer_colour=0.82,
        answer_digit=0.73,
        generation_correct=0.70,
        generation_correct_unseen_pairs=0.55,
        generation_copies=0.17,
        judge_accuracy=0.95,
    )
    return dict(rates, **more)
