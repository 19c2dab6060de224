"""Opens a checkpoint, whatever kind of file or folder it is."""

from pathlib import Path

from unitok_jax.errors import UserError
from unitok_jax.weights.moving_average import with_averages
from unitok_jax.weights.orbax_folder import OrbaxFolder
from unitok_jax.weights.safetensors_files import SafetensorsFile, SafetensorsFolder
from unitok_jax.weights.source import Source
from unitok_jax.weights.torch_files import TorchFile

TORCH = (".pt", ".pth", ".ckpt", ".bin")


def open_source(path: str | Path) -> Source:
    """Opens a safetensors file or folder, a torch file or the folder of one, or an Orbax folder of parameters.

    A training checkpoint that holds moving averages gives those, see `moving_average`.

    Raises:
        UserError: for a path that is none of these, or is broken.
    """
    return with_averages(open_stored(path))


def open_stored(path: str | Path) -> Source:
    """`open_source`, with every tensor under the name that it is stored by."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return _open_folder(path)
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _open_folder(folder: Path) -> Source:
    if SafetensorsFolder.found(folder):
        return SafetensorsFolder(folder)
    if OrbaxFolder.found(folder):
        return OrbaxFolder(folder)
    torch = sorted(file for file in folder.iterdir() if file.suffix in TORCH)
    if len(torch) != 1:
        expected = f"expected *.safetensors, an Orbax checkpoint, or one file of {' '.join(TORCH)}"
        raise UserError(f"{folder}: no checkpoint found; {expected}")
    return TorchFile(torch[0])
