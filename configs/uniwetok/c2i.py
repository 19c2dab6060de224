"""Class-conditional generation on ImageNet: BitDance's and UniWeTok's models B, L and H.

    unitok train --config configs/uniwetok/c2i.py --workdir runs/uniwetok/c2i-B

The words of the argument, with commas between:

    B  L  H      the size (B by default)
    4x  16x      tokens at once (BitDance's; 1 by default)
    bitdance     BitDance's tokenizer, 16 pixels and 32 bits a token: what is released; by default UniWeTok's own, 32
                 pixels and 128 bits, which the paper trains on and nobody released a command for
    d32c128  d32c256  BitDance's other tokenizers, see parts.py

AdamW at 6e-4 with a cosine down to 1e-5 after 20,000 steps, batch 1024, 800 epochs (400 on UniWeTok's tokens, of which
there are fewer), moving average 0.9999. The release fades its random crops out from epoch 700 to 750; the shorter
recipe does so in the same part of its epochs, which is ours. Not run here at full size.
"""

from ml_collections import ConfigDict

from configs.uniwetok import parts
from unitok_jax.systems.uniwetok.stage_c2i import NO_DECAY_GROUPS

PICTURES = 1_281_167


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, ("B", "L", "H", "4x", "16x"))
    tiny, bitdance = "tiny" in flags, "bitdance" in flags
    size = next((size for size in "LH" if size in flags), "B")
    parallel = 16 if "16x" in flags else 4 if "4x" in flags else 1
    vae, epochs = parts.vae(flags, tiny), 800 if bitdance else 400
    side = 32 if tiny else 256
    channels, grid = vae.get("z_channels", 128), side // parts.factor(vae)
    config = ConfigDict()
    config.system, config.stage = "uniwetok", "c2i"
    config.model = dict(image_size=side, vae=vae, generator=_generator(size, parallel, channels, grid, tiny))
    fade = (epochs * 7 // 8, epochs * 15 // 16)
    config.stage_options = dict(perturb=0.1 if size == "B" else 0.05, crop_fade=fade)
    config.data = dict(
        train=[parts.pictures("imagenet", options["data"], tiny)], batch_size=1024, workers=0 if tiny else 16
    )
    config.steps = epochs * (PICTURES // 1024)
    config.optimizer = dict(
        lr=6e-4, betas=(0.9, 0.95), weight_decay=0.05, clip=1.0, groups=list(NO_DECAY_GROUPS),
        schedule=dict(name="cosine", warmup=20_000, floor=1 / 60),
    )  # fmt: skip
    if parallel == 1:
        config.optimizer.groups = [group for group in NO_DECAY_GROUPS if "query_token" not in group["match"]]
    config.ema = dict(decay=0.9999)
    config.compute_dtype = "float32" if tiny else "bfloat16"
    config.init_from = {} if tiny else dict(vae=parts.published_vae(flags, options["weights"]))
    config.fresh = ("generator", "vae") if tiny else ("generator",)
    return parts.finish(config, tiny)


def _generator(size: str, parallel: int, channels: int, grid: int, tiny: bool) -> dict:
    dtype = "float32" if tiny else "bfloat16"
    width, layers, heads, depth, modulations = (64, 1, 2, 1, 1) if tiny else parts.GENERATORS[size]
    return dict(
        width=width,
        layers=layers,
        heads=heads,
        channels=channels,
        grid=(grid, grid),
        classes=10 if tiny else 1000,
        class_tokens=4 if tiny else 64,
        parallel_num=parallel,
        order="raster" if parallel == 1 else "patch",
        head=dict(
            kind="mlp" if parallel == 1 else "transformer",
            width=width,
            depth=depth,
            modulations=modulations,
            repeat=4,
            dtype=dtype,
        ),
        remat=not tiny,
        dtype=dtype,
    )
