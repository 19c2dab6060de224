"""From `config.optimizer` to the update of one phase's parameters."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int

from unitok_jax.errors import UserError
from unitok_jax.settings import from_config, near
from unitok_jax.systems.base import Aux, Params, Stage
from unitok_jax.training import partition
from unitok_jax.training.came import CameSettings, scale_by_came
from unitok_jax.training.schedules import Schedule, ScheduleSettings, build_schedule

NO_DECAY = r"(bias|scale)$"  # what weight decay spares by default: norms and biases


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that differ from the rest; the first group that matches a path counts.

    Attributes:
        match: regex searched in the path.
        lr_scale: factor of the learning rate.
        weight_decay: in the place of the phase's, also for norms and biases; None leaves it.
        frozen: not trained at all.
    """

    match: str
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter, 2019): ``p <- p - lr (adam(g) + weight_decay p)``.

    Attributes:
        lr: peak learning rate.
        betas, eps: of Adam.
        weight_decay: multiplied by the learning rate, on everything but norms and biases.
        decay_all: weight decay on norms and biases too (as UniToken's release trains).
        clip: the most that the global norm of the phase's gradient may be, or None.
        schedule: of the learning rate.
        groups: what differs from this.
        came: CAME in Adam's place; `betas` and `eps` then count for nothing.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False
    clip: float | None = None
    schedule: ScheduleSettings = dataclasses.field(default_factory=ScheduleSettings)
    groups: tuple[Group, ...] = ()
    came: CameSettings | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Moves one phase's parameters.

    Attributes:
        name: of the phase.
        settings: its settings.
        schedule: factor of the learning rate by step.
        members: path of each parameter it trains -> its group.
    """

    name: str
    settings: OptimizerSettings
    schedule: Schedule
    members: Mapping[str, Group]

    @functools.cached_property
    def transform(self) -> optax.GradientTransformation:
        """Gradient -> Adam's direction (or CAME's); rates and decay are applied in `update`, from the run's step."""
        clip = _clip(self.settings.clip) if self.settings.clip else optax.identity()
        if self.settings.came is not None:
            return optax.chain(clip, scale_by_came(self.settings.came))
        return optax.chain(clip, optax.scale_by_adam(*self.settings.betas, self.settings.eps))

    def init(self, params: Params) -> Any:
        """The state before the first update; `params` holds exactly the paths of `members`."""
        return self.transform.init(params)

    def update(self, grads: Params, state: Any, params: Params, step: Int[Array, ""]) -> tuple[Params, Any]:
        """Returns what to add to `params`, and the next state."""
        rate = self.settings.lr * self.schedule(step)
        directions, state = self.transform.update(grads, state, params)
        flat, flat_params = flatten_dict(directions, sep="/"), flatten_dict(params, sep="/")
        moves = {
            path: -rate * group.lr_scale * (flat[path] + self.decay(path) * flat_params[path])
            for path, group in self.members.items()
        }
        return unflatten_dict(moves, sep="/"), state

    def decay(self, path: str) -> float:
        """Weight decay of the parameter at `path`."""
        group = self.members[path]
        if group.weight_decay is not None:
            return group.weight_decay
        spared = not self.settings.decay_all and re.search(NO_DECAY, path)
        return 0.0 if spared else self.settings.weight_decay

    def rates(self, step: Int[Array, ""]) -> Aux:
        """The learning rate of each group, for the log."""
        rate = self.settings.lr * self.schedule(step)
        groups = {group.match: group.lr_scale for group in self.members.values()}
        names = {match: f"lr/{self.name}" + (f"/{match}" if match else "") for match in groups}
        return {names[m]: metrics.LastValue.from_model_output(rate * scale) for m, scale in groups.items()}


def build_optimizers(
    stage: Stage, params: Params, common: Mapping[str, Any], by_phase: Mapping[str, Mapping[str, Any]], steps: int
) -> dict[str, Optimizer]:
    """One optimizer a phase.

    Args:
        stage: its phases.
        params: all parameters, abstract ones will do.
        common: `config.optimizer`.
        by_phase: `config.optimizers`: what a phase sets anew.
        steps: the run's length.

    Raises:
        UserError: for an unknown key or phase, or a regex that matches no parameter.
    """
    phases = [phase.name for phase in stage.phases]
    for name in by_phase:
        if name not in phases:
            raise UserError(f"config.optimizers.{name}: the stage has no such phase.{near(name, phases)}")
    names = partition.paths(params)
    trainable = partition.matching(names, stage.trainable, "trained parameters")
    optimizers = {}
    for phase in stage.phases:
        where = f"config.optimizers.{phase.name}" if phase.name in by_phase else "config.optimizer"
        settings = from_config(OptimizerSettings, {**common, **by_phase.get(phase.name, {})}, where)
        partition.matching(sorted(trainable), [group.match for group in settings.groups], f"{where}.groups")
        trained = partition.matching(names, phase.trains, f"phase {phase.name!r}")
        members = {path: _group(path, settings.groups) for path in names if path in trained}
        members = {path: group for path, group in members.items() if not group.frozen}
        if not members:
            raise UserError(f"{where}.groups: they freeze every parameter of phase {phase.name!r}")
        schedule = build_schedule(settings.schedule, steps, f"{where}.schedule")
        optimizers[phase.name] = Optimizer(phase.name, settings, schedule, members)
    return optimizers


def trained_paths(optimizers: Iterable[Optimizer]) -> frozenset[str]:
    """The paths of all parameters that some phase moves."""
    return frozenset(path for optimizer in optimizers for path in optimizer.members)


def moving_average(average: Params, params: Params, decay: float) -> Params:
    """One step of the exponential moving average of parameters."""
    return jax.tree.map(lambda mean, value: decay * mean + (1 - decay) * value.astype(jnp.float32), average, params)


def _clip(largest: float) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`, by one factor, which fuses with what follows: optax's divides every leaf anew."""

    def clipped(grads: Any, _: Any) -> Any:
        factor = jnp.minimum(1.0, largest / optax.tree.norm(grads))
        return jax.tree.map(lambda grad: grad * factor.astype(grad.dtype), grads)

    return optax.stateless(clipped)


def _group(path: str, groups: Iterable[Group]) -> Group:
    return next((group for group in groups if re.search(group.match, path)), Group(match=""))
