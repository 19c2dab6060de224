"""Trains the toy in a process of its own, or in one of several (``UNITOK_COORDINATOR`` and its like).

``run_toy.py WORKDIR DEVICES JSON-CHANGES [SECONDS-A-STEP]``; exits as `unitok train` does.
"""

import json
import sys
import time
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

if __name__ == "__main__":
    import training_toy as toy

    from unitok_jax import cli
    from unitok_jax.errors import Preempted
    from unitok_jax.parallel.distributed import initialize
    from unitok_jax.systems import base
    from unitok_jax.training.loop import train

    workdir, devices, changes, *pace = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    base.build = lambda name, model: toy.ToySystem(model)
    initialize()
    config = toy.config(**json.loads(changes))
    try:
        train(config, workdir, samples=lambda params, step: time.sleep(float(pace[0])) if pace else None)
    except Preempted as notice:
        print(notice, file=sys.stderr)
        sys.exit(cli.PREEMPTED)
