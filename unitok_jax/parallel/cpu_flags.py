"""Compiler flags for CPUs, where XLA's own choice is slower.

Both names are known to every jaxlib that `pyproject.toml` allows; an unknown one would end the process.
"""

import os

FLAGS = {
    # YNNPACK's convolutions run on one core in jaxlib 0.10 (not in 0.12): 85 ms where Eigen's take 37 on two.
    "xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    # Without it a donated state is copied before it is overwritten, which is a tenth of a small train step.
    "xla_cpu_copy_insertion_use_region_analysis": "true",
}


def set_cpu_flags() -> None:
    """Adds to ``XLA_FLAGS`` what it does not say already; other platforms ignore it.

    For programs, not for a library's import: it counts only before JAX compiles for the first time.
    """
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
