"""What a full-size recipe's train step sends between 8 devices that share its parameters.

``sent_run.py RECIPE...``; prints one JSON object: recipe -> bytes that a device sends in a step, over those of all
parameters in float32. The steps are compiled, nothing of them is computed.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
DEVICES = 8


def main(*recipes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)

    from unitok_jax.config import load_config
    from unitok_jax.parallel.mesh import MeshSettings
    from unitok_jax.planning.hlo import read_collectives
    from unitok_jax.planning.programs import set_up, train_program
    from unitok_jax.training.config import read_config

    def share(recipe: str) -> float:
        config = read_config(load_config(str(ROOT / "configs" / recipe)))[0]
        data = {**config.data, "batch_size": DEVICES * config.accumulate}
        config = dataclasses.replace(config, mesh=MeshSettings(1, DEVICES), data=data)
        setup = set_up(config, jax.devices())
        sent = sum(each.wire for each in read_collectives(train_program(setup).traced.lower().compile().as_text()))
        return sent / sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(setup.abstract.params))

    print(json.dumps({recipe: share(recipe) for recipe in recipes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
