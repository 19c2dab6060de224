"""A discriminator beside the training of a tokenizer: settings, the generator's term, the discriminator's loss.

A stage with an adversary has two phases. The generator's loss is the value of its reconstruction losses and of
`generator_term`, whose gradients it joins where they meet, at the picture written (`losses.adversarial.attach`); its
carry hands the picture to the phase of `discriminator_loss`. The adversary's state lies in the stage's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from clu import metrics
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from unitok_jax.backbones import discriminators
from unitok_jax.backbones.discriminators import DiscriminatorSettings, init_discriminator, judge
from unitok_jax.losses import adversarial as gan
from unitok_jax.parallel.rules import under
from unitok_jax.systems.base import Aux, Params, State

PART = "discriminator"  # of the stage's parameters
SHARDING = under(PART, discriminators.SHARDING)
Pictures = Float[Array, "batch height width channels"]
PerPicture = Float[Array, "batch"]
Scalar = Float[Array, ""]
Count = Num[Array, ""]


@dataclasses.dataclass(frozen=True)
class AdversarySettings:
    """`adversary` among the options of a stage; the defaults are taming's VQGAN.

    Attributes:
        discriminator: the network.
        loss: the discriminator's.
        generator_loss: the generator's.
        weight: of the generator's.
        adaptive: multiply `weight` by the ratio of the gradients of reconstruction and adversary at the last layer.
        lowest, highest: that ratio is clipped to them.
        start: the step from which the adversary takes part.
        lecam: weight of LeCam's regulariser; 0 leaves it out.
        lecam_decay: of its averages.
    """

    discriminator: DiscriminatorSettings = dataclasses.field(default_factory=DiscriminatorSettings)
    loss: Literal["hinge", "leaky_hinge", "vanilla", "nonsaturating"] = "hinge"
    generator_loss: Literal["hinge", "nonsaturating"] = "hinge"
    weight: float = 0.8
    adaptive: bool = True
    lowest: float = 0.0
    highest: float = 1e4
    start: int = 0
    lecam: float = 0.0
    lecam_decay: float = 0.999

    @property
    def couples(self) -> bool:
        """Whether the losses couple the pictures of a batch, so that it cannot be split into micro-batches."""
        return self.adaptive or self.lecam > 0 or self.discriminator.couples


class LastLayer(NamedTuple):
    """The generator's last layer, its input held fixed.

    Attributes:
        write: weight -> picture.
        weight: of the layer.
    """

    write: Callable[[jax.Array], jax.Array]
    weight: jax.Array


class Term(NamedTuple):
    """A weighted loss on the picture written, as numbers.

    Attributes:
        value: of the loss.
        cotangent: its gradient with respect to the picture.
        logged: metrics.
        state: the adversary's, afterwards.
    """

    value: Scalar
    cotangent: Pictures
    logged: Aux
    state: State


def init_adversary(settings: AdversarySettings, key: PRNGKeyArray) -> tuple[Params, State]:
    """The discriminator's parameters, for the part ``discriminator``, and the adversary's state."""
    params, statistics = init_discriminator(settings.discriminator, key)
    return params, {"statistics": statistics, "lecam": gan.lecam_start()}


def generator_term(
    settings: AdversarySettings,
    params: Params,
    state: State,
    written: Pictures,
    balance: Pictures,
    last: LastLayer,
    step: Int[Array, ""],
    kept: PerPicture,
    total: Count,
) -> Term:
    """What the discriminator has against the pictures written, weighted; nothing before `settings.start`.

    Args:
        settings: the adversary's.
        params: the discriminator's.
        state: the adversary's.
        written: the generator's pictures.
        balance: gradient, with respect to `written`, of the reconstruction loss that the adaptive weight balances.
        last: the generator's last layer.
        step: of the stage.
        kept: 1 for pictures, 0 for padding.
        total: pictures of the global batch: the sum over pictures is divided by it.
    """

    def loss(written: Pictures) -> tuple[Scalar, State]:
        logits, statistics = judge(settings.discriminator, params, state["statistics"], written)
        value = (gan.GENERATOR_LOSSES[settings.generator_loss](logits) * kept).sum() / total
        return value, statistics

    def takes_part(written: Pictures) -> tuple[Scalar, Scalar, Pictures, State]:
        value, statistics, cotangent = gan.with_cotangent(loss, written)
        weight = settings.weight * _balance(settings, last, balance, cotangent)
        return value, weight, cotangent, statistics

    def absent(written: Pictures) -> tuple[Scalar, Scalar, Pictures, State]:
        return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(written), state["statistics"]

    written = jax.lax.stop_gradient(written)
    value, weight, cotangent, statistics = _once_started(settings, step, takes_part, absent, written)
    logged: Aux = {
        "loss/adversarial": metrics.Average(total=value * total, count=total),
        "adversary/weight": metrics.Average.from_model_output(weight),
    }
    return Term(weight * value, weight * cotangent, logged, {**state, "statistics": statistics})


def discriminator_loss(
    settings: AdversarySettings,
    params: Params,
    state: State,
    real: Pictures,
    fake: Pictures,
    step: Int[Array, ""],
    kept: PerPicture,
    total: Count,
) -> tuple[Scalar, Aux, State]:
    """The discriminator's loss on real pictures and on what the generator wrote for them; 0 before `settings.start`.

    Batch norm sees the real pictures first and the fakes after, each batch by itself. LeCam's averages move first.

    Args:
        settings, step, kept, total: see `generator_term`.
        params: the discriminator's.
        state: the adversary's.
        real, fake: row by row.

    Returns:
        The loss, metrics and the adversary's state afterwards.
    """

    def takes_part(params: Params) -> tuple[Scalar, dict[str, Scalar], State]:
        logits_real, statistics = judge(settings.discriminator, params, state["statistics"], real)
        logits_fake, statistics = judge(settings.discriminator, params, statistics, fake)
        averages = gan.lecam_update(state["lecam"], logits_real, logits_fake, settings.lecam_decay, kept)
        losses = gan.DISCRIMINATOR_LOSSES[settings.loss](logits_real, logits_fake)
        losses = losses + settings.lecam * gan.lecam(averages, logits_real, logits_fake)
        sums = {"real": (logits_real.mean((1, 2, 3)) * kept).sum(), "fake": (logits_fake.mean((1, 2, 3)) * kept).sum()}
        return (losses * kept).sum() / total, sums, {"statistics": statistics, "lecam": averages}

    def absent(params: Params) -> tuple[Scalar, dict[str, Scalar], State]:
        return jnp.zeros(()), {"real": jnp.zeros(()), "fake": jnp.zeros(())}, dict(state)

    loss, sums, after = _once_started(settings, step, takes_part, absent, params)
    logged: Aux = {f"logits/{side}": metrics.Average(total=value, count=kept.sum()) for side, value in sums.items()}
    return loss, logged, after


def _balance(settings: AdversarySettings, last: LastLayer, balance: Pictures, cotangent: Pictures) -> Scalar:
    if not settings.adaptive:
        return jnp.ones(())
    balanced, adversarial = (gan.weight_norm(last.write, last.weight, pull) for pull in (balance, cotangent))
    return gan.adaptive_weight(balanced, adversarial, settings.lowest, settings.highest)


def _once_started(
    settings: AdversarySettings, step: Int[Array, ""], takes_part: Callable, absent: Callable, operand: Any
) -> Any:
    """One of two branches; before the start the discriminator is not run at all."""
    if settings.start <= 0:
        return takes_part(operand)
    return jax.lax.cond(step >= settings.start, takes_part, absent, operand)
