"""Training of the VQ-VAE behind the autoregressive de-tokenizer, which the release takes from LlamaGen; see
`systems.vq_stage`."""

import functools
from collections.abc import Mapping
from typing import Any

from unitok_jax.settings import from_config
from unitok_jax.systems import vq_stage
from unitok_jax.systems.base import Stage
from unitok_jax.systems.tar import pictures


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options, `vq_stage.VQOptions`; needs `config.model.vq`."""
    options = from_config(vq_stage.VQOptions, values, "config.stage_options")
    system.need("vq")
    side = system.config.vq.resolution
    layout = functools.partial(pictures.layout, {"vq": side})
    return vq_stage.build(system.modules["vq"], "vq", side, options, lambda key: system.init(key, ("vq",)), layout)
