"""Class-conditional generation on ImageNet: BitDance's and UniWeTok's models B, L and H.

    unitok train --config configs/uniwetok/c2i.py --workdir runs/uniwetok/c2i-B

The words of the argument, with commas between:

    B  L  H      the size (B by default)
    4x  16x      tokens at once (BitDance's; 1 by default)
    bitdance     BitDance's tokenizer, 16 pixels and 32 bits a token: what is released; by default UniWeTok's own, 32
                 pixels and 128 bits, which the paper trains on and nobody released a command for
    anneal       the last of the epochs, with central crops alone

AdamW at 6e-4 with a cosine down to 1e-5 after 20,000 steps, batch 1024, 800 epochs (400 on UniWeTok's tokens, of which
there are fewer), moving average 0.9999. The release fades its random crops out from epoch 700 to 750; here that is
another run (`anneal`). Not run here at full size.
"""

from ml_collections import ConfigDict

from configs.uniwetok import parts
from unitok_jax.systems.uniwetok.stage_c2i import NO_DECAY_GROUPS

PICTURES = 1_281_167


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, ("B", "L", "H", "4x", "16x", "bitdance", "anneal"))
    tiny, bitdance = "tiny" in flags, "bitdance" in flags
    size = next((size for size in "LH" if size in flags), "B")
    parallel = 16 if "16x" in flags else 4 if "4x" in flags else 1
    vae = parts.bitdance_ae(tiny) if bitdance else parts.hybrid(tiny)
    side = 32 if tiny else 256
    factor, channels = (4, 16) if tiny else (16, 32) if bitdance else (32, 128)
    config = ConfigDict()
    config.system, config.stage = "uniwetok", "c2i"
    config.model = dict(image_size=side, vae=vae, generator=_generator(size, parallel, channels, side // factor, tiny))
    config.stage_options = dict(perturb=0.1 if size == "B" else 0.05, random_crops=0.0 if "anneal" in flags else 1.0)
    config.data = dict(
        train=[parts.pictures("imagenet", options["data"], tiny)], batch_size=1024, workers=0 if tiny else 16
    )
    config.steps = (800 if bitdance else 400) * (PICTURES // 1024)
    config.optimizer = dict(
        lr=6e-4, betas=(0.9, 0.95), weight_decay=0.05, clip=1.0, groups=list(NO_DECAY_GROUPS),
        schedule=dict(name="cosine", warmup=20_000, floor=1 / 60),
    )  # fmt: skip
    if parallel == 1:
        config.optimizer.groups = [group for group in NO_DECAY_GROUPS if "query_token" not in group["match"]]
    config.ema = dict(decay=0.9999)
    config.compute_dtype = "float32" if tiny else "bfloat16"
    published = f"{options['weights']}/bitdance/ae_d16c32.safetensors" if bitdance else "runs/uniwetok/tokenizer"
    config.init_from = {} if tiny else dict(vae=published)
    config.fresh = ("generator", "vae") if tiny else ("generator",)
    return parts.finish(config, tiny)


def _generator(size: str, parallel: int, channels: int, grid: int, tiny: bool) -> dict:
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
            kind="mlp" if parallel == 1 else "transformer", width=width, depth=depth, modulations=modulations, repeat=4
        ),
        remat=not tiny,
        dtype="float32" if tiny else "bfloat16",
    )
