"""The suites over any source of pictures: their figures, what a killed run goes on from, and what they refuse."""

import contextlib
import functools
import json
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from unitok_jax.backbones import lpips
from unitok_jax.backbones.lpips_rules import lpips_table
from unitok_jax.errors import UserError
from unitok_jax.evaluation import reconstruction
from unitok_jax.evaluation.suites import suite
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.systems.base import VisualTokens
from unitok_jax.weights.torch_writer import save_torch
from unitok_jax.weights.transfer import export_tree

CONFIG = {"system": "toy", "seed": 0, "config hash": "0123456789ab", "step": "run/checkpoints/1"}


class Coder:
    """Gives every picture back 5 values brighter; one codebook uses one entry, the other all of its four."""

    def __init__(self):
        self.settings, self.params, self.calls = InferenceSettings(batch_size=4), {"a": {"b": np.arange(3.0)}}, 0

    def encode(self, images, *, codes_alone):
        assert codes_alone
        self.calls += 1
        self._images = np.stack(images)
        return VisualTokens(
            codes=np.stack([np.full((len(images), 1, 4), 7), np.arange(4) + np.zeros((len(images), 1, 4), int)], -1)
        )

    def alike(self, images):
        shapes = [image.shape for image in images]
        return [[i for i, shape in enumerate(shapes) if shape == one] for one in dict.fromkeys(shapes)]

    def decode_tokens(self, tokens):
        return np.clip(self._images.astype(int) + 5, 0, 255).astype(np.uint8)

    def seen(self, images):
        return np.stack(images)

    def codebooks(self, tokens):
        return {"pix": (tokens.codes[:, 0, :, :1], 8), "sem": (tokens.codes[:, 0, :, 1:], 4)}


