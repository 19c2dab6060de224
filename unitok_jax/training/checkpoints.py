"""Checkpoints: one directory a step, written in the background, read onto any mesh.

``workdir/checkpoints/<step>/`` holds ``params``, ``train`` (the rest of the train state), ``data`` (the state of the
data streams) and ``config``. A directory appears under its name only when it is complete.
"""

import contextlib
import os
import re
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict

from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems.base import Params
from unitok_jax.training.partition import merge, stacked
from unitok_jax.training.state import TrainState

WHOSE = {"train": "optimizer, average or stage", "data": "batch size"}  # what an item's leaves follow from

FILE_ERRORS = re.compile(r"OS error|os_error_code|HTTP|PERMISSION_DENIED|RESOURCE_EXHAUSTED")  # in TensorStore's words


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
        workdir: a local or bucket path.
        keep: how many of the latest to keep.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        self._folder = _absolute(workdir) / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        with _writing(self._folder):
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """The last complete step."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, jax.Array], config: Mapping[str, Any]) -> None:
        """Starts to save; returns once the arrays are copied.

        Raises:
            UserError: if nothing can be written, or the save before this one failed.
        """
        rest = state.replace(params={})
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params, _a_chunk_a_layer(state.params)),
            train=ocp.args.StandardSave(rest, _a_chunk_a_layer(rest)),
            data=ocp.args.StandardSave(dict(data)),
            config=ocp.args.JsonSave(dict(config)),
        )
        with _writing(self._folder):
            self._manager.save(step, args=items)

    def restore(self, step: int, state: TrainState, data: Mapping[str, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        """Reads a step into the shapes, types and shardings of `state` and `data`, which are abstract.

        Raises:
            UserError: if the checkpoint is of another model, optimizer or batch, naming the first leaf that differs; if
                it is damaged.
        """
        folder = self._folder / str(step)
        wanted = {"params": state.params, "train": state.replace(params={}), "data": dict(data)}
        for item, tree in wanted.items():
            _check_leaves(folder / item, _shapes(folder / item), tree)
        items = ocp.args.Composite(**{item: ocp.args.StandardRestore(tree) for item, tree in wanted.items()})
        with _reading(folder):
            read = self._manager.restore(step, args=items)
        return read["train"].replace(params=read["params"]), read["data"]

    def check(self) -> None:
        """Raises UserError if a save in the background has failed."""
        with _writing(self._folder):
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the last save.

        Raises:
            UserError: if it failed.
        """
        with _writing(self._folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._manager.close()


def _a_chunk_a_layer(tree: Any) -> Any:
    """How arrays lie on the disk: a stack of layers layer by layer, so that an export holds one at a time."""

    def layout(path: jax.tree_util.KeyPath, leaf: jax.Array) -> ocp.SaveArgs:
        return ocp.SaveArgs(shard_axes=(0,) if stacked(path) and leaf.ndim else ())

    return jax.tree_util.tree_map_with_path(layout, tree)


def load_parts(path: epath.PathLike, parts: Params) -> Params:
    """Reads parts of a model, such as ``lm`` or ``vqgan``; the moving average where the run kept one.

    Args:
        path: a workdir (its last complete step), a step's directory, or an imported folder.
        parts: part -> nested dict of `jax.ShapeDtypeStruct`, whose types and shardings the result takes.

    Raises:
        UserError: if there is no checkpoint, it lacks a part, or a leaf has another shape.
    """
    folder = find_step(path)
    saved = _shapes(folder / "params")
    averaged = _shapes(folder / "train").get("ema", {}) if (folder / "train").exists() else {}
    for part in parts:
        if part not in saved:
            raise UserError(f"{folder}: has no part {part!r}.{near(part, saved)}")
    _check_leaves(folder / "params", {part: saved[part] for part in parts}, parts)
    raw = _read(folder / "params", parts)
    names = flatten_dict(averaged)
    means = {name: leaf for name, leaf in flatten_dict(parts).items() if name in names}
    if not means:
        return raw
    nested = {"ema": merge({"/".join(name): leaf for name, leaf in means.items()})}
    return merge(raw, _read(folder / "train", nested)["ema"])


def saved_types(path: epath.PathLike) -> dict[str, np.dtype]:
    """The types of a step's parameters by path, without reading them; see `find_step`."""
    leaves = flatten_dict(_shapes(find_step(path) / "params"), sep="/")
    return {name: np.dtype(leaf.dtype) for name, leaf in leaves.items()}


def _absolute(path: epath.PathLike) -> epath.Path:
    """The same place from the root: Orbax takes no relative path. A bucket's path is one already."""
    name = os.fspath(path)
    return epath.Path(name if "://" in name else os.path.abspath(name))


def find_step(path: epath.PathLike) -> epath.Path:
    """The directory of the last complete step in a workdir; a step's directory or an import's stands for itself.

    Raises:
        UserError: if there is none.
    """
    path = _absolute(path)
    if (path / "params").exists():
        return path
    folder = path / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []  # in a bucket a name alone is no sign
    if not steps:
        raise UserError(f"{path}: no checkpoint there; expected a workdir with checkpoints/, or one step's directory")
    return folder / str(max(steps))


def _read(folder: epath.Path, target: Any) -> Any:
    args = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    with _reading(folder):
        return ocp.PyTreeCheckpointHandler().restore(folder, args=args)


def _shapes(folder: epath.Path) -> dict[str, Any]:
    """What a checkpoint holds, without its arrays."""
    with _reading(folder):
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree


def _check_leaves(folder: epath.Path, saved: Any, wanted: Any) -> None:
    """Raises UserError at the first leaf, in order of path, that only one side has or whose shape differs."""
    old, new = (
        {path: list(leaf.shape) for path, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()}
        for tree in (saved, wanted)
    )
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            here, there = new.get(path, "no such leaf"), old.get(path, "no such leaf")
            what = WHOSE.get(folder.name, "model")
            raise UserError(f"{folder}: of another {what}: {path} is {there} in the checkpoint, {here} in the config")


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Generator[None]:
    """Tells in one line what Orbax raises over a checkpoint whose trees are as expected: its files are damaged."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        advice = (
            "it is damaged or was copied in part: copy it again, or delete that step's directory to use the one before"
        )
        raise UserError(f"{folder}: cannot read the checkpoint ({_reason(error)}); {advice}") from error


@contextlib.contextmanager
def _writing(folder: epath.Path) -> Generator[None]:
    """Tells in one line what the file system refuses, from whichever of Orbax's threads; bugs go on as they are."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if not _of_the_disk(error):
            raise
        advice = "free or mend the disk, then run the same command: it goes on from the last complete checkpoint"
        raise UserError(f"{folder}: cannot write the checkpoint ({_reason(error)}); {advice}") from error


def _of_the_disk(error: BaseException | None) -> bool:
    """Whether an OSError lies at the bottom, or what TensorStore tells of one or of a bucket's answer."""
    while error is not None:
        if isinstance(error, OSError) or FILE_ERRORS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
