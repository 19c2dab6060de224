"""Losses of a discriminator and of the generator that it judges, LeCam's regulariser, adaptive weights, start steps.

Logits are maps [B, h, w, 1]. Losses are float32 and given by picture, [B], so that a stage can mask padding and divide
by its own count; all maps of a batch have one size, so their mean over B is the mean over all logits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Logits = Float[Array, "batch rows columns one"]
PerPicture = Float[Array, "batch"]
Scalar = Float[Array, ""]
Tensor = Float[Array, "*any"]  # a reconstruction or its cotangent
Weight = Float[Array, "*weight"]
Averages = dict[str, jax.Array]  # LeCam's: {"real": [], "fake": []}


def hinge_d(real: Logits, fake: Logits, slope: float = 0.0) -> PerPicture:
    """Hinge loss of the discriminator: ``(relu(1 - real) + relu(1 + fake)) / 2``.

    Args:
        real, fake: its logits.
        slope: of the leaky relu in the place of relu (DualToken: 0.01).
    """
    margins = jax.nn.leaky_relu(1 - _wide(real), slope) + jax.nn.leaky_relu(1 + _wide(fake), slope)
    return 0.5 * _by_picture(margins)


def vanilla_d(real: Logits, fake: Logits) -> PerPicture:
    """Cross-entropy of the discriminator on every logit, halved (taming's ``vanilla``)."""
    return 0.5 * _by_picture(jax.nn.softplus(-_wide(real)) + jax.nn.softplus(_wide(fake)))


def nonsaturating_d(real: Logits, fake: Logits) -> PerPicture:
    """Cross-entropy of the discriminator on each picture's mean logit (WeTok's ``non_saturate``; not halved)."""
    return jax.nn.softplus(-_by_picture(_wide(real))) + jax.nn.softplus(_by_picture(_wide(fake)))


def hinge_g(fake: Logits) -> PerPicture:
    """The generator's loss beside `hinge_d` and `vanilla_d`: minus the mean logit."""
    return -_by_picture(_wide(fake))


def nonsaturating_g(fake: Logits) -> PerPicture:
    """Cross-entropy of each picture's mean logit with "real" (WeTok's generator loss, beside any of the others)."""
    return jax.nn.softplus(-_by_picture(_wide(fake)))


DISCRIMINATOR_LOSSES: dict[str, Callable[[Logits, Logits], PerPicture]] = {
    "hinge": hinge_d,
    "leaky_hinge": lambda real, fake: hinge_d(real, fake, 0.01),
    "vanilla": vanilla_d,
    "nonsaturating": nonsaturating_d,
}
GENERATOR_LOSSES: dict[str, Callable[[Logits], PerPicture]] = {"hinge": hinge_g, "nonsaturating": nonsaturating_g}


def lecam_start() -> Averages:
    """LeCam's averages before the first step."""
    return {"real": jnp.zeros(()), "fake": jnp.zeros(())}


def lecam_update(
    averages: Averages, real: Logits, fake: Logits, decay: float = 0.999, kept: PerPicture | None = None
) -> Averages:
    """Moves LeCam's averages towards the batch's mean logits.

    Args:
        averages: before.
        real, fake: logits of the discriminator.
        decay: of the averages.
        kept: 1 for pictures that count, 0 for padding; None: all count.
    """
    weights = jnp.ones(len(real)) if kept is None else kept.astype(jnp.float32)
    share = weights / jnp.maximum(weights.sum(), 1)

    def moved(old: jax.Array, logits: Logits) -> jax.Array:
        mean = jax.lax.stop_gradient((_by_picture(_wide(logits)) * share).sum())
        return decay * old + (1 - decay) * mean

    return {"real": moved(averages["real"], real), "fake": moved(averages["fake"], fake)}


def lecam(averages: Averages, real: Logits, fake: Logits) -> PerPicture:
    """LeCam's regulariser (arXiv 2104.03310, eq. 7, one-sided as in WeTok): keeps the logits of either side from
    running beyond the running mean of the other."""
    above = jnp.square(jax.nn.relu(_wide(real) - averages["fake"]))
    below = jnp.square(jax.nn.relu(averages["real"] - _wide(fake)))
    return _by_picture(above + below)


def with_cotangent(loss: Callable[[Tensor], tuple[Scalar, Any]], x: Tensor) -> tuple[Scalar, Any, Tensor]:
    """A loss, what it says besides, and its gradient with respect to `x`, as numbers: nothing flows back from them.

    What `loss` closes over gets no gradient; give the result to `attach` for the way back through `x`.
    """
    (value, aux), cotangent = jax.value_and_grad(loss, has_aux=True)(jax.lax.stop_gradient(x))
    return jax.lax.stop_gradient((value, aux, cotangent))


def attach(value: Scalar, x: Tensor, cotangent: Tensor) -> Scalar:
    """A scalar that equals `value` and whose gradient with respect to `x` is `cotangent`.

    So losses on a reconstruction are differentiated once down to it, their gradients compared there (the adaptive
    weight), and their weighted sum goes back through the generator once.
    """
    pull = (x * jax.lax.stop_gradient(cotangent)).sum()
    return jax.lax.stop_gradient(value) + (pull - jax.lax.stop_gradient(pull))


def weight_norm(last: Callable[[Weight], Tensor], weight: Weight, cotangent: Tensor) -> Scalar:
    """Norm of a loss's gradient with respect to the generator's last weight, from its gradient at the output.

    Args:
        last: the last layer, weight -> output, its input held fixed.
        weight: of the last layer.
        cotangent: the loss's gradient with respect to the output.
    """
    _, pull = jax.vjp(last, jax.lax.stop_gradient(weight))
    return jnp.sqrt(jnp.sum(jnp.square(pull(cotangent)[0].astype(jnp.float32))))


def adaptive_weight(
    reconstruction: Scalar, adversarial: Scalar, lowest: float = 0.0, highest: float = 1e4, epsilon: float = 1e-4
) -> Scalar:
    """Weight that makes both losses pull alike at the last layer (VQGAN, arXiv 2012.09841, eq. 7).

    Args:
        reconstruction, adversarial: `weight_norm` of the two losses.
        lowest, highest: the weight is clipped to them (taming 0 and 1e4; DualToken 0.3 and 10).
        epsilon: added to the divisor.
    """
    return jax.lax.stop_gradient(jnp.clip(reconstruction / (adversarial + epsilon), lowest, highest))


def enlarged(step: Int[Array, ""], ratio: float, steps: int) -> Scalar:
    """A factor that falls from ``1 + ratio`` to 1 over `steps` steps (WeTok's codebook enlargement)."""
    return 1 + ratio * jnp.maximum(0.0, 1 - step.astype(jnp.float32) / steps)


def _wide(logits: Logits) -> Logits:
    return logits.astype(jnp.float32)


def _by_picture(x: Logits) -> PerPicture:
    return x.mean((1, 2, 3))
