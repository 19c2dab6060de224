"""The diffusion de-tokenizer at 512 (default) or 1024 pixels: SANA-0.6B learns to draw from TA-Tok's features.

    unitok train --config configs/tar/sana.py --workdir runs/tar/sana_512

Cross-attention and what embeds the condition are trained, on 23 M synthetic pictures, with CAME. Needs SANA-0.6B,
DC-AE and TA-Tok. The condition's first layer has TA-Tok's width and is new. The paper has no stage at 1024 although
such a file is released: the same recipe is taken. No trainer is public. Not run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, "512", "1024")
    config = ConfigDict()
    config.stage = "sana"
    model, vae = parts.sana(flags)
    side = 16 if "tiny" in flags else 1024 if "1024" in flags else 512
    config.model = dict(ta_tok=parts.ta_tok(flags), sana=model, vae=vae, sana_size=side)
    config.stage_options = dict(scales=(1, 2, 3), scale_weights=(2.0, 1.0, 1.0), condition_dropout=0.1)
    train = parts.pictures(options["data"], "synthetic_23m")
    config.data = dict(train=parts.digits("image") if "tiny" in flags else train)
    steps = 23_000_000 // 48
    config.optimizer = dict(
        lr=1e-4,
        clip=0.1,
        came=dict(betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16)),
        schedule=dict(name="constant", warmup=0.01 * steps),
    )
    weights = options["weights"]
    config.init_from = dict(
        sana=f"{weights}/Sana_600M_{side}px/transformer",
        vae=f"{weights}/dc-ae-f32c32-sana",
        ta_tok=f"{weights}/ta_tok.pth",
    )
    config.start = dict(sana=dict(name="recaptioned", caption=2304))
    config.fresh = ("negative",)
    return parts.finish(flags, config, batch=48, steps=steps)
