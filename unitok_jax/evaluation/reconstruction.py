"""The reconstruction suite: pictures of any source through their codes and back, and how the codes are used."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from unitok_jax.backbones.lpips import init_lpips, lpips
from unitok_jax.backbones.lpips_rules import lpips_artefacts
from unitok_jax.errors import UserError
from unitok_jax.evaluation import files, measured, metrics
from unitok_jax.settings import from_config
from unitok_jax.weights.artefacts import load_published

Batch = UInt8[np.ndarray, "B H W 3"]
QUALITY = 95  # of the JPEG files that rFID is computed from, as DualToken's released evaluation writes them
FOLDERS = ("original", "reconstructed")


@dataclasses.dataclass(frozen=True)
class ReconstructionSettings(measured.Pictures):
    """The options of the suite, besides the pictures.

    Attributes:
        lpips: files with LPIPS's VGG-16 and linear heads, one file of both or two; without them it is not computed.
        fid: whether rFID is computed, by the package clean-fid, from JPEG files of both sides.
    """

    lpips: tuple[str, ...] = ()
    fid: bool = False


def evaluate(pipeline: Any, config: Mapping[str, Any], out: epath.PathLike) -> dict[str, float]:
    """Runs the suite and writes ``result.json``, and with `fid` the pictures of both sides.

    Pictures are compared at the size that the decoder writes, as uint8, with what the tokenizer saw of them (its own
    crop), scaled to that size (bicubic) where the two differ.

    Args:
        pipeline: an `inference.pipeline.Pipeline`.
        config: the run's; ``options`` holds `ReconstructionSettings`.
        out: a local or bucket folder.

    Returns:
        The figures by name: ``psnr`` (dB), ``ssim``, ``lpips``, ``rfid``, and of each codebook usage and perplexity, at
        each depth too where a position has several codes.

    Raises:
        UserError: for a wrong option, pictures or weights that cannot be read, or `fid` without clean-fid.
    """
    settings = from_config(ReconstructionSettings, config.get("options", {}), "--suite reconstruction")
    out = epath.Path(out)
    scorer = _scorer(out) if settings.fid else None
    source, indices = settings.opened()
    told = measured.made_by(pipeline, config, settings)
    work = functools.partial(_measure, pipeline, source, _perceived(settings.lpips), out if settings.fid else None)
    found = measured.in_parts(out, told, indices, pipeline.settings.batch_size, work)
    figures = {name: float(found[name].mean()) for name in ("psnr", "ssim", "lpips") if name in found}
    figures |= {"pictures": len(found["psnr"])} | _codebook_figures(found)
    told |= {"resolution": _sizes(found["size"])}
    if scorer is not None:
        figures["rfid"] = scorer(*(str(out / name) for name in FOLDERS))
        told["rfid by"] = f"clean-fid {metadata.version('clean-fid')}, mode clean, JPEG of quality {QUALITY}"
    measured.write_result(out, "reconstruction", figures, told)
    return figures


def _measure(
    pipeline: Any, source: Any, perceived: Callable[[Any, Any], Any] | None, out: epath.Path | None, indices: np.ndarray
) -> measured.Arrays:
    """Figures of each picture, and for each codebook a row of counts a size (``codes/<name>`` [1, depths, entries])."""
    places, _, images = measured.read(source, indices)
    found = []
    for members in pipeline.alike(images):  # a model may write pictures of several shapes
        places_of, pictures = ([values[i] for i in members] for values in (places, images))
        found.append(_measure_alike(pipeline, perceived, out, places_of, pictures))
    return {name: np.concatenate([part[name] for part in found]) for name in (found[0] if found else ())}


def _measure_alike(
    pipeline: Any, perceived: Callable[[Any, Any], Any] | None, out: epath.Path | None, places: list[int], images: Any
) -> measured.Arrays:
    """`_measure` of pictures that are seen at one size."""
    codes = pipeline.encode(images, codes_alone=True)
    back = pipeline.decode_tokens(codes)
    originals = _fitted(pipeline.seen(images), back.shape[1:3])
    ours, theirs = (pictures.astype(np.float32) / 127.5 - 1 for pictures in (back, originals))
    found = {
        "psnr": metrics.reconstruction_psnr(ours, theirs),
        "ssim": metrics.ssim(ours, theirs),
        "size": np.array([back.shape[1:3]] * len(back)),
    }
    if perceived is not None:
        found["lpips"] = np.asarray(perceived(ours, theirs))
    for name, (book, entries) in pipeline.codebooks(codes).items():
        by_depth = book.reshape(len(book), -1, book.shape[-1])
        counts = [metrics.code_histogram(by_depth[..., depth], entries) for depth in range(book.shape[-1])]
        found[f"codes/{name}"] = np.stack(counts)[None]
        found[f"entropy/{name}"] = metrics.code_entropy(by_depth.reshape(len(book), -1))
    if out is not None:
        for folder, side in zip(FOLDERS, (originals, back), strict=True):
            _write(out / folder, places, side)
    return found


def _sizes(sizes: np.ndarray) -> list[int] | dict[str, int]:
    """The size of all pictures, or how many there are of each."""
    each, counts = np.unique(sizes, axis=0, return_counts=True)
    if len(each) == 1:
        return each[0].tolist()
    return {f"{height}x{width}": int(count) for (height, width), count in zip(each, counts, strict=True)}


def _fitted(pictures: np.ndarray, size: tuple[int, int]) -> Batch:
    if pictures.shape[1:3] == size:
        return pictures
    height, width = size
    resized = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in pictures]
    return np.stack([np.asarray(one) for one in resized])


def _codebook_figures(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for key in (key for key in found if key.startswith("codes/")):
        name, counts = key.removeprefix("codes/"), found[key].sum(0)
        for label, one in [("", counts.sum(0)), *((f"_{d}", c) for d, c in enumerate(counts) if len(counts) > 1)]:
            figures[f"{name}_usage{label}"] = metrics.usage(one)
            figures[f"{name}_perplexity{label}"] = metrics.perplexity(one)
        figures[f"{name}_kl_to_uniform"] = metrics.kl_to_uniform(counts.sum(0))
        figures[f"{name}_entropy_share"] = metrics.entropy_fraction(counts.sum(0))
        figures[f"{name}_entropy_bits_a_picture"] = float(found[f"entropy/{name}"].mean())
    return figures


def _perceived(paths: tuple[str, ...]) -> Callable[[Any, Any], Any] | None:
    """LPIPS of two batches of pictures in [-1, 1], or None without its files."""
    if not paths:
        return None
    params: dict[str, Any] = {}
    for part, wanted in jax.eval_shape(init_lpips, jax.random.key(0)).items():
        errors = []
        for path in paths:
            try:
                params |= load_published(lpips_artefacts(), path, {part: wanted})
                break
            except UserError as error:
                errors.append(str(error))
        else:
            raise UserError(f"--lpips: no file gives the part {part}: {'; '.join(errors)}")
    return jax.jit(functools.partial(lpips, params))


def _write(folder: epath.Path, indices: list[int], pictures: Batch) -> None:
    for index, picture in zip(indices, pictures, strict=True):
        with files.replacing(folder / f"{index:09d}.jpg") as file:
            Image.fromarray(picture).save(file, format="JPEG", quality=QUALITY)


def _scorer(out: epath.Path) -> Callable[[str, str], float]:
    """clean-fid's distance between two folders; no other features ever stand under FID's name."""
    if "://" in str(out):
        raise UserError(f"--fid: clean-fid reads folders of this machine; give a local --out, not {out}")
    try:
        fid = importlib.import_module("cleanfid.fid")
    except ImportError:
        raise UserError("--fid: needs the package clean-fid; pip install 'unitok-jax[eval]'") from None
    return lambda ours, theirs: float(
        fid.compute_fid(ours, theirs, mode="clean", num_workers=0, device="cpu", use_dataparallel=False)
    )
