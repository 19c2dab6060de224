"""CAME, against its paper's formulas written out for single matrices, and within the train step's optimizer."""

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax.training.came import CameSettings, scale_by_came
from unitok_jax.training.optimizers import Group, Optimizer, OptimizerSettings
from unitok_jax.training.schedules import build_schedule

RNG = np.random.default_rng(0)
SETTINGS = CameSettings()


def by_hand(gradients):
    """The direction of one matrix after several gradients, in float64."""
    b1, b2, b3 = SETTINGS.betas
    mean, rows, columns, unsure_rows, unsure_columns = 0, 0, 0, 0, 0
    for g in np.asarray(gradients, np.float64):
        squares = g**2 + SETTINGS.eps[0]
        rows, columns = b2 * rows + (1 - b2) * squares.mean(1), b2 * columns + (1 - b2) * squares.mean(0)
        step = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        step /= max(1, np.sqrt((step**2).mean()) / SETTINGS.clip)
        mean = b1 * mean + (1 - b1) * step
        unsure = (step - mean) ** 2 + SETTINGS.eps[1]
        unsure_rows = b3 * unsure_rows + (1 - b3) * unsure.mean(1)
        unsure_columns = b3 * unsure_columns + (1 - b3) * unsure.mean(0)
        direction = mean / np.sqrt(np.outer(unsure_rows, unsure_columns) / unsure_rows.mean())
    return direction


def directions(params, steps):
    transform = scale_by_came(SETTINGS)
    state = transform.init(params)
    for grads in steps:
        found, state = transform.update(grads, state)
    return found


def test_a_matrix():
    steps = RNG.normal(size=(3, 4, 6)).astype(np.float32)
    found = directions({"kernel": jnp.zeros((4, 6))}, [{"kernel": jnp.asarray(g)} for g in steps])
    np.testing.assert_allclose(found["kernel"], by_hand(steps), rtol=1e-4)


def test_a_layer_of_a_stack_is_scaled_as_a_parameter_of_its_own():
    steps = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32) * np.array([1, 10, 100])[:, None, None]
    layers = [jnp.asarray(g, jnp.float32) for g in steps]
    params = {"span_0_3": {"kernel": jnp.zeros((3, 4, 6)), "bias": jnp.zeros((3, 6))}}
    stacked = directions(params, [{"span_0_3": {"kernel": g, "bias": g[:, 0]}} for g in layers])["span_0_3"]
    alone = directions({"bias": jnp.zeros(6)}, [{"bias": jnp.asarray(g[1, 0], jnp.float32)} for g in steps])
    for layer in range(3):
        np.testing.assert_allclose(stacked["kernel"][layer], by_hand(steps[:, layer]), rtol=1e-3)
    np.testing.assert_allclose(stacked["bias"][1], alone["bias"], rtol=1e-5)


def test_the_optimizer_takes_it():
    settings = OptimizerSettings(lr=0.1, came=CameSettings())
    optimizer = Optimizer("p", settings, build_schedule(settings.schedule, 1), {"kernel": Group(match="")})
    params, grads = {"kernel": jnp.ones((2, 3))}, {"kernel": jnp.full((2, 3), 2.0)}
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params, jnp.int32(0))
    assert (updates["kernel"] < 0).all()
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))
