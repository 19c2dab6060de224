"""Random inputs through a part of ours and through the torch class that loads it: what `unitok verify` compares.

Torch and diffusers are no dependency of the package and are imported by name, when asked for.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.containers import open_stored
from unitok_jax.weights.torch_files import BARE, ENTRIES

Apply = Callable[..., Any]  # (part, *arguments, method=...) -> what our module gives with the export's parameters
Pair = tuple[str, np.ndarray, np.ndarray]  # what is compared, ours, theirs
MASKED = -1e30  # transformers' Chameleon puts the least float in the place of the logits of image codes


def library(name: str) -> Any:
    """A module of the extra ``parity``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"unitok verify needs {name}: pip install 'unitok-jax[parity]'") from None


def load(kind: str, folder: Path, absent: str | None = None) -> Any:
    """The torch model of an exported folder, in float32.

    Args:
        kind: the class.
        folder: with its files.
        absent: the prefix of what the folder does not hold and the class makes up.

    Raises:
        UserError: if the class leaves a tensor of the file over, or waits for one that is not there.
    """
    torch = library("torch")
    if kind in DIFFUSERS:
        model, told = getattr(library("diffusers"), kind).from_pretrained(
            folder, output_loading_info=True, torch_dtype=torch.float32
        )
    else:
        model, told = getattr(library("transformers"), kind).from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
    if absent:
        told["missing_keys"] = [key for key in told["missing_keys"] if not key.startswith(absent)]
    wrong = [f"{what}: {sorted(map(str, keys))[0]}" for what, keys in told.items() if keys]
    if wrong:
        raise UserError(f"{folder}: {kind} does not load it whole ({'; '.join(wrong)})")
    return model.eval()


def decoder(apply: Apply, model: Any, rng: np.random.Generator) -> Iterator[Pair]:
    """Logits of random ids."""
    ids = rng.integers(0, model.config.get_text_config().vocab_size, (2, 16))
    theirs = model(_tensor(ids)).logits.numpy()
    ours = apply("lm", ids, method="predict")[..., : theirs.shape[-1]]
    seen = theirs > MASKED
    yield "logits", np.where(seen, ours, 0), np.where(seen, theirs, 0)


def chameleon(apply: Apply, model: Any, rng: np.random.Generator) -> Iterator[Pair]:
    """Logits of random ids; latents and codes of random pictures."""
    yield from decoder(apply, model, rng)
    vae = model.model.vqmodel
    images = _pictures(rng, model.config.vq_config.resolution)
    latents, _ = apply("vqgan", images, method="encode")
    theirs = vae.quant_conv(vae.encoder(_nchw(images)))
    yield "vqgan latents", latents, _nhwc(theirs)
    codes = apply("vqgan", latents, method="quantize").codes
    yield "vqgan codes", codes, vae.quantize(theirs)[2].reshape(codes.shape).numpy()


def siglip(apply: Apply, model: Any, rng: np.random.Generator) -> Iterator[Pair]:
    """Features of random pictures, the pooled one where the tower has a head, and those of ids if it reads texts."""
    tower = getattr(model, "vision_model", model)
    images = _pictures(rng, tower.config.image_size)
    hidden, aux = apply("vit", images)
    theirs = tower(_nchw(images))
    yield "features", hidden, theirs.last_hidden_state.numpy()
    if theirs.pooler_output is not None:
        yield "pooled", aux["pooled"], theirs.pooler_output.numpy()
    if hasattr(model, "text_model"):
        sizes = model.text_model.config
        ids = rng.integers(0, sizes.vocab_size, (2, sizes.max_position_embeddings))
        texts, _ = apply("text", ids)
        yield "text features", texts, model.text_model(_tensor(ids)).pooler_output.numpy()


def sana(apply: Apply, model: Any, rng: np.random.Generator) -> Iterator[Pair]:
    """What is predicted of random latents at random times under a random condition."""
    latents = rng.normal(size=(2, 8, 8, model.config.in_channels)).astype(np.float32)
    condition = rng.normal(size=(2, 5, model.config.caption_channels)).astype(np.float32)
    times = rng.uniform(0, 1000, 2).astype(np.float32)
    ours, _ = apply("sana", latents, condition, times)
    yield "prediction", ours, _nhwc(model(_nchw(latents), _tensor(condition), _tensor(times)).sample)


