"""The README that goes with exported weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from unitok_jax import __version__


def model_card(
    system: str,
    stage: str,
    form: str,
    step: int | None,
    artefacts: Sequence[Mapping[str, Any]],
    left: Sequence[str],
    origins: Mapping[str, str],
) -> str:
    """A model card in Hugging Face's form.

    Args:
        system, stage: what was trained.
        form: the export's format.
        step: of the run; None for weights that were imported and not trained.
        artefacts: ``folder``, ``artefact``, ``parts``, ``tensors``, ``parameters``, ``loads`` of each.
        left: what of the run is not in the files.
        origins: part -> the published checkpoint that it began from.
    """
    library = "transformers" if form == "transformers" else "pytorch"
    lines = [
        "---",
        f"library_name: {library}",
        f"tags: [{system}, unified-visual-tokenizer, multimodal]",
        "---",
        f"# {system}, stage {stage}",
        "",
        f"Exported by unitok_jax {__version__} in format `{form}`, "
        + (
            f"step {step} of a training run."
            if step is not None
            else "from imported weights, which were not trained further."
        ),
        "",
        "| folder | artefact | parts | tensors | parameters | read by |",
        "|---|---|---|---|---|---|",
    ]
    for row in artefacts:
        lines.append(
            f"| `{row['folder']}` | {row['artefact']} | {row['parts']} | {row['tensors']} | {row['parameters']:,} "
            f"| {row['loads']} |"
        )
    if left:
        lines += ["", f"Not in these files, for the format has no place for it: {', '.join(left)}."]
    if origins:
        lines += ["", "Began from:", "", *(f"- `{part}`: {origin}" for part, origin in origins.items())]
    lines += [
        "",
        "The licences of the weights that these began from apply to them too.",
        "Data, evaluation and limits are for whoever publishes them to tell here.",
    ]
    return "\n".join(lines) + "\n"
