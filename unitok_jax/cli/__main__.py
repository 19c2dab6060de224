"""``python -m unitok_jax.cli`` is ``unitok``."""

import sys

from unitok_jax.cli import main

sys.exit(main())
