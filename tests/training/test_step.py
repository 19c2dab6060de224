"""The train step against gradients written out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_toy as toy

from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import AXES, build_mesh, check_batch, check_context
from unitok_jax.training.config import read_config
from unitok_jax.training.setup import Setup, prepare

BATCH = {
    "tokens": np.array([[1, 2, 0, 4], [5, 0, 1, 3], [2, 2, 7, 1], [0, 3, 1, 8]], np.int32),
    "loss_weights": np.array([[0.0], [1.0], [1.0], [1.0]], np.float32),
    "segments": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], np.int32),
    "filled": {"photo": np.array([[True, True], [True, False], [False, False], [False, False]])},
}


def setup(**changes) -> Setup:
    recipe = toy.config(**changes)
    recipe["data"]["batch_size"] = 4
    return prepare(read_config(recipe)[0])


def game(**changes) -> Setup:
    return setup(stage="game", fresh=["maker", "critic"], optimizer={"lr": 0.1}, **changes)


def run(made: Setup, batches, state=None):
    step, state = made.train_step(), state or made.first_state()
    for batch in batches:
        state, aux = step(state, jax.tree.map(jnp.asarray, batch))
    return state, {name: metric.compute() for name, metric in aux.items()}


def close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def test_a_step_is_the_gradient_step():
    made = setup()
    first = made.first_state()
    fixed, kernel = np.asarray(first.params["fixed"]["kernel"]), np.zeros((8, 2))
    x, weight = BATCH["tokens"].astype(float), BATCH["loss_weights"][:, 0]
    errors = (x @ fixed @ kernel).sum(-1) - x @ toy.WEIGHTS
    grad = (2 * errors * weight)[:, None] * (x @ fixed) / weight.sum()
    grad = {"kernel": np.repeat(grad.sum(0)[:, None], 2, 1), "bias": np.full(2, (2 * errors * weight).sum() / 3)}
    expected_norm = np.sqrt(sum((g**2).sum() for g in grad.values()))

    state, row = run(made, [BATCH], first)
    adam = {name: -0.05 * np.sign(g) for name, g in grad.items()}  # the first step of Adam
    close({n: state.params["net"][n] for n in adam}, adam, 1e-4)
    close(row["loss/fit"], (errors**2 * weight).sum() / 3)
    close(row["grad_norm/fit"], expected_norm)
    assert (row["tokens"], row["images"], row["lr/fit"], int(state.step)) == (10, 3, np.float32(0.05), 1)


@pytest.mark.parametrize("make", [setup, game])
def test_the_result_does_not_depend_on_the_split(make):
    whole, whole_row = run(make(), [BATCH] * 2)
    halves, halves_row = run(make(accumulate=2), [BATCH] * 2)
    quarters, quarters_row = run(make(accumulate=4), [BATCH] * 2)
    for other, row in ((halves, halves_row), (quarters, quarters_row)):
        close(whole.params, other.params)
        close(whole.state, other.state)
        close(whole_row, row, 1e-4)


def test_phases_run_in_order_on_their_own_parameters():
    """The critic learns from what the maker made before it moved; the maker's gradient is of the old critic."""
    x = BATCH["tokens"].astype(np.float32)
    maker, critic = jnp.eye(4), jnp.ones((4, 1))
    adam = optax.adam(0.1)

    def made(kernel):
        return (0.1 * (x @ kernel - x - 1) ** 2 - x @ kernel @ critic).sum() / 4

    def judged(kernel):
        return ((x @ maker @ kernel) ** 2 + (x @ kernel - 1) ** 2).sum() / 4

    maker_update, _ = adam.update(jax.grad(made)(maker), adam.init(maker))
    critic_update, _ = adam.update(jax.grad(judged)(critic), adam.init(critic))
    state, row = run(game(optimizers={"judge": {"lr": 0.1}}), [BATCH])
    close(state.params["maker"]["kernel"], maker + maker_update)
    close(state.params["critic"]["kernel"], critic + critic_update)
    close(row["loss/judge"], judged(critic))
    close(state.state["mean"], x.mean(0))
    assert sorted(state.opt_state) == ["judge", "make"]


def test_frozen_parameters_stay_in_the_compute_dtype_and_have_no_optimizer_state():
    made = setup(compute_dtype="bfloat16")
    first = made.first_state()
    before = np.asarray(first.params["fixed"]["kernel"], np.float32)
    state, _ = run(made, [BATCH], first)
    assert state.params["fixed"]["kernel"].dtype == jnp.bfloat16
    assert state.params["net"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(state.params["fixed"]["kernel"], np.float32), before)
    assert {leaf.size for leaf in jax.tree.leaves(state.opt_state)} == {16, 2, 1}


