"""Unified visual tokenizers and their multimodal language models in JAX.

`load` is the door for Python; everything else is imported from the folder that it lies in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unitok_jax.inference.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    place: str, *others: str, system: str | None = None, revision: str | None = None, variant: str = "auto"
) -> Pipeline:
    """A model to use: ``.caption .ask .generate .edit .reconstruct .encode .decode``, as the commands of these names.

    Args:
        place: a run's workdir or an imported folder; or a published checkpoint, as a file, a folder or a hub id
            (``owner/name``, ``owner/name@revision``, ``owner/name@revision:file``).
        others: further published checkpoints, where several make up the model.
        system: whose checkpoints they are; a run says so itself.
        revision: branch, tag or commit of the hub ids that name none. What a branch points at is looked up, and that
            one commit is read. A published checkpoint is imported once and kept below ``$HF_HOME/unitok_jax``.
        variant: see ``unitok import --help``.

    Returns:
        The model of the last complete step, on this process's devices.

    Raises:
        unitok_jax.errors.UserError: if there is no model there, or it is another system's.
    """
    from unitok_jax.conversion import loading  # only now, so that the package itself is imported in no time

    return loading.load(place, *others, system=system, revision=revision, variant=variant)
