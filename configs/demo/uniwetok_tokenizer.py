"""UniWeTok's demo, 1 of 3: the binary tokenizer on coloured handwritten digits, with distillation and prior.

    unitok train --config configs/demo/tower.py --workdir runs/demo-uniwetok/tower
    unitok train --config configs/demo/uniwetok_tokenizer.py --workdir runs/demo-uniwetok/tokenizer

The teacher is the demo's own SigLIP tower. `no_siglu` and `no_prior` (as arguments) leave one of them out, for claims.
"""

from ml_collections import ConfigDict

from configs.demo import common as demo
from configs.demo import uniwetok_common as common


def get_config(arg: str = "") -> ConfigDict:
    words = set(filter(None, arg.split(",")))
    if words - {"no_siglu", "no_prior", "no_distill"}:
        raise ValueError(f"no such word in {arg!r}; known: no_siglu, no_prior, no_distill")
    config = ConfigDict()
    config.system, config.stage, config.seed = "uniwetok", "tokenizer", 0
    config.model = dict(image_size=16, vae=common.vae())
    if "no_siglu" in words:
        config.model.vae["siglu"] = False
    config.stage_options = dict(perceptual=0.0, entropy=0.02)
    if "no_distill" not in words:
        tower = demo.model().vit.to_dict()
        config.stage_options.distill = dict(teacher=tower, pool=dict(width=tower["width"], heads=4), weight=0.1)
    if "no_prior" not in words:
        head = dict(kind="mlp", width=64, depth=1, modulations=1)
        network = dict(width=64, layers=1, heads=2, channels=common.CHANNELS, grid=(4, 4), classes=0, head=head)
        config.stage_options.prior = dict(network=network, weight=0.1)
    config.data = dict(
        train=[common.source("image")],
        validation=dict(held_out=[common.source("image", split="held_out")]),
        batch_size=32,
    )
    config.steps = 1200
    config.optimizer = common.adam(2e-3)
    config.ema = dict(decay=0.99)
    learnt = [
        "vae",
        *(part for part, option in (("pools", "distill"), ("prior", "prior")) if option in config.stage_options),
    ]
    config.init_from = dict(vit="runs/demo-uniwetok/tower") if "distill" in config.stage_options else {}
    config.fresh = tuple(learnt)
    config.log_every, config.checkpoint_every, config.eval_every = 50, 600, 1200
    return config
