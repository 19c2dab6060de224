"""Schedules and updates against plain numpy, groups, and the messages for mistakes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.data.rows import RowSpec
from unitok_jax.errors import UserError
from unitok_jax.systems.base import Phase, Stage
from unitok_jax.training.optimizers import build_optimizers
from unitok_jax.training.schedules import ScheduleSettings, build_schedule

PARAMS = {
    "lm": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32), "bias": np.array([1.0, 2.0], np.float32)},
    "vit": {"kernel": np.array([0.3, -0.1], np.float32)},
    "old": {"kernel": np.array([1.0], np.float32)},
}
GRADS = {"lm": {"kernel": np.array([[0.3, 0.1], [-2.0, 0.0]], np.float32), "bias": np.array([4.0, -1.0], np.float32)}}
GRADS["vit"] = {"kernel": np.array([-3.0, 0.2], np.float32)}


def stage(*trains: str) -> Stage:
    return Stage(RowSpec(0), None, None, None, (Phase("fit", trains or ("^lm/", "^vit/"), None),))


def adamw(p, grads, lr, betas, eps, decay):
    """The textbook, one number at a time."""
    p, m, v = np.float64(p), 0.0, 0.0
    for t, g in enumerate(np.float64(grads), start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        p -= lr * (m / (1 - betas[0] ** t) / (math.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * p)
    return p


@pytest.mark.parametrize("decay_all", [False, True])
def test_adamw_with_clipping_and_groups(decay_all):
    common = {"lr": 0.1, "betas": [0.9, 0.95], "weight_decay": 0.1, "decay_all": decay_all, "clip": 2.0}
    common["groups"] = [{"match": "^vit/", "lr_scale": 0.5, "weight_decay": 0.2}]
    optimizer = build_optimizers(stage(), PARAMS, common, {}, 10)["fit"]
    params = {part: PARAMS[part] for part in ("lm", "vit")}
    state = optimizer.init(params)
    for step, factor in enumerate((1.0, -0.5, 2.0)):
        grads = jax.tree.map(lambda g, f=factor: f * g, GRADS)
        updates, state = optimizer.update(grads, state, params, jnp.int32(step))
        params = jax.tree.map(jnp.add, params, updates)

    norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(GRADS)))
    clipped = [f * min(1.0, 2.0 / (abs(f) * norm)) for f in (1.0, -0.5, 2.0)]
    settings = {"lm/kernel": (0.1, 0.1), "lm/bias": (0.1, 0.1 * decay_all), "vit/kernel": (0.05, 0.2)}
    for path, (lr, decay) in settings.items():
        part, leaf = path.split("/")
        for index, start in np.ndenumerate(PARAMS[part][leaf]):
            grads = [f * GRADS[part][leaf][index] for f in clipped]
            expected = adamw(start, grads, lr, (0.9, 0.95), 1e-8, decay)
            np.testing.assert_allclose(params[part][leaf][index], expected, rtol=2e-5, err_msg=path)


def test_rates_are_told_by_group():
    common = {"lr": 0.1, "schedule": {"name": "linear"}, "groups": [{"match": "^vit/", "lr_scale": 0.5}]}
    rates = build_optimizers(stage(), PARAMS, common, {}, 10)["fit"].rates(jnp.int32(5))
    assert {name: round(float(m.compute()), 6) for name, m in rates.items()} == {"lr/fit": 0.05, "lr/fit/^vit/": 0.025}


def test_frozen_groups_are_not_trained():
    common = {"lr": 0.1, "groups": [{"match": "bias", "frozen": True}]}
    assert sorted(build_optimizers(stage(), PARAMS, common, {}, 10)["fit"].members) == ["lm/kernel", "vit/kernel"]


@pytest.mark.parametrize(
    ("common", "by_phase", "trains", "words"),
    [
        ({"lr": 1.0, "weight_deacy": 1}, {}, (), "config.optimizer.weight_deacy.*weight_decay"),
        ({}, {"fit": {"betas": [0.9, 0.9]}}, (), r"config.optimizers.fit.lr: missing"),
        ({"lr": 1.0}, {"fti": {}}, (), "no such phase. Did you mean fit"),
        ({"lr": 1.0, "groups": [{"match": "vti"}]}, {}, (), "'vti' matches none"),
        ({"lr": 1.0, "groups": [{"match": "^old/"}]}, {}, (), "'.old/' matches none"),
        ({"lr": 1.0, "groups": [{"match": ".", "frozen": True}]}, {}, (), "freeze every parameter"),
        ({"lr": 1.0}, {}, ("^lm/", "^nothing/"), "'.nothing/' matches none of 4 parameters"),
        ({"lr": 1.0, "schedule": {"name": "cosin"}}, {}, (), "schedule.name: no schedule 'cosin'.*cosine"),
        ({"lr": 1.0, "schedule": {"name": "steps", "boundaries": [3]}}, {}, (), "boundaries must rise"),
    ],
)
def test_mistakes_are_named(common, by_phase, trains, words):
    with pytest.raises(UserError, match=words):
        build_optimizers(stage(*trains), PARAMS, common, by_phase, 10)


def unitoken_rate(epoch, warmup, low):
    """`lr_sched.py` of the release, as its specification states it, for a peak of 1 and one epoch."""
    if epoch < warmup:
        return epoch / warmup
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (1 - warmup)))


def test_cosine_is_unitokens_rate_by_epoch_position():
    steps = 50
    factor = build_schedule(ScheduleSettings("cosine", warmup=0.05 * steps, floor=0.1), steps)
    for step in (0, 1, 2, 3, 10, 49, 50):
        np.testing.assert_allclose(factor(step), unitoken_rate(step / steps, 0.05, 0.1), rtol=1e-5)


def test_other_schedules():
    linear = build_schedule(ScheduleSettings("linear", warmup=2, floor=0.5), 10)
    np.testing.assert_allclose([linear(s) for s in (0, 1, 2, 6, 10, 12)], [0, 0.5, 1, 0.75, 0.5, 0.5])
    stairs = build_schedule(ScheduleSettings("steps", boundaries=(3, 6), factors=(0.1, 0.01)), 10)
    np.testing.assert_allclose([stairs(s) for s in (0, 2, 3, 5, 6, 9)], [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    assert build_schedule(ScheduleSettings(), 10)(7) == 1


def test_a_schedule_may_begin_late_and_anew():
    late = build_schedule(ScheduleSettings("linear", begin=4, period=10), 100)
    assert [float(late(step)) for step in (0, 4, 9, 14)] == pytest.approx([1, 1, 0.5, 1])
    falls = build_schedule(ScheduleSettings(cooldown=4, floor=0.2, power=2.0), 10)
    assert [float(falls(step)) for step in (5, 6, 8, 10)] == pytest.approx([1, 1, 0.4, 0.2])
