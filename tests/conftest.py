"""What every test runs under: the CPU, exact products, a compile cache, shapes checked while the code runs."""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
# Tiny programs run once, and LLVM's higher levels compile far longer: test_cli.py takes 208 seconds of a core, not 79.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_HERE.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jaxtyping  # noqa: E402

sys.path.insert(0, str(_HERE))
jaxtyping.install_import_hook("unitok_jax", "shape_checks.check_shapes")
