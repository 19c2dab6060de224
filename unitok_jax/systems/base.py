"""What a system offers, and all that training, inference, evaluation and the command line know of one."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from clu import metrics
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from unitok_jax import systems
from unitok_jax.data.example import Example
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow, RowSpec
from unitok_jax.errors import UserError
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.settings import near

Params = dict[str, Any]  # nested dicts of arrays; the first level names the parts (lm, vit, adapter, vqgan, ...)
State = dict[str, Any]  # what a stage carries besides parameters: EMA codebooks, running statistics
Batch = dict[str, Any]  # see docs/architecture.md, "Batch"
Aux = dict[str, metrics.Metric]  # merged over micro-batches and steps, computed when logged
Carry = dict[str, Any]  # arrays, and trees of them, that a phase hands to the next one of the same step
Settle = Callable[[Params, State, jax.Array, Carry], tuple[Params, State]]
Loss = Callable[[Params, State, Batch, jax.Array, Carry], tuple[jax.Array, Aux, State, Carry]]
Embeds = Float[Array, "R S D"]  # of rows and positions: what the language model reads there, or its hidden states
Hidden = Float[Array, "R *P D"]  # the last hidden states of the rows
Blocks = Int[Array, "R S"] | None  # positions with one number see one another both ways; -1 belongs to none
Valid = Int[Array, "R"]  # how many of the positions count in each row
Ids = Int[np.ndarray, "_ ..."]  # [T] or [T, Q], what the steps of one sample wrote
ImageCodes = Int[np.ndarray, "_ _ ..."]  # [rows, columns] or [rows, columns, Q], of any size


class VisualTokens(struct.PyTreeNode):
    """What an image becomes.

    Attributes:
        codes: int32 [batch, images, n] (or [..., n, Q] for depth-Q codes), or None.
        features: float [batch, images, n, C], or None.
        grid: (rows, columns) of the codes of one image, or None.
    """

    codes: jax.Array | None = None
    features: jax.Array | None = None
    grid: tuple[int, int] | None = struct.field(pytree_node=False, default=None)

    @property
    def coded(self) -> Int[Array, "..."]:
        """The codes of pictures whose view gives some.

        Raises:
            ValueError: if it gives none.
        """
        if self.codes is None:
            raise ValueError("pictures were read by views that give no codes")
        return self.codes


@dataclasses.dataclass(frozen=True)
class Phase:
    """A sub-step: a subset of the parameters, and the loss whose gradient moves them.

    Attributes:
        name: names the phase in metrics and in `config.optimizers`.
        trains: regexes, searched in parameter paths such as ``lm/head/kernel``; must lie within `Stage.trainable`.
        loss: ``(params, state, batch, key, carry) -> (loss, aux, state, carry)``. The loss is a sum over the
            micro-batch divided by ``batch['totals'][name]``, so that the micro-batches' losses add up to the step's.
        settle: runs after the phase's update, for what moves parameters without a gradient (restarts of codes):
            ``(params, state, key, carry) -> (params, state)``, every array of the carry with a leading axis of
            micro-batches; None where there is nothing of the kind.
        evaluate: what validation computes in the place of `loss`, where training moves what it reads (codebooks);
            None: `loss` itself.
    """

    name: str
    trains: tuple[str, ...]
    loss: Loss
    settle: Settle | None = None
    evaluate: Loss | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage of a system.

    Attributes:
        spec: the static shape of its rows.
        init: ``key -> (params, state)``.
        layout: host side, one example to one row: ``(example, rng) -> row``; raises `BadExample`.
        counts: the loss normalisers of a (micro-)batch by name. The step adds them over all micro-batches of the
            global batch and hands the sums to the losses as ``batch['totals']``.
        phases: run in order inside one jitted step.
        splittable: whether accumulation may split the batch (False where the loss couples examples).
        measure: host side, the positions of an example's row but for those that `RowSpec.added` counts; only the
            number of its pictures may be looked at. None where batches by length are not offered.
        float32: regexes of parameters that no phase trains and that stay float32 all the same (codebooks); other
            frozen ones are kept in the compute dtype.
    """

    spec: RowSpec
    init: Callable[[jax.Array], tuple[Params, State]]
    layout: Callable[[Example, np.random.Generator], ExampleRow]
    counts: Callable[[Batch], Mapping[str, jax.Array]]
    phases: tuple[Phase, ...]
    splittable: bool = True
    measure: Callable[[Example], int] | None = None
    float32: tuple[str, ...] = ()

    @property
    def trainable(self) -> tuple[str, ...]:
        """Regexes of everything that some phase trains; the rest is frozen."""
        return tuple(dict.fromkeys(pattern for phase in self.phases for pattern in phase.trains))


