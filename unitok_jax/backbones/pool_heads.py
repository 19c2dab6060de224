"""Heads that make one embedding of a picture's tokens, for distillation from a teacher (arXiv 2602.14178, section 3.1).

The paper names them, "attention" and "linear", and does not publish their insides: these are ours. The attention head
is SigLIP's pooling head behind a linear layer to the teacher's width; the linear one a linear layer of the mean.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.backbones.siglip import PoolingHead, SiglipConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import near

KINDS = ("attention", "linear")

SHARDING = (
    (r"/(in_proj|proj)/kernel$", (None, "fsdp")),
    (r"/(in_proj|proj)/bias$", (None,)),
    (r"/pool/attention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"/pool/attention/[qkv]/bias$", ("tensor", None)),
    (r"/pool/attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"/pool/(attention/out|norm|mlp/fc2)/bias$", (None,)),
    (r"/pool/norm/scale$", (None,)),
    (r"/pool/probe$", (None, None, None)),
    (r"/pool/mlp/fc1/kernel$", ("fsdp", "tensor")),
    (r"/pool/mlp/fc1/bias$", ("tensor",)),
    (r"/pool/mlp/fc2/kernel$", ("tensor", "fsdp")),
)


@dataclasses.dataclass(frozen=True)
class PoolHeadConfig:
    """A head.

    Attributes:
        kind: ``attention`` or ``linear``.
        width: of the embedding: the teacher's.
        heads, ratio: attention heads and feed-forward ratio of the attention head.
        dtype: what is computed in; the embedding is float32.
    """

    kind: str = "attention"
    width: int = 1152
    heads: int = 16
    ratio: float = 4.0
    dtype: str = "float32"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"pool head: no kind {self.kind!r}.{near(self.kind, KINDS)}")
        if self.width % self.heads:
            raise UserError(f"pool head: heads {self.heads} must divide width {self.width}")


class PoolHead(nn.Module):
    """Tokens to one embedding."""

    config: PoolHeadConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch n channels"]) -> Float[Array, "batch width"]:
        c = self.config
        if c.kind == "linear":
            return nn.Dense(c.width, dtype=c.dtype, name="proj")(tokens.mean(1)).astype(jnp.float32)
        tower = SiglipConfig(width=c.width, ffn=int(c.ratio * c.width), heads=c.heads, dtype=c.dtype)
        tokens = nn.Dense(c.width, dtype=c.dtype, name="in_proj")(tokens)
        return PoolingHead(tower, name="pool")(tokens).astype(jnp.float32)
