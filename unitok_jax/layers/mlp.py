"""Feed-forward layers: gated (SwiGLU) and plain."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from unitok_jax.errors import UserError
from unitok_jax.layers.compiled_for import current_platform
from unitok_jax.settings import near

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "silu": nn.silu,
    "relu": nn.relu,
}


def activation(name: str):
    """The activation function called `name`; ``gelu`` is the exact (erf) form.

    Raises:
        UserError: for an unknown name.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation: no function {name!r}.{near(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def merge_leading(x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*rows D"]:
    """One row a position on a CPU, where XLA spreads loops over two axes better than loops over three.

    Elsewhere the axes stay apart: they may be sharded over different axes of the mesh.
    """
    return x.reshape(-1, x.shape[-1]) if current_platform() == "cpu" else x


class GatedMLP(nn.Module):
    """SwiGLU, ``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202).

    Attributes:
        hidden: width between the layers.
        use_bias: biases on all three.
        out: width of the result; that of the input by default.
    """

    hidden: int
    use_bias: bool = False
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B out"]:
        linear = partial(nn.Dense, use_bias=self.use_bias, dtype=self.dtype)
        rows = merge_leading(x)
        gated = nn.silu(linear(self.hidden, name="gate")(rows)) * linear(self.hidden, name="up")(rows)
        read = linear(self.out or x.shape[-1], name="down")(gated)
        return read.reshape(*x.shape[:-1], read.shape[-1])


class MLP(nn.Module):
    """``fc2(act(fc1(x)))`` with biases.

    Attributes:
        hidden: width between the two layers.
        activation: a name in `ACTIVATIONS`.
        out: width of the result; that of the input by default.
    """

    hidden: int
    activation: str = "gelu_tanh"
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B out"]:
        hidden = activation(self.activation)(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(merge_leading(x)))
        read = nn.Dense(self.out or x.shape[-1], dtype=self.dtype, name="fc2")(hidden)
        return read.reshape(*x.shape[:-1], read.shape[-1])