class Start(NamedTuple):
    """How a part begins from weights that are not its own: a model with other tables, or of another size.

    Attributes:
        artefacts: the weight rules that the weights are read by.
        abstract: the parts that are read, nested `jax.ShapeDtypeStruct`.
        make: ``(key, read, loaded) -> parameters`` of the part, from what was read and the run's parts loaded before.
    """

    artefacts: Mapping[str, Any]
    abstract: Params
    make: Callable[[jax.Array, Params, Params], Params]


class Emission(NamedTuple):
    """What one decode step yields for each of R rows.

    Attributes:
        codes: int32 [R, P], the ids written at the P positions.
        embeds: float [R, P, D], what the language model reads for them.
        done: bool [R], rows that have ended; what they emit from now on is dropped.
        restart: bool [R], rows whose context starts anew with this emission (an unconditional row when its
            image begins): their cache length is set to 0 before `embeds` are read.
        count: int32 [R], how many of the P positions a row reads; None is all. The others are as if not there.
    """

    codes: jax.Array
    embeds: jax.Array
    done: jax.Array
    restart: jax.Array
    count: jax.Array | None = None


@runtime_checkable
class System(Protocol):
    """A unified tokenizer with its language model. Pure functions of parameters, except the host-side ones.

    Decoding works on R rows: the batch's B rows, followed, under guidance, by their B unconditional rows.

    Attributes:
        stages: by name, a function from the stage's options (a mapping) to the stage.
        artefacts: by name (``unitoken``, ``vqgan``, ...), the weight rules of a published checkpoint.
        sharding: (regex, trailing axes) rules for every parameter path of the system.
        codebook_size: how many values a visual code takes.
    """

    stages: Mapping[str, Callable[[Mapping[str, Any]], Stage]]
    artefacts: Mapping[str, Any]
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...]
    codebook_size: int

    def encode_image(self, params: Params, pixels: Mapping[str, jax.Array]) -> VisualTokens:
        """Reads pictures, ``{view: float [batch, images, H, W, 3] in [-1, 1]}``."""

    def decode_image(self, params: Params, codes: Int[Array, "batch *grid"]) -> Float[Array, "batch H W 3"]:
        """Pictures in [-1, 1] from codes [batch, rows, columns] (or [..., Q])."""

    def to_uint8(self, pictures: Any) -> UInt8[np.ndarray, "*n H W 3"]:
        """Host side: pictures in [-1, 1] as bytes, rounded as the system's release does it."""

    def views(self, image: Picture, rng: np.random.Generator | None = None) -> dict[str, list[Picture]]:
        """Host side: the pictures, by view, that an image is read as; random crops only with `rng`."""

    def prompt(self, example: Example) -> ExampleRow:
        """Host side: the row up to where the model writes the last assistant turn."""

    def unconditional(self, example: Example) -> ExampleRow:
        """Host side: the row that guidance compares `prompt(example)` with."""

    def embed(self, params: Params, batch: Batch) -> Embeds:
        """What the language model reads for a batch, [R, S, D]."""

    def new_cache(self, rows: int, length: int) -> Any:
        """An empty KV cache for `rows` rows of at most `length` positions; has `lengths` int32 [R]."""

    def advance(
        self, params: Params, embeds: Embeds, cache: Any, valid: Valid, blocks: Blocks = None
    ) -> tuple[Embeds, Any]:
        """Reads S more positions into the cache, of which `valid` [R] count (the rest is right padding).

        A prompt's `blocks` are its row's, as in training.

        Returns the hidden states, [R, S, D], and the cache with `lengths + valid`.
        """

    def decode_init(self, params: Params, batch: Batch, decoding: Decoding) -> Any:
        """The state of a decode that starts after `batch`'s rows: any pytree."""

    def decode_step(
        self, params: Params, hidden: Hidden, state: Any, decoding: Decoding, keys: Keys
    ) -> tuple[Emission, Any]:
        """Draws the next positions from the last hidden states; `keys` [B], one a sample.

        The hidden states are [R, D]; where a step yields P > 1 positions, those of the last P, [R, P, D].
        """

    def read(self, ids: Ids) -> tuple[str, list[ImageCodes]]:
        """Host side: decoded ids as text and the codes, [rows, columns] (or [..., Q]), of each finished image in them.

        The text has `IMAGE` where an image stands among the words; a system whose images follow them may leave it out.

        A system may have ``forming(ids) -> codes | None`` besides: those of an image under way, filled up, so that it
        can be shown while it is drawn.
        """


