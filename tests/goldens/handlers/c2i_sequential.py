"""BitDance's class-conditional generator, one token at a time."""

import dataclasses

from harness import Mutation
from uniwetok_c2i import check
from uniwetok_models import zeroed

from unitok_jax.backbones import bitdance_sampling

__all__ = ["MUTATIONS", "check"]


def _constant(_, scale, step, steps):
    del step, steps
    return scale


MUTATIONS = {
    "c2i_sequential": (
        Mutation("more class tokens' width", config=lambda c: dataclasses.replace(c, heads=2 * c.heads)),
        Mutation("no positions of the head", params=zeroed("positions/embedding")),
        Mutation("constant guidance", patch=(bitdance_sampling, "guidance_at", _constant)),
    ),
}
