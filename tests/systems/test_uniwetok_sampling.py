"""Pictures of classes: in one program, each from its own seed, as PNG folders and npz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.cli import sample_classes
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems import base

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


def test_a_picture_depends_on_its_own_seed(run):
    draw = jax.jit(lambda labels, keys: run.system.draw_classes(run.params, labels, keys, 2, 2.0))
    both = draw(jnp.array([0, 1]), sample_keys(jnp.array([5, 6])))
    swapped = draw(jnp.array([1, 0]), sample_keys(jnp.array([6, 5])))
    assert both.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(both, swapped[::-1], rtol=1e-4, atol=1e-5)


def test_folders_and_npz(run, tmp_path, monkeypatch):
    config = type("Config", (), {"system": "uniwetok", "model": MODEL})
    monkeypatch.setattr(sample_classes, "load_pipeline", lambda workdir, mesh: (run, config))
    words = ["--workdir", "x", "--out", str(tmp_path), "--per-class", "3", "--batch", "2", "--steps", "2"]
    assert sample_classes.main(words) == 0
    assert len(list(tmp_path.glob("*/*.png"))) == 6
    pictures = np.load(tmp_path / "samples.npz")["arr_0"]
    assert pictures.shape == (6, 8, 8, 3) and pictures.dtype == np.uint8
    assert sample_classes.main([*words[:-4], "--batch", "0"]) == 2


def test_a_model_without_generator_is_told():
    system = base.build("uniwetok", {"image_size": 8, "vae": MODEL["vae"]})
    with pytest.raises(UserError, match="only stage c2i"):
        system.draw_classes({}, jnp.zeros(1, jnp.int32), sample_keys(jnp.zeros(1, jnp.int32)))