@runtime_checkable
class HasCodebooks(Protocol):
    """A system whose codes come from several codebooks, or at several scales."""

    def codebooks(self, codes: Int[np.ndarray, "N n _"]) -> dict[str, tuple[Int[np.ndarray, "N n _"], int]]:
        """Host side: the codes of each, one column a depth, and how many entries it has."""


@runtime_checkable
class HasDetokenizers(Protocol):
    """A system that draws its codes in several ways, or at several sizes."""

    def with_detokenizer(
        self, name: str | None, resolution: int | None, scale: int | None = None, guidance: float | None = None
    ) -> System:
        """The same model drawing in another way; None leaves a choice as it is."""


@runtime_checkable
class DrawsClasses(Protocol):
    """A system with a class-conditional model besides, of which its `config.generator` tells."""

    config: Any

    def draw_classes(self, params: Params, labels: Int[Array, "N"], keys: Keys) -> Float[Array, "N H W 3"]:
        """Pictures in [-1, 1] of classes; `keys` [N]. Its solver's settings are arguments of its own."""


@runtime_checkable
class JudgesDrawings(Protocol):
    """A system that says of its own drawings whether they show what they were to show."""

    @property
    def yes_no(self) -> tuple[int, int]:
        """The first ids of the answers yes and no."""

    def reflection(self, caption: str, codes: Int[np.ndarray, "rows columns"]) -> ExampleRow:
        """Host side: the row that asks whether a picture of these codes shows what the caption says."""

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs one part on its own parameters."""


def available() -> tuple[str, ...]:
    """Names of the systems: the folders beside this file."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(systems.__path__) if m.ispkg))


def build(name: str, model: Mapping[str, Any]) -> System:
    """Builds a system from its name and its `config.model`.

    Raises:
        UserError: for an unknown system or a key that its settings do not have.
    """
    if name not in available():
        raise UserError(f"config.system: no system {name!r}.{near(name, available())}")
    return importlib.import_module(f"unitok_jax.systems.{name}").build(model)


def without_files(name: str, model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same `config.model`, with stand-ins for text files that are not there, so that shapes alone can be planned.

    A system whose `build` needs such files has a function of this name.
    """
    function = getattr(importlib.import_module(f"unitok_jax.systems.{name}"), "without_files", None)
    return model if function is None else function(model)


def build_stage(system: System, name: str, options: Mapping[str, Any]) -> Stage:
    """Builds stage `name` of `system` from `config.stage_options`.

    Raises:
        UserError: for an unknown stage or option.
    """
    if name not in system.stages:
        raise UserError(f"config.stage: no stage {name!r}.{near(name, system.stages)}")
    return system.stages[name](options)
