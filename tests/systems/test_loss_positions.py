"""Heads on gathered positions: the same losses and gradients as on whole rows, for less work."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.config import load_config
from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.systems import base
from unitok_jax.systems.loss_positions import find
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.training.flops import count_flops

RECIPES = Path(__file__).parents[2] / "configs"
LMS = {
    "unitoken": "unitoken/base_stage2.py:tiny",
    "tar": "tar/pretrain.py:tiny",
    "dualtoken": "dualtoken/lm.py:tiny",
    "uniwetok": "uniwetok/lm.py:tiny,P4",
}
HEADS = ("lm", "projector", "flow", "adapter", "pixel_head", "semantic_head")


def test_positions_are_found_in_order_each_row_in_its_own():
    rng = np.random.default_rng(0)
    wanted, x = rng.random((5, 20)) < 0.3, rng.random((5, 20, 3)).astype(np.float32)
    places = jax.jit(find, static_argnums=1)(wanted, 12)
    for row in range(5):
        here = np.flatnonzero(wanted[row])
        assert places.at[row, : len(here)].tolist() == here.tolist()
        assert places.used[row].tolist() == [True] * len(here) + [False] * (12 - len(here))
        assert len(set(places.at[row].tolist())) == 12
    tilt = rng.random((5, 12, 3)).astype(np.float32)
    picked, pull = jax.vjp(places.pick, jnp.asarray(x))
    expected = np.zeros_like(x)
    for row in range(5):
        np.testing.assert_array_equal(picked[row], x[row, places.at[row]])
        expected[row, places.at[row]] = tilt[row]
    np.testing.assert_array_equal(pull(tilt)[0], expected)


def rows(stage):
    """Pictures read and drawn, of codes that came with them."""
    rng = np.random.default_rng(0)
    view = stage.spec.views[stage.spec.code_view]
    for task, asked, answer in (
        (Task.GENERATION, "a red seven", IMAGE),
        (Task.UNDERSTANDING, f"{IMAGE}what?", "a seven"),
        (Task.GENERATION, "two", IMAGE),
    ):
        picture = rng.integers(0, 256, (view.height, view.width, 3), np.uint8)
        turns = Turn("user", asked), Turn("assistant", answer)
        codes = rng.integers(0, 16, view.codes)
        yield stage.layout(Example("e", turns, (picture,), task, (codes,)), rng)


def made(name, **bounds):
    """The stage, a batch of two lines and the most that one of them learns."""
    config = load_config(f"{RECIPES / LMS[name]}")
    system = base.build(config.system, config.model)
    room = dict(pack=True, images=2, condition_dropout=0.0, loss_positions=0)
    room |= {} if name in ("unitoken", "tar") else {"visual_positions": 0}
    room |= {"row_length": 128} if name == "dualtoken" else {}  # room for two of these rows
    stage = base.build_stage(system, "lm", {**config.stage_options, **room, **bounds})
    first, second, third = rows(stage)
    lines = [[first, second], [third]]
    batch = float_pixels(jax.tree.map(jnp.asarray, packing.pack(lines, stage.spec, codes=True)))
    batch["totals"] = stage.counts(batch)
    whole = dataclasses.replace(stage.spec, loss_positions=1, visual_positions=1)
    learnt = [sum((packing.needs(row, whole, True) for row in line), start=packing.Counter()) for line in lines]
    most = {key: max(one[key.replace("_", " ")] for one in learnt) for key in room if key.endswith("_positions")}
    return system, stage, batch, most


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["unitoken", "tar", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("dualtoken", "uniwetok"))],
)
def test_room_for_what_is_learnt_changes_no_loss_and_no_gradient(name):
    system, whole, batch, most = made(name)
    bounded = made(name, **most)[1]
    params = system_params(system, whole)
    assert all(0 < count < whole.spec.length // 2 for count in most.values())
    found, flops = [], []
    for stage in (whole, bounded):

        def loss(trained, stage=stage):
            value, aux, *_ = stage.phases[0].loss({**params, **trained}, {}, batch, jax.random.key(1), {})
            return value, {name: metric.compute() for name, metric in aux.items()}

        trained = {part: params[part] for part in HEADS if part in params}
        step = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(trained)
        flops.append(count_flops(step.jaxpr.jaxpr))
        found.append(step.lower().compile()(trained))
    (value, aux), gradients = found[0]
    assert flops[1] < 0.8 * flops[0]
    assert value > 0 and all(np.isfinite(x) for key, x in aux.items() if not key.endswith("text"))
    np.testing.assert_allclose(found[1][0][0], value, rtol=1e-6)
    for key in aux:
        np.testing.assert_allclose(found[1][0][1][key], aux[key], rtol=1e-5, err_msg=key)
    for path, expected in jax.tree_util.tree_leaves_with_path(gradients):
        ours = found[1][1]
        for step in path:
            ours = ours[step.key]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()) + 1e-9)


def system_params(system, stage):
    """Random parameters of everything but the encoders of pictures, which come as codes."""
    return jax.jit(lambda: stage.init(jax.random.key(0))[0])()
