"""UniToken-base, stage II: everything but the VQGAN and the tower's embeddings learns to understand and to draw.

    unitok train --config configs/unitoken/base_stage2.py --workdir runs/unitoken/base_stage2

Goes on from stage I's workdir, for one epoch of the mixture. The release counts about 8 M examples to understand and
10 M to draw; the paper 10 M of each (`:paper`). The words of the argument are in parts.py. The release's own stage II
script names stage I's data and an undefined accumulation; what is here is its phase-2 list with an accumulation of 1.
Not run here at full size.
"""

from ml_collections import ConfigDict

from configs.unitoken import mixtures, parts

PROMPTS = (  # drawn at every thousandth step into the workdir's samples/
    "a red apple on a wooden table",
    "a lighthouse on a cliff at dusk",
    "two cats asleep on a blue sofa",
    "a watercolour of a street in the rain",
)


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg)
    config = ConfigDict()
    config.model = parts.model(flags, options["weights"], anyres=False)
    config.stage_options = dict(
        parts.rows(flags, anyres=False, captions=False), trains=(parts.TOWER, "^adapter/", "^lm/")
    )
    even = "paper" in flags
    train = mixtures.entries(mixtures.STAGE2, options["data"], parts.PROMPT, even)
    config.data = parts.data(flags, train, options["data"], packed_batch=48)
    config.steps = mixtures.examples(mixtures.STAGE2, even) // 128
    config.optimizer = parts.optimizer(lr=1e-5, tower_scale=1.0, epoch=config.steps)
    stage1 = "runs/unitoken/base_stage1"
    config.init_from = dict(lm=stage1, vit=stage1, adapter=stage1, vqgan=stage1)
    config.fresh = ()
    config.samples = dict(prompts=PROMPTS)
    config.sample_every = 1000
    return parts.stage(flags, config)
