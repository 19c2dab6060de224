"""BitDance's diffusion heads: small networks that predict tokens from noisy ones and a condition.

Source: arXiv 2602.14041 and the released heads. ``mlp`` predicts single tokens; ``transformer`` predicts
several tokens together, which attend to one another and share a time.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import FULL
from unitok_jax.layers.mlp import MLP, GatedMLP
from unitok_jax.layers.norms import LayerNorm, standardise
from unitok_jax.parallel.mesh import POSITION_AXES, pin_rows
from unitok_jax.sampling import x_prediction
from unitok_jax.settings import near

KINDS = ("mlp", "transformer")
FREQUENCIES = 128
EPSILON = 1e-6

pin = partial(pin_rows, over=POSITION_AXES)  # rows here are positions of a model's rows, or blocks of them

SHARDING = (
    (r"(\btime/fc1|\btime/fc2|\bcondition|\binput|\boutput|_modulate)/kernel$", (None, "fsdp")),
    (r"(\btime/fc1|\btime/fc2|\bcondition|\binput|\boutput|_modulate)/bias$", (None,)),
    (r"\bblocks/.*attention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"\bblocks/.*attention/[qkv]/bias$", ("tensor", None)),
    (r"\bblocks/.*attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"\bblocks/.*attention/out/bias$", (None,)),
    (r"\bblocks/.*mlp/(gate|up|fc1)/kernel$", ("fsdp", "tensor")),
    (r"\bblocks/.*mlp/(gate|up|fc1)/bias$", ("tensor",)),
    (r"\bblocks/.*mlp/(down|fc2)/kernel$", ("tensor", "fsdp")),
    (r"\bblocks/.*mlp/(down|fc2)/bias$", (None,)),
    (r"\bblocks/.*(norm|norm1|norm2)/(scale|bias)$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class FlowHeadConfig:
    """A head.

    Attributes:
        kind: ``mlp`` or ``transformer``.
        width, depth: of its blocks.
        modulations: adaptive-norm layers; each serves a run of ``depth / modulations`` blocks.
        head_dim: of the transformer's attention: 64 in the class-conditional models, 128 in the LM's.
        gated: SwiGLU in the transformer's blocks; else two layers with a SiLU between.
        squash: the prediction goes through ``2 sigmoid - 1`` (the LM's heads).
        time_schedule, time_mean, time_deviation, time_shift: see `sampling.x_prediction.times`.
        repeat: how many noises every target is trained with at once.
        remat: recompute a block's inside in the backward pass instead of keeping it.
        dtype: what is computed in.
    """

    kind: str = "mlp"
    width: int = 768
    depth: int = 6
    modulations: int = 2
    head_dim: int = 64
    gated: bool = True
    squash: bool = False
    time_schedule: str = "logit_normal"
    time_mean: float = -0.8
    time_deviation: float = 0.8
    time_shift: float = 1.0
    repeat: int = 1
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"flow head: no kind {self.kind!r}.{near(self.kind, KINDS)}")
        if self.time_schedule not in x_prediction.SCHEDULES:
            raise UserError(f"flow head: no time_schedule {self.time_schedule!r}; expected {x_prediction.SCHEDULES}")
        if self.modulations < 1 or self.depth % self.modulations:
            raise UserError(f"flow head: modulations {self.modulations} must divide depth {self.depth}")
        if self.kind == "transformer" and self.width % self.head_dim:
            raise UserError(f"flow head: head_dim {self.head_dim} must divide width {self.width}")

    @property
    def hidden(self) -> int:
        return int(1.5 * self.width)

    def times(self, draws: Float[Array, "rows"]) -> Float[Array, "rows"]:
        """Training times from draws."""
        return x_prediction.times(draws, self.time_schedule, self.time_mean, self.time_deviation, self.time_shift)


def time_features(t: Float[Array, "rows"]) -> Float[Array, "rows 256"]:
    """Cosines, then sines, of 1000 t at frequencies from 1 down to nearly 1 / 10000."""
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(FREQUENCIES, dtype=jnp.float32) / FREQUENCIES)
    angles = 1000 * t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _modulated(x: Array, scale: Array, shift: Array) -> Array:
    return x * (1 + scale) + shift


class _Attention(nn.Module):
    """Every token of a row attends to all of them."""

    config: FlowHeadConfig

    @nn.compact
    def __call__(self, x: Float[Array, "rows n width"]) -> Float[Array, "rows n width"]:
        c = self.config
        shape = (c.width // c.head_dim, c.head_dim)
        q, k, v = (nn.DenseGeneral(shape, dtype=c.dtype, name=name)(x) for name in "qkv")
        return nn.DenseGeneral(c.width, axis=(-2, -1), dtype=c.dtype, name="out")(attention(q, k, v, FULL))


class _Block(nn.Module):
    """A residual block under an adaptive norm; scanned."""

    config: FlowHeadConfig

    @nn.compact
    def __call__(self, x: Array, modulation: Array) -> tuple[Array, None]:
        c, x = self.config, pin(x)
        if c.gated or c.kind == "mlp":
            mlp = GatedMLP(c.hidden, use_bias=True, dtype=c.dtype, name="mlp")
        else:
            mlp = MLP(c.hidden, "silu", dtype=c.dtype, name="mlp")
        if c.kind == "mlp":
            scale, shift, gate = jnp.split(modulation, 3, -1)
            return x + gate * mlp(_modulated(LayerNorm(EPSILON, name="norm")(x), scale, shift)), None
        scale1, shift1, gate1, scale2, shift2, gate2 = jnp.split(modulation, 6, -1)
        h = _modulated(LayerNorm(EPSILON, name="norm1")(x), scale1, shift1)
        x = x + gate1 * _Attention(c, name="attention")(h)
        h = _modulated(LayerNorm(EPSILON, name="norm2")(x), scale2, shift2)
        return x + gate2 * mlp(h), None


class _Blocks(nn.Module):
    """All blocks, in one scan for each adaptive-norm layer."""

    config: FlowHeadConfig

    @nn.compact
    def __call__(self, x: Array, modulations: list[Array]) -> Array:
        run = self.config.depth // len(modulations)
        block = nn.remat(_Block, prevent_cse=False) if self.config.remat else _Block
        for number, modulation in enumerate(modulations):
            span = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=run
            )
            x, _ = span(self.config, name=f"span_{number * run}_{(number + 1) * run}")(x, modulation)
        return x


class FlowHead(nn.Module):
    """Predicts clean tokens.

    Attributes:
        config: its sizes.
        channels: of a token.
    """

    config: FlowHeadConfig
    channels: int

    @nn.compact
    def __call__(
        self, z: Float[Array, "rows *n channels"], t: Float[Array, "rows"], condition: Float[Array, "rows *n D"]
    ) -> Float[Array, "rows *n channels"]:
        """Reads noisy tokens.

        Args:
            z: [rows, C] of an ``mlp`` head, [rows, P, C] of a ``transformer``.
            t: the rows' times.
            condition: one a token.

        Returns:
            The tokens predicted, float32.
        """
        c = self.config
        z, condition = pin(z.astype(c.dtype)), pin(condition.astype(c.dtype))
        time = MLP(c.width, "silu", out=c.width, dtype=c.dtype, name="time")(pin(time_features(t).astype(c.dtype)))
        time = pin(time).reshape(len(t), *[1] * (z.ndim - 2), -1)
        y = pin(nn.silu(time + nn.Dense(c.width, dtype=c.dtype, name="condition")(condition)))
        zeros: dict[str, Any] = {"kernel_init": nn.initializers.zeros, "dtype": c.dtype}
        parts = 3 if c.kind == "mlp" else 6
        modulate = [
            pin(nn.Dense(parts * c.width, name=f"modulation_{number}_modulate", **zeros)(y))
            for number in range(c.modulations)
        ]
        x = nn.Dense(c.width, dtype=c.dtype, name="input")(z)
        x = _Blocks(c, name="blocks")(x, modulate)
        scale, shift = jnp.split(nn.Dense(2 * c.width, name="output_modulate", **zeros)(y), 2, -1)
        out = nn.Dense(self.channels, name="output", **zeros)(_modulated(standardise(x, EPSILON), scale, shift))
        out = out.astype(jnp.float32)
        return 2 * nn.sigmoid(out) - 1 if c.squash else out


def training_loss(
    head: FlowHead,
    params: Any,
    target: Float[Array, "rows *n channels"],
    condition: Float[Array, "rows *n D"],
    time_draws: Float[Array, "repeated_rows"],
    noise: Float[Array, "repeated_rows *n channels"],
) -> tuple[Float[Array, "repeated_rows *n channels"], dict[str, Array]]:
    """The velocity loss, entry by entry, and ``{"t", "z", "predicted", "condition"}``.

    Args:
        head, params: the head and its parameters.
        target: clean tokens.
        condition: one a token.
        time_draws: see `x_prediction.times`; `repeat` of the config for each row, the rows tiled.
        noise: standard normal.
    """
    repeat = len(noise) // len(target)
    target, condition = (jnp.tile(x, (repeat, *[1] * (x.ndim - 1))) for x in (target.astype(jnp.float32), condition))
    t = head.config.times(time_draws)
    z = x_prediction.between(target, noise, t)
    predicted = applied(head, params, z, t, condition)
    loss = x_prediction.velocity_loss(predicted, target, z, t)
    return loss, {"t": t, "z": z, "predicted": predicted, "condition": condition}


def draw_training_noise(
    head: FlowHead, key: PRNGKeyArray, shape: tuple[int, ...]
) -> tuple[Float[Array, "repeated_rows"], Float[Array, "repeated_rows *n channels"]]:
    """(time draws, noise) for targets of `shape`, `repeat` of each."""
    time_key, noise_key = jax.random.split(key)
    rows = shape[0] * head.config.repeat
    draws = x_prediction.draw_times(time_key, (rows,), head.config.time_schedule)
    return draws, jax.random.normal(noise_key, (rows, *shape[1:]))
