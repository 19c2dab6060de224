"""Training checkpoints that keep a moving average beside the parameters, as latent-diffusion's ``LitEma`` writes it.

The average of ``encoder.conv_in.weight`` is ``model_ema.encoderconv_inweight``: the dots go. Whatever has an average is
used as its average, the rest as it is.
"""

from collections.abc import Iterable

import numpy as np

from unitok_jax.weights.source import AnyArray, Source

PREFIX = "model_ema."


def shadow(key: str) -> str:
    """The name of a tensor's moving average."""
    return PREFIX + key.replace(".", "")


def with_averages(source: Source) -> Source:
    """The source with averages in the place of what they average; itself where it holds none."""
    return Averaged(source) if any(key.startswith(PREFIX) for key in source.keys()) else source  # noqa: SIM118


class Averaged:
    """See `with_averages`."""

    def __init__(self, source: Source):
        self._source = source
        keys = set(source.keys())
        plain = [key for key in keys if "model_ema" not in key]
        self._found = {key: shadow(key) if shadow(key) in keys else key for key in sorted(plain)}

    def keys(self) -> Iterable[str]:
        return self._found.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._source.shape(self._found[key])

    def dtype(self, key: str) -> np.dtype:
        return self._source.dtype(self._found[key])

    def read(self, key: str) -> AnyArray:
        return self._source.read(self._found[key])