def measure(name, pipeline, out, **options):
    figures = suite(name)(pipeline, {**CONFIG, "options": options}, out)
    return figures, json.loads((out / "result.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """Ten grey pictures, one broken."""
    (tmp_path / "pictures").mkdir()
    for level in range(10):
        Image.fromarray(np.full((20, 20, 3), 20 * level, np.uint8)).save(tmp_path / "pictures" / f"{level}.png")
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    return {"kind": "folder", "path": str(tmp_path / "pictures")}


def test_reconstructions_are_measured_and_told(folder, tmp_path):
    figures, result = measure("reconstruction", Coder(), tmp_path / "out", source=folder)
    assert figures["pictures"] == 9
    assert figures["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=0.01)
    assert (figures["pix_usage"], figures["sem_usage"]) == (1 / 8, 1)
    assert (figures["pix_perplexity"], figures["sem_perplexity"]) == (pytest.approx(1), pytest.approx(4))
    assert figures["sem_kl_to_uniform"] == pytest.approx(0, abs=1e-9) and figures["pix_entropy_bits_a_picture"] == 0
    made_by = result["made_by"]
    assert result["figures"] == figures and made_by["source"] == folder and made_by["resolution"] == [20, 20]
    assert {"checkpoint hash", "config hash", "seed", "limit", "jax", "step"} <= set(made_by)
    other = Coder()
    other.params["a"]["b"] = np.arange(3.0) + 1
    assert (
        measure("reconstruction", other, tmp_path / "out", source=folder)[1]["made_by"]["checkpoint hash"]
        != made_by["checkpoint hash"]
    )


def test_pictures_of_several_shapes_are_measured_each_at_its_own(folder, tmp_path):
    for name in ("2.png", "8.png"):
        Image.fromarray(np.full((20, 28, 3), 60, np.uint8)).save(tmp_path / "pictures" / name)
    figures, result = measure("reconstruction", Coder(), tmp_path / "out", source=folder)
    assert figures["pictures"] == 9
    assert figures["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=0.01)
    assert figures["sem_perplexity"] == pytest.approx(4)
    assert result["made_by"]["resolution"] == {"20x20": 7, "20x28": 2}


def test_a_killed_run_goes_on_with_the_parts_that_it_lacks(folder, tmp_path):
    whole, _ = measure("reconstruction", Coder(), tmp_path / "whole", source=folder)
    pipeline, encode = Coder(), Coder.encode
    pipeline.encode = lambda images, **how: encode(pipeline, images, **how) if pipeline.calls < 2 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        measure("reconstruction", pipeline, tmp_path / "out", source=folder)
    again = Coder()
    assert measure("reconstruction", again, tmp_path / "out", source=folder)[0] == whole
    assert again.calls == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]


def test_a_limit_draws_by_the_seed(folder, tmp_path):
    levels = [
        measure("reconstruction", Coder(), tmp_path / "out", source=folder, limit=4, seed=seed)[1]["made_by"]
        for seed in (0, 1)
    ]
    assert [made["seed"] for made in levels] == [0, 1]
    chosen = [reconstruction.ReconstructionSettings(folder, 4, seed).opened()[1].tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 4


def test_rfid_is_clean_fids_or_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanfid.fid", None)
    with pytest.raises(UserError, match=r"--fid: needs the package clean-fid; pip install 'unitok-jax\[eval\]'"):
        measure("reconstruction", Coder(), tmp_path / "out", source=folder, fid=True)

    def compute_fid(first, second, *, mode, **how):
        assert mode == "clean"
        means = [
            np.mean([np.asarray(Image.open(p)) for p in sorted((tmp_path / "out" / d).glob("*.jpg"))])
            for d in ("original", "reconstructed")
        ]
        assert first.endswith("original") and second.endswith("reconstructed")
        return means[1] - means[0]

    monkeypatch.setitem(sys.modules, "cleanfid", types.ModuleType("cleanfid"))
    monkeypatch.setitem(sys.modules, "cleanfid.fid", types.SimpleNamespace(compute_fid=compute_fid))
    version = reconstruction.metadata.version
    monkeypatch.setattr(
        reconstruction.metadata, "version", lambda name: "0.1" if name == "clean-fid" else version(name)
    )
    figures, result = measure("reconstruction", Coder(), tmp_path / "out", source=folder, fid=True)
    assert figures["rfid"] == pytest.approx(5, abs=0.5)
    assert result["made_by"]["rfid by"] == "clean-fid 0.1, mode clean, JPEG of quality 95"


@pytest.mark.slow
def test_lpips_comes_from_its_files(folder, tmp_path, monkeypatch):
    small = functools.partial(lpips.init_lpips, widths=(4, 4, 8, 8, 8))
    monkeypatch.setattr(reconstruction, "init_lpips", small)
    params = small(jax.random.key(1))
    save_torch(export_tree(lpips_table(), params), tmp_path / "lpips.pth", None)
    figures, _ = measure(
        "reconstruction", Coder(), tmp_path / "out", source=folder, lpips=[str(tmp_path / "lpips.pth")]
    )
    pictures = [np.full((1, 20, 20, 3), 20 * n, np.float32) for n in range(10) if n != 3]
    wanted = np.mean([lpips.lpips(params, (p + 5) / 127.5 - 1, p / 127.5 - 1) for p in pictures])
    assert figures["lpips"] == pytest.approx(wanted, rel=1e-3)


class Towers:
    """A picture's feature is its label; a text's, the number in it, and wrong for every seventh."""

    def __init__(self, wrong=10):
        self.settings, self.params = InferenceSettings(batch_size=64), {"a": np.zeros(2)}
        self.on_mesh, self.place = contextlib.nullcontext, lambda batch: batch
        self.system = types.SimpleNamespace(
            config=types.SimpleNamespace(text=True),
            tower_picture=lambda image: image[:2, :2],
            pooled=lambda params, pictures: jax.nn.one_hot(
                ((pictures[:, 0, 0, 0] + 1) * 127.5 / 20).round().astype(int), 10
            ),
            text_tokens=lambda texts: np.array([[int(text.split()[-1])] for text in texts], np.int32),
            pooled_text=lambda params, tokens: jax.nn.one_hot((tokens[:, 0] + (tokens[:, 0] >= wrong)) % 10, 10),
        )


@pytest.fixture
def labelled(tmp_path):
    for level in range(10):
        (tmp_path / "classes" / f"c{level}").mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 20 * level, np.uint8)).save(tmp_path / "classes" / f"c{level}" / "x.png")
    names = {"classnames": [f"number {n}" for n in range(10)], "templates": ["a {c}", "the {c}"]}
    (tmp_path / "names.json").write_text(json.dumps(names))
    return {"kind": "folder", "path": str(tmp_path / "classes")}


@pytest.mark.parametrize(("wrong", "top1"), [(10, 1.0), (8, 0.8)])
def test_classes_are_told_by_their_names(labelled, tmp_path, wrong, top1):
    options = {"source": labelled, "classes": str(tmp_path / "names.json")}
    figures, result = measure("zeroshot", Towers(wrong), tmp_path / "out", **options)
    assert figures["zero_shot_top1"] == pytest.approx(top1) and figures["pictures"] == 10
    assert result["made_by"]["classes"] == options["classes"]


def test_pictures_are_found_by_their_captions(labelled, tmp_path):
    rows = [{"image": f"c{n}/x.png", "caption": [f"is {n}", f"shows {n}"]} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "images": labelled["path"]}
    figures, _ = measure("zeroshot", Towers(8), tmp_path / "out", source=source)
    assert figures["text_to_image_r1"] == pytest.approx(0.8) and figures["image_to_text_r1"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("label", "message"),
    [("n01440764", "expected a whole number"), (None, "1 pictures have no label, such as number 0")],
)
def test_a_label_that_is_none_is_told(labelled, tmp_path, label, message):
    rows = [{"image": f"c{n}/x.png", "caption": f"is {n}", "label": n or label} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "images": labelled["path"]}
    with pytest.raises(UserError, match=message):
        measure("zeroshot", Towers(), tmp_path / "out", source=source, classes=str(tmp_path / "names.json"))


def test_what_a_suite_cannot_do_is_one_line(labelled, tmp_path):
    for options, message in (
        ({}, "--source: missing"),
        ({"source": labelled}, "neither captions nor, with --classes, labels"),
        ({"source": labelled, "fid": True}, "fid: no such key"),
        ({"source": {"kind": "foldr"}}, "no kind of source 'foldr'"),
    ):
        with pytest.raises(UserError, match=message):
            measure("zeroshot", Towers(), tmp_path / "out", **options)
    blind = Towers()
    blind.system.config.text = None
    with pytest.raises(UserError, match="this toy has no text tower"):
        measure("zeroshot", blind, tmp_path / "out", source=labelled)
