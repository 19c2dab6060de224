"""How far each code of a step is from being another one: what rounding must not bridge if two runs are to agree."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

MARGIN = 1e-3


class Margins:
    """Measures every choice of a code while it is entered, as programs that are traced within run.

    A margin is, of a nearest row, the difference of the two smallest distances over the larger of them; of a score, the
    difference of the two best over the best one's size; of a bit, its channel's size over that of all channels.
    """

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []
        self._patches: list[Any] = []

    def __enter__(self) -> "Margins":
        from unitok_jax.quantizers import binary, nearest, text_aligned

        for module, name, measure in (
            (nearest, "search", _of_distances),
            (text_aligned, "search", _of_scores),
            (binary, "signs", _of_bits),
            (binary, "to_indices", _of_bits),
        ):
            self._patches.append(mock.patch.object(module, name, self._measured(getattr(module, name), measure)))
            self._patches[-1].start()
        return self

    def __exit__(self, *_: Any) -> None:
        for patch in self._patches:
            patch.stop()

    def clear(self) -> None:
        """Forgets what was measured."""
        jax.effects_barrier()
        self._found.clear()

    def by_row(self, rows: int) -> np.ndarray:
        """The smallest margin of each row of the batch; infinite where nothing is quantised."""
        jax.effects_barrier()
        least = [found.reshape(rows, -1).min(1) for found in self._found]
        return np.min([np.full(rows, np.inf), *least], axis=0)

    def _measured(self, choose: Any, measure: Any) -> Any:
        def chosen(*args: Any, **kwargs: Any) -> Any:
            jax.debug.callback(lambda found: self._found.append(np.asarray(found)), measure(*args, **kwargs))
            return choose(*args, **kwargs)

        return chosen


def _of_distances(queries: jax.Array, rows: jax.Array, **_: Any) -> jax.Array:
    squares = jnp.square(queries[..., None, :].astype(jnp.float32) - rows.astype(jnp.float32)).sum(-1)
    near, far = jnp.moveaxis(-jax.lax.top_k(-squares, 2)[0], -1, 0) ** 0.5
    return (far - near) / far


def _of_scores(
    queries: jax.Array, rows: jax.Array, *, l2_norm: bool = True, key: Any = None, **options: Any
) -> jax.Array:
    from unitok_jax.quantizers import text_aligned

    found = text_aligned.scores(queries.reshape(-1, queries.shape[-1]).astype(jnp.float32), rows, l2_norm=l2_norm)
    if key is not None:  # a draw adds noise to the scores: one chunk's, as these books are small
        noise = jax.random.gumbel(jax.random.fold_in(key, 0), found.shape)
        found = found / options.get("temperature", 0.03) + noise
    best, second = jnp.moveaxis(jax.lax.top_k(found, 2)[0], -1, 0)
    return (best - second) / jnp.abs(best)


def _of_bits(latents: jax.Array, *_: Any) -> jax.Array:
    wide = jax.lax.stop_gradient(latents).astype(jnp.float32)
    return jnp.abs(wide) / jnp.sqrt(jnp.square(wide).mean())