def test_some_frozen_parameters_stay_float32():
    first = setup(compute_dtype="bfloat16", model={"exact": True}).first_state()
    assert first.params["fixed"]["kernel"].dtype == jnp.float32


def test_validation_may_have_a_loss_of_its_own():
    made = setup(model={"judged": True})
    with jax.set_mesh(made.mesh):
        aux = made.eval_step()(made.first_state(), BATCH)
    assert float(aux["loss/fit"].compute()) == 7


def test_validation_weighs_batches_by_what_they_hold():
    """The last batch of a set is filled with padding: its mean counts for the one row that it has."""
    made = setup()
    state, step = made.first_state(), made.eval_step()
    nothing = np.zeros((4, 1), np.float32)
    last = BATCH | {"tokens": BATCH["tokens"][::-1].copy(), "loss_weights": np.eye(4, 1, dtype=np.float32)}
    with jax.set_mesh(made.mesh):
        losses = [step(state, batch)["loss/fit"] for batch in (BATCH, last, BATCH | {"loss_weights": nothing})]
    rows = np.concatenate([BATCH["tokens"][1:], BATCH["tokens"][3:]]).astype(float)
    close(losses[0].merge(losses[1]).merge(losses[2]).compute(), ((rows @ toy.WEIGHTS) ** 2).mean())


def test_moving_average():
    made = setup(ema={"decay": 0.9})
    state, _ = run(made, [BATCH])
    start = {"kernel": np.zeros((8, 2)), "bias": np.zeros(2), "scale": np.ones(())}
    close(state.ema["net"], jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, start, state.params["net"]))
    assert list(state.ema) == ["net"]


def test_a_step_that_is_not_finite_changes_nothing_but_counters():
    bad = BATCH | {"tokens": np.full((4, 4), 50, np.int32)}
    made = setup(model={"bad_from": 40}, ema={"decay": 0.9})
    good, _ = run(made, [BATCH])
    kept = jax.tree.map(np.asarray, good)
    state, row = run(made, [bad, bad], good)
    assert (int(state.step), int(state.skipped)) == (3, 2)
    close(state.replace(step=kept.step, skipped=kept.skipped), kept, 0)
    assert (row["skipped/fit"], row["skipped_in_a_row"]) == (1, 2)
    state, row = run(made, [BATCH], state)
    assert (int(state.skipped), row["skipped/fit"]) == (0, 0)
    assert np.isfinite(row["loss/fit"])


def test_noise_depends_on_seed_and_step_alone():
    noisy = {"model": {"noise": 1.0}}
    _, one = run(setup(**noisy), [BATCH])
    _, same = run(setup(**noisy), [BATCH])
    _, other = run(setup(seed=1, **noisy), [BATCH])
    _, later = run(setup(**noisy), [BATCH], setup(**noisy).first_state().replace(step=jnp.int32(5)))
    assert one["loss/fit"] == same["loss/fit"]
    assert len({float(r["error"]) for r in (one, other, later)}) == 3


def test_a_coupled_loss_cannot_be_split(monkeypatch):
    made = setup(accumulate=2)
    monkeypatch.setitem(vars(made), "stage", dataclasses.replace(made.stage, splittable=False))
    with pytest.raises(UserError, match=r"config.accumulate: 2"):
        made.train_step()


def test_batch_size_must_divide():
    with pytest.raises(UserError, match=r"10 rows do not divide into 4 micro-batches.*nearest: 8"):
        check_batch(10, build_mesh(), accumulate=4)


def test_pictures_alone_have_no_context_to_cut():
    def mesh(*sizes):
        return jax.sharding.AbstractMesh(sizes, AXES)

    with pytest.raises(UserError, match=r"context: 2, but .* data=1, tensor=2, fsdp=4, context=1"):
        check_context(0, mesh(1, 2, 2, 2))
    check_context(64, mesh(1, 2, 2, 2))
    for fine in ((2, 2, 2, 1), (1, 4, 1, 2), (1, 1, 2, 4)):
        check_context(0, mesh(*fine))


def test_metrics_of_one_name_are_refused(monkeypatch):
    made = setup()
    (phase,) = made.stage.phases

    def loss(*args):
        value, aux, state, carry = phase.loss(*args)
        return value, aux | {"loss/fit": aux["error"]}, state, carry

    phases = (dataclasses.replace(phase, loss=loss),)
    monkeypatch.setitem(vars(made), "stage", dataclasses.replace(made.stage, phases=phases))
    with pytest.raises(ValueError, match="same name"):
        run(made, [BATCH])
