"""Runs of the VQGAN's stage: it learns and goes on after a crash, its gradient is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_vq_stage import ADVERSARY, made, recipe

from unitok_jax.backbones.discriminators import judge
from unitok_jax.quantizers import nearest
from unitok_jax.settings import from_config
from unitok_jax.systems.adversary import AdversarySettings
from unitok_jax.training.loop import train
from unitok_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow


def rows(workdir):
    """The metrics that a run must repeat to the last bit."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(workdir)]


def test_it_learns_and_goes_on_after_a_crash(tmp_path):
    whole = train(recipe(), tmp_path / "whole")
    seen = rows(tmp_path / "whole")
    assert seen[-1]["loss/l1"] < 0.8 * seen[0]["loss/l1"]
    assert seen[-1]["loss/perceptual"] < seen[0]["loss/perceptual"]
    before, after = [row for row in seen if row["step"] <= 4], [row for row in seen if row["step"] > 4]
    assert all(row["loss/discriminator"] == row["loss/adversarial"] == row["adversary/weight"] == 0 for row in before)
    assert all(row["adversary/weight"] > 0 and row["grad_norm/discriminator"] > 0 for row in after)
    assert after[-1]["loss/discriminator"] < after[0]["loss/discriminator"]
    assert after[-1]["logits/real"] > after[-1]["logits/fake"]
    assert int(whole.state["step"]) == 16
    assert {name.split("/")[0] for name in flat_names(whole.ema)} == {"vqgan", "discriminator"}

    def crash(params, step):
        if step == 10:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(recipe() | {"sample_every": 1}, tmp_path / "crashed", samples=crash)
    again = train(recipe() | {"sample_every": 1}, tmp_path / "crashed")
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert rows(tmp_path / "crashed") == seen


def flat_names(tree):
    return ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def batch(count=4):
    pixels = np.random.default_rng(0).integers(0, 255, (count, 1, 16, 16, 3))
    filled = jnp.ones((count, 1), bool).at[-1].set(False)
    return {"pixels": {"vqgan": jnp.asarray(pixels, jnp.uint8)}, "filled": {"vqgan": filled}}


def test_the_gradient_is_that_of_the_weighted_sum():
    """The generator's loss, its gradients joined at the picture, against the sum differentiated whole."""
    adversary = ADVERSARY | {"start": 0, "weight": 0.5}
    setup = made(recipe(adversary=adversary, entropy=0.0, perceptual=0.0), fresh=["vqgan", "discriminator"])
    params, state = setup.stage.init(jax.random.key(0))
    pictures = batch()["pixels"]["vqgan"][:, 0] / 127.5 - 1.0
    given = batch() | {"pixels": {"vqgan": pictures[:, None]}, "totals": {"pictures": jnp.float32(3)}}
    vae, kept = setup.system.modules["vqgan"], jnp.array([1, 1, 1, 0])
    settings = from_config(AdversarySettings, adversary, "")

    def ours(vqgan):
        return setup.stage.phases[0].loss({**params, "vqgan": vqgan}, state, given, jax.random.key(0), {})[:2]

    def parts(vqgan):
        """Reconstruction, adversary, codes."""
        written, aux = vae.apply({"params": vqgan}, pictures)
        logits, _ = judge(settings.discriminator, params["discriminator"], state["adversary"]["statistics"], written)
        codes = nearest.codebook_loss(aux["quantized"]) + 0.25 * nearest.commitment_loss(aux["quantized"])
        by_picture = (jnp.abs(written - pictures).mean((1, 2, 3)), -logits.mean((1, 2, 3)), codes.mean((1, 2)))
        return jnp.stack([(losses * kept).sum() / 3 for losses in by_picture])

    def run(vqgan):
        (loss, aux), grads = jax.value_and_grad(ours, has_aux=True)(vqgan)
        values, each = parts(vqgan), jax.jacrev(parts)(vqgan)
        norms = jnp.linalg.norm(each["decoder"]["conv_out"]["kernel"].reshape(3, -1), axis=1)
        weight = 0.5 * norms[0] / (norms[1] + 1e-4)
        factors = jnp.stack([jnp.float32(1), weight, jnp.float32(1)])
        expected = jax.tree.map(lambda rows: jnp.tensordot(factors, rows, 1), each)
        return (loss, aux["adversary/weight"].compute(), grads), ((values * factors).sum(), weight, expected)

    found, expected = jax.jit(run)(params["vqgan"])
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-4)
    worst = max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(expected[2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * worst), found[2], expected[2])
