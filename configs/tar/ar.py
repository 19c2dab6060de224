"""The autoregressive de-tokenizer at 256 (default), 512 or 1024 pixels, each from the one before.

    unitok train --config configs/tar/ar.py:256 --workdir runs/tar/ar_256
    unitok train --config configs/tar/ar.py:512 --workdir runs/tar/ar_512

256: 50 M aesthetic LAION pictures, from nothing; 512: 23 M synthetic ones; 1024: 3 M. From 512 on the position table of
the run before is resized as it is read. Needs TA-Tok and LlamaGen's VQ-VAE. No trainer is public: the recipe is the
paper's appendix E, the size that of the released files. Not run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts

SIDES = {  # side: (set, pictures, batch, rate)
    256: ("laion_aesthetic", 50_000_000, 768, 4e-4),
    512: ("synthetic_23m", 23_000_000, 96, 1e-4),
    1024: ("synthetic_3m", 3_000_000, 48, 1e-4),
}


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, *map(str, SIDES))
    side = next((s for s in SIDES if str(s) in flags), 256)
    shards, count, batch, rate = SIDES[side]
    pixels = 16 if "tiny" in flags else side
    config = ConfigDict()
    config.stage = "ar"
    config.model = dict(ta_tok=parts.ta_tok(flags), ar=parts.ar(flags, pixels), vq=parts.vq(flags, pixels))
    config.stage_options = dict(scales=(1, 2, 3), scale_weights=(2.0, 1.0, 1.0), condition_dropout=0.1)
    train = parts.pictures(options["data"], shards)
    config.data = dict(train=parts.digits("image") if "tiny" in flags else train)
    config.optimizer = dict(
        lr=rate,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        decay_all=True,
        clip=1.0,
        schedule=dict(name="cosine", warmup=0.04 * count / batch),
    )
    config.init_from = dict(ta_tok=f"{options['weights']}/ta_tok.pth", vq=f"{options['weights']}/vq_ds16_t2i.pt")
    config.fresh = ("ar",)
    if side > 256 and "tiny" not in flags:
        config.init_from.ar, config.fresh = f"runs/tar/ar_{side // 2}", ()
        config.start = dict(ar=dict(name="stretched", tokens=(side // 32) ** 2))
    return parts.finish(flags, config, batch, count // batch)
