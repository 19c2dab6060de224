"""`config.data`: which sources feed a run, for what tasks, in what proportion."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unitok_jax.data import sources
from unitok_jax.data.tasks import TASKS
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config, near

ORDERS = ("shuffled", "grouped", "clustered")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """How a run's examples are read.

    Attributes:
        train: sources, each ``{kind, task, weight, prompts, fields, ...the kind's own options}``; see `Entry`.
        order: ``shuffled``, sources mixed by weight; ``grouped``, as UniToken's release draws: every batch of one
            group, each source drawn by its ratio; ``clustered``, the same with batches of similar length.
        index: a folder that keeps records' lengths between runs (order ``clustered``); None finds them at each start.
        validation: lists of sources by the set's name.
        workers: processes that read, decode and lay out; 0 does it in the calling process.
        prefetch: batches made ahead by a thread (or by each worker); 0 makes each when asked for.
        codes: pictures of the stage's `code_view` come as precomputed codes.
        max_bad_share: the share of bad examples, once 100 were read, above which the run stops.
    """

    train: tuple[Any, ...] = ()
    order: str = "shuffled"
    index: str | None = None
    validation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workers: int = 0
    prefetch: int = 2
    codes: bool = False
    max_bad_share: float = 0.1

    def __post_init__(self):
        if self.order not in ORDERS:
            raise UserError(f"config.data.order: no order {self.order!r}.{near(self.order, ORDERS)}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One source in a mixture.

    Attributes:
        kind: of source, see `unitok_jax.data.sources`.
        task: a name of `unitok_jax.data.tasks.TASKS`.
        weight: its share of the mixture, relative to the other entries' weights; validation sets ignore it.
        prompts: templates that replace the task's own.
        ratio: the share of its records that an epoch draws (orders ``grouped`` and ``clustered``).
        group: which sources share batches (the same orders).
        length: the field with a record's recorded length (order ``clustered``); where a record has none, the stage
            measures it.
        fields: the task's field names -> the source's, such as ``{"caption": "text_en"}``.
        options: what the kind of source takes.
    """

    kind: str
    task: str
    weight: float = 1.0
    prompts: tuple[str, ...] = ()
    ratio: float = 1.0
    group: str = "default"
    length: str = "len"
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_entry(values: Mapping[str, Any], where: str) -> Entry:
    """Splits an entry of a config's list into what the mixture and what the source needs.

    Raises:
        UserError: for an unknown key, kind or task, or a weight that is not positive.
    """
    own = [field.name for field in dataclasses.fields(Entry) if field.name != "options"]
    for key in ("kind", "task"):
        if key not in values:
            raise UserError(f"{where}.{key}: missing; every source needs a kind and a task")
    known = [*own, *sources.option_names(values["kind"], where)]
    for key in values:
        if key not in known:
            raise UserError(f"{where}.{key}: no such key.{near(key, known)}")
    options = {key: value for key, value in values.items() if key not in own}
    entry = from_config(Entry, {**{k: values[k] for k in values if k in own}, "options": options}, where)
    if entry.task not in TASKS:
        raise UserError(f"{where}.task: no task {entry.task!r}.{near(entry.task, TASKS)}")
    if not 0 < entry.ratio <= 1:
        raise UserError(f"{where}.ratio: expected a share above 0 and up to 1, got {entry.ratio}")
    if entry.weight <= 0:
        raise UserError(f"{where}.weight: expected a positive number, got {entry.weight}; remove the source instead")
    return entry
