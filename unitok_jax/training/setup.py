"""A run before its first step: everything that follows from the config and the devices, nothing computed yet."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import build_mesh, check_batch, check_context
from unitok_jax.settings import near
from unitok_jax.systems import base
from unitok_jax.systems.base import Params, Stage, System
from unitok_jax.training.checkpoints import load_parts
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.optimizers import Optimizer, build_optimizers
from unitok_jax.training.state import Maker, TrainState, abstract_state, init_state, state_maker
from unitok_jax.training.step import EvalStep, TrainStep, make_eval_step, make_train_step
from unitok_jax.weights.artefacts import load_published
from unitok_jax.weights.hub import is_hub_id, locate


@dataclasses.dataclass(frozen=True)
class Setup:
    """The pieces of a run.

    Attributes:
        config: the recipe.
        system, stage: what it trains.
        mesh: where.
        optimizers: by phase.
        make: makes the first state.
        abstract: its shapes and shardings.
        reports: one line for each dimension that could not be sharded.
    """

    config: TrainConfig
    system: System
    stage: Stage
    mesh: Any  # an abstract one where only shapes are asked for
    optimizers: Mapping[str, Optimizer]
    make: Maker
    abstract: TrainState
    reports: Sequence[str]

    def train_step(self) -> TrainStep:
        """The jitted train step."""
        config = self.config
        return make_train_step(
            self.stage,
            self.optimizers,
            self.abstract,
            self.mesh,
            seed=config.seed,
            accumulate=config.accumulate,
            ema_decay=config.ema.decay if config.ema else None,
        )

    def eval_step(self) -> EvalStep:
        """The jitted validation step."""
        return make_eval_step(self.stage, self.mesh, self.config.seed)

    def first_state(self) -> TrainState:
        """The state at step 0: parts of other runs where `init_from` names them, the others drawn from the seed.

        Raises:
            UserError: if a part is in neither or both of `init_from` and `fresh`, or cannot be read.
        """
        loaded: Params = {}
        sources = self.config.init_from
        _check_parts(list(self.abstract.params), list(sources), self.config.fresh)
        for part, source in sources.items():
            if part not in self.config.start:
                path, _, theirs = source.partition("#")
                name = theirs or part
                where = f"config.init_from.{part}"
                loaded[part] = _load(self.system.artefacts, where, path, {name: self.abstract.params[part]})[name]
        for number, part in enumerate(self.config.start):
            key = jax.random.fold_in(jax.random.key(self.config.seed), number)
            loaded[part] = self._started(part, key, loaded)
        return init_state(self.make, self.abstract, jax.random.key(self.config.seed), loaded)

    def _started(self, part: str, key: jax.Array, loaded: Params) -> Params:
        """A part made of weights that are not its own."""
        options = dict(self.config.start[part])
        known, name = getattr(self.system, "starts", {}), options.pop("name", None)
        if name not in known:
            raise UserError(f"config.start.{part}.name: no start {name!r}.{near(str(name), known)}")
        start = known[name](options)
        if part not in self.config.init_from:
            raise UserError(
                f"config.start.{part}: config.init_from.{part} must say where the weights are that it reads"
            )
        own, whole = flatten_dict(self.abstract.params[part]), NamedSharding(self.mesh, PartitionSpec())
        places = {path: leaf.sharding for path, leaf in own.items()}

        def placed(path: tuple[str, ...], leaf: Any) -> jax.ShapeDtypeStruct:
            same = path[1:] in own and own[path[1:]].shape == leaf.shape
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path[1:]] if same else whole)

        wanted = unflatten_dict({path: placed(path, leaf) for path, leaf in flatten_dict(start.abstract).items()})
        read = _load(start.artefacts, f"config.init_from.{part}", self.config.init_from[part], wanted)
        made = start.make(key, read, loaded)
        if jax.process_count() == 1:
            return made

        def for_all(leaf: Any) -> Any:
            """What each process computed by itself, alike, is no array of the mesh; as NumPy's it is taken for one."""
            return leaf if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable else np.asarray(leaf)

        return jax.tree.map(for_all, made)

    def commits(self) -> dict[str, str]:
        """The parts that come from a hub: part -> ``owner/name@commit``, which a branch or tag pointed at."""
        found = {}
        for part, source in self.config.init_from.items():
            path, mark, theirs = source.partition("#")
            if is_hub_id(path):
                found[part] = _located(path).name + mark + theirs
        return found


def prepare(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Setup:
    """Builds the pieces of a run; `devices` may be a topology's absent ones.

    Raises:
        UserError: for whatever in the config does not fit.
    """
    return prepare_on(config, build_mesh(config.mesh, devices))


def prepare_on(config: TrainConfig, mesh: Mesh | AbstractMesh) -> Setup:
    """As `prepare`, on a mesh that there is already; an abstract one serves where only shapes are asked for."""
    system = base.build(config.system, config.model)
    stage = base.build_stage(system, config.stage, config.stage_options)
    stage = dataclasses.replace(stage, init=jax.jit(stage.init))  # so that what follows traces it once
    check_batch(config.batch_size, mesh, config.accumulate)
    check_context(stage.spec.length, mesh)
    params, _ = jax.eval_shape(lambda: stage.init(jax.random.key(0)))
    optimizers = build_optimizers(stage, params, config.optimizer, config.optimizers, config.steps)
    make = state_maker(stage, optimizers, compute_dtype=config.compute_dtype, ema=config.ema is not None)
    abstract, reports = abstract_state(make, system.sharding, mesh)
    return Setup(config, system, stage, mesh, optimizers, make, abstract, reports)


_located = functools.cache(locate)  # so that a run reads the commit that it tells of


def _load(artefacts: Mapping[str, Any], where: str, path: str, parts: Params) -> Params:
    """Parts of a run of ours, or of a published checkpoint (a path or hub id) that one of the tables knows."""
    found = epath.Path(path)
    if (found / "checkpoints").exists() or (found / "params").exists():
        return load_parts(found, parts)
    if "://" in path:
        raise UserError(
            f"{where}: {path}: no run and no import there; published checkpoints are read from this machine alone: "
            "copy it here, or put what `unitok import` makes of it into the bucket"
        )
    try:
        found = _located(path).path
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    places = {name: leaf.sharding for name, leaf in flatten_dict(parts, sep="/").items()}

    def place(name: str, leaf: Any) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, places[name], lambda index: leaf[index])

    return load_published(artefacts, found, parts, place)


def _check_parts(parts: Sequence[str], loaded: Sequence[str], fresh: Sequence[str]) -> None:
    for part in (*loaded, *fresh):
        if part not in parts:
            raise UserError(f"config.init_from or config.fresh: the stage has no part {part!r}.{near(part, parts)}")
    for part in parts:
        if (part in loaded) == (part in fresh):
            both = "both" if part in fresh else "neither"
            raise UserError(
                f"config: part {part!r} is in {both} of init_from and fresh; "
                "load it (init_from) or let it start random (fresh)"
            )