def autoencoder(apply: Apply, model: Any, rng: np.random.Generator) -> Iterator[Pair]:
    """Latents of random pictures, and pictures of these."""
    images = _pictures(rng, 2 ** len(model.config.encoder_block_out_channels) * 2)
    latents = apply("vae", images, method="encode")
    theirs = model.encode(_nchw(images)).latent
    yield "latents", latents, _nhwc(theirs)
    yield "pictures", apply("vae", latents, method="decode"), _nhwc(model.decode(theirs).sample)


CHAMELEON = "ChameleonForConditionalGeneration"
DIFFUSERS = ("SanaTransformer2DModel", "AutoencoderDC")
PROBES: dict[str, Callable[[Apply, Any, np.random.Generator], Iterator[Pair]]] = {
    CHAMELEON: chameleon,
    "Qwen2ForCausalLM": decoder,
    "Qwen3ForCausalLM": decoder,
    "SiglipVisionModel": siglip,
    "SiglipModel": siglip,
    "SanaTransformer2DModel": sana,
    "AutoencoderDC": autoencoder,
}
"""By the class that an artefact's ``config.json`` names."""


def compare(kind: str, folder: Path, apply: Apply, parts: Sequence[str], seed: int) -> Iterator[tuple[str, float]]:
    """What is compared, and the largest difference as a share of the largest value of the torch model.

    Args:
        kind, folder: see `load`.
        apply: our side.
        parts: that the folder holds; Chameleon's may lack the encoder of pictures.
        seed: of the inputs.
    """
    bare = kind == CHAMELEON and "vqgan" not in parts
    model = load(kind, folder, absent="model.vqmodel." if bare else None)
    probe = decoder if bare else PROBES[kind]
    with library("torch").no_grad(), jax.default_matmul_precision("highest"):
        for name, ours, theirs in probe(apply, model, np.random.default_rng(seed)):
            yield name, float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())


def tensors(path: Path) -> float:
    """How far the tensors of a file or folder are from what torch reads there, as `compare` tells it: none, or broken.

    Raises:
        UserError: if torch finds other tensors.
    """
    ours, theirs = open_stored(path), _read_by_torch(path)
    names = set(ours.keys())
    if names != set(theirs):
        raise UserError(f"{path}: torch reads other tensors than we do, such as {min(names ^ set(theirs))}")
    worst = largest = 0.0
    for name, tensor in theirs.items():
        wanted = tensor.double().numpy()
        if ours.shape(name) != wanted.shape:
            raise UserError(f"{path}: {name} has the shape {wanted.shape} in torch and {ours.shape(name)} here")
        # `np.maximum` keeps a NaN, which Python's `max` may drop.
        worst = np.maximum(worst, np.abs(ours.read(name).astype(np.float64) - wanted).max(initial=0))
        largest = np.maximum(largest, np.abs(wanted).max(initial=0))
    return float(worst / largest) if worst != 0 else 0.0


def _read_by_torch(path: Path) -> dict[str, Any]:
    """Torch's tensors by name, those of nested dictionaries joined by dots, without the entry that they all lie in."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if files and files[0].suffix == ".safetensors":
        load = library("safetensors.torch").load_file
        return {name: tensor for file in files for name, tensor in load(file).items()}
    content = library("torch").load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and not any(map(library("torch").is_tensor, content.values())):
        content = next(content[name] for name in ENTRIES if name in content)
    return dict(_flat(content))


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif library("torch").is_tensor(content):
        yield name or BARE, content


def _pictures(rng: np.random.Generator, side: int) -> np.ndarray:
    return rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)


def _tensor(array: np.ndarray) -> Any:
    return library("torch").tensor(array)


def _nchw(array: np.ndarray) -> Any:
    return _tensor(np.moveaxis(array, -1, 1))


def _nhwc(tensor: Any) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)
