"""Trains the toy in a process of its own: ``run_toy.py WORKDIR DEVICES JSON-CHANGES [SECONDS-A-STEP]``."""

import json
import sys
import time
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

if __name__ == "__main__":
    import training_toy as toy

    from unitok_jax.systems import base
    from unitok_jax.training.loop import train

    workdir, devices, changes, *pace = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    base.build = lambda name, model: toy.ToySystem(model)
    config = toy.config(**json.loads(changes))
    train(config, workdir, samples=lambda params, step: time.sleep(float(pace[0])) if pace else None)
