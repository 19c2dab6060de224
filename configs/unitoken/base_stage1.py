"""UniToken-base, stage I: tower and adapter learn to speak to a frozen LM, on 2.5 M captions for one epoch.

    unitok train --config configs/unitoken/base_stage1.py --workdir runs/unitoken/base_stage1

Needs the sets of mixtures.py, Lumina-mGPT-7B-512, SigLIP-SO400M/14 at 384 and Chameleon's tokenizer folder; the words
of the argument are in parts.py. The release trained on 8 devices of 80 GB; not run here at full size.
"""

from ml_collections import ConfigDict

from configs.unitoken import mixtures, parts


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg)
    config = ConfigDict()
    config.model = parts.model(flags, options["weights"], anyres=False)
    config.stage_options = dict(parts.rows(flags, anyres=False, captions=True), trains=(parts.TOWER, "^adapter/"))
    train = mixtures.entries(mixtures.STAGE1, options["data"], parts.PROMPT)
    config.data = parts.data(flags, train, options["data"], packed_batch=48)
    config.steps = mixtures.examples(mixtures.STAGE1) // 128
    config.optimizer = parts.optimizer(lr=1e-3, tower_scale=1e-2, epoch=config.steps)
    config.init_from = dict(
        lm=f"{options['weights']}/Lumina-mGPT-7B-512",
        vit=f"{options['weights']}/siglip-so400m-patch14-384",
        vqgan=f"{options['weights']}/chameleon/tokenizer/vqgan.ckpt",
    )
    config.fresh = ("adapter",)
    return parts.stage(flags, config)
