"""`unitok` in a process of its own with virtual devices: ``cli_run.py DEVICES ARGUMENTS...``."""

import sys
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).parents[2])]

if __name__ == "__main__":
    from unitok_jax import cli

    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
