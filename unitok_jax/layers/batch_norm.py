"""Batch normalisation with explicit running statistics."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.errors import UserError

STATISTICS = "statistics"  # the Flax collection of the running means and variances


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and its positions, as `torch.nn.BatchNorm2d`.

    In training the statistics are those of the whole batch (under `jit` with a sharded batch, of all its shards) and
    the running ones move towards them, the variance to its unbiased estimate. Float32 throughout.

    Attributes:
        shards: equal parts of the batch with statistics of their own, as where each device normalises by itself; the
            running ones move towards their mean.
        momentum: share of the new statistics in the running ones.
        epsilon: added to the variance.
        spread: standard deviation of the scale's first values about 1.
    """

    shards: int = 1
    momentum: float = 0.1
    epsilon: float = 1e-5
    spread: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1]

        def first_scale(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return 1 + self.spread * jax.random.normal(key, shape)

        scale = self.param("scale", first_scale, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable(STATISTICS, "mean", jnp.zeros, (channels,))
        var = self.variable(STATISTICS, "var", jnp.ones, (channels,))
        wide = x.astype(jnp.float32)
        used_mean, used_var = mean.value, var.value
        if train:
            new_mean, new_var = used_mean, used_var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
            if self.shards > 1:
                used_mean, used_var = self._by_shard(wide)
                new_mean, new_var = used_mean.mean((0, 1, 2)), used_var.mean((0, 1, 2))
            count = x.size // channels // self.shards
            if not self.is_initializing():
                mean.value = self._moved(mean.value, new_mean)
                var.value = self._moved(var.value, new_var * (count / max(count - 1, 1)))
        normal = (wide - used_mean) * jax.lax.rsqrt(used_var + self.epsilon)
        return (normal * scale + bias).astype(x.dtype)

    def _by_shard(self, x: Float[Array, "batch height width channels"]) -> tuple[Array, Array]:
        """Mean and variance that each picture is normalised with, [batch, 1, 1, channels]."""
        if len(x) % self.shards:
            raise UserError(f"batch norm: {len(x)} pictures do not divide into {self.shards} shards of equal size")
        parts = x.reshape(self.shards, -1, *x.shape[1:])

        def each(of_shards: Array) -> Array:
            return jnp.repeat(of_shards, len(x) // self.shards, axis=0)[:, None, None]

        return each(parts.mean((1, 2, 3))), each(parts.var((1, 2, 3)))

    def _moved(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return (1 - self.momentum) * old + self.momentum * jax.lax.stop_gradient(new)
