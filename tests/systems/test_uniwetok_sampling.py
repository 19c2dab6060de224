"""Pictures of classes: in one program, each from its own seed, as PNG folders and npz."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.cli import sample_classes
from unitok_jax.data.example import Example
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems import base
from unitok_jax.systems.uniwetok.images import center_crop

MODEL = {
    "image_size": 8,
    "vae": dict(
        kind="conv", channels=8, multipliers=(1, 1), res_blocks=1, z_channels=8, bit_groups=1, attn_blocks=0
    ),
    "generator": dict(
        width=16, layers=1, heads=2, channels=8, grid=(4, 4), classes=2, class_tokens=2,
        head=dict(kind="mlp", width=16, depth=1, modulations=1),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """In the place of a trained run."""
    system = base.build("uniwetok", MODEL)
    return Pipeline(system, jax.jit(lambda: system.init(jax.random.key(0), ("generator", "vae")))())


@pytest.mark.slow
def test_a_picture_depends_on_its_own_seed(run):
    draw = jax.jit(lambda labels, keys: run.system.draw_classes(run.params, labels, keys, 2, 2.0))
    both = draw(jnp.array([0, 1]), sample_keys(jnp.array([5, 6])))
    swapped = draw(jnp.array([1, 0]), sample_keys(jnp.array([6, 5])))
    assert both.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(both, swapped[::-1], rtol=1e-4, atol=1e-5)


def test_crops_follow_the_epoch_and_give_way_to_central_ones(run):
    stage = base.build_stage(run.system, "c2i", {"crop_fade": (2, 4)})
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    middle = center_crop(picture, 8)

    def view(epoch, number, rng):
        example = Example("one", (), (picture,), label=0, drawn=(epoch, number))
        return stage.layout(example, np.random.default_rng(rng)).views["image"][0]

    def central(epoch):
        seen = [view(epoch, number, 0) for number in range(8)]
        return sum(any(np.array_equal(one, side) for side in (middle, middle[:, ::-1])) for one in seen)

    assert central(0) < 3 < 8 == central(4) and central(0) <= central(3)
    np.testing.assert_array_equal(view(0, 5, 0), view(0, 5, 1))  # of epoch and number alone
    assert not np.array_equal(view(0, 5, 0), view(1, 5, 0))


def test_folders_and_npz(run, tmp_path, monkeypatch, capsys):
    config = type("Config", (), {"system": "uniwetok", "stage": "c2i"})
    monkeypatch.setattr(sample_classes, "load_run", lambda workdir, mesh: (run, config))
    monkeypatch.setattr(sample_classes, "find_step", lambda workdir: "step 1")
    words = ["--workdir", "x", "--out", str(tmp_path), "--per-class", "3", "--batch", "2", "--steps", "2"]
    assert sample_classes.main(words) == 0
    assert len(list(tmp_path.glob("*/*.png"))) == 6
    pictures = np.load(tmp_path / "samples.npz")["arr_0"]
    assert pictures.shape == (6, 8, 8, 3) and pictures.dtype == np.uint8
    assert sample_classes.main(words) == 0  # goes on where nothing is left to do
    for change, message in (
        (["--guidance", "2"], "drawn with guidance = 4.6, not 2.0; take another --out"),
        (["--batch", "0"], "expected 1 or more"),
        (["--steps", "0"], "--steps: expected 1 or more"),
        (["--guidance", "nan"], "--guidance nan: expected a number"),
        (["--classes", "3"], "the model has 2, got 3"),
    ):
        assert sample_classes.main([*words, *change]) == 2
        assert message in capsys.readouterr().err


def test_a_run_of_another_stage_is_told(run, monkeypatch, capsys):
    other = types.SimpleNamespace(system=run.system, params={"vae": run.params["vae"]})
    config = type("Config", (), {"system": "uniwetok", "stage": "tokenizer"})
    monkeypatch.setattr(sample_classes, "load_run", lambda workdir, mesh: (other, config))
    assert sample_classes.main(["--workdir", "x", "--out", "y"]) == 2
    assert "stage tokenizer, which has no class-conditional model" in capsys.readouterr().err


def test_a_model_without_generator_is_told():
    system = base.build("uniwetok", {"image_size": 8, "vae": MODEL["vae"]})
    with pytest.raises(UserError, match="only stage c2i"):
        system.draw_classes({}, jnp.zeros(1, jnp.int32), sample_keys(jnp.zeros(1, jnp.int32)))
