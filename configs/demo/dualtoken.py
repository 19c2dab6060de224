"""What the stages of DualToken's demo share: a model small enough to train on two CPU cores in minutes.

Pictures are 16 x 16, read as 4 x 4 positions of 4 pixel and 4 semantic codes. Without a released VGG-16 the tokenizer
trains without LPIPS, and without a discriminator.
"""

from ml_collections import ConfigDict

RUNS = "runs/demo-dualtoken"
DRAW = "Generate an image of {caption}"


def model(*parts: str) -> ConfigDict:
    """`config.model`, with ``text`` for the tower's own stage and ``lm`` for the language model's."""
    config = ConfigDict()
    config.vit = dict(width=128, ffn=256, layers=4, heads=4, image_size=16, patch_size=4)
    config.layer_recon, config.layer_shortcut, config.layer_sem = 2, 1, 3
    config.pix = dict(features=32, size=128, depth=4, kind="rq", decay=0.95)
    config.sem = dict(features=32, size=128, depth=4, kind="rq_ema", ema_vectors="per_depth", decay=0.95)
    config.decoder = dict(
        latent_shape=(4, 4),
        in_channels=64,
        channels=32,
        multipliers=(1, 2, 2),
        res_blocks=1,
        attn_resolutions=(4,),
        resolution=16,
        groups=8,
    )
    config.text = None
    config.system_message = ""
    if "text" in parts:
        config.text = dict(width=64, ffn=128, layers=2, heads=2, vocab_size=380, max_length=6, projection=128)
    if "lm" in parts:
        config.lm = dict(vocab_size=380, width=128, ffn=352, layers=3, heads=4, kv_heads=4, head_dim=32, qkv_bias=True)
        config.head = dict(layers=2, heads=4)
    return config


def source(task: str, weight: float = 1.0, split: str = "train", **options) -> dict:
    """One entry of `config.data`."""
    return dict(kind="digits", task=task, split=split, weight=weight, **options)


def stage(name: str, batch: int, steps: int, lr: float, tasks: dict[str, float]) -> ConfigDict:
    """What every stage has."""
    config = ConfigDict()
    config.system, config.stage, config.seed = "dualtoken", name, 0
    prompts = dict(generate=dict(prompts=(DRAW,)))
    config.data = dict(
        train=[source(task, weight, **prompts.get(task, {})) for task, weight in tasks.items()],
        validation={task: [source(task, split="held_out", **prompts.get(task, {}))] for task in tasks},
        batch_size=batch,
    )
    config.steps = steps
    config.optimizer = dict(
        lr=lr, betas=(0.9, 0.95), weight_decay=0.01, clip=1.0, schedule=dict(name="cosine", warmup=30, floor=0.02)
    )
    config.log_every, config.checkpoint_every, config.eval_every = 50, steps, steps
    return config
