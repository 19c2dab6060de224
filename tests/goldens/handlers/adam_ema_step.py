"""WeTok's Adam with a moving average of the parameters."""

import jax
import jax.numpy as jnp
import optax
from harness import flat

from unitok_jax.training.optimizers import Group, Optimizer, OptimizerSettings, moving_average
from unitok_jax.training.schedules import ScheduleSettings, build_schedule
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transfer import export_tree, import_tree
from unitok_jax.weights.transforms import LINEAR

TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


def check(case):
    given = case.config
    x, y = jnp.asarray(case.input("x")), jnp.asarray(case.input("y"))
    layers = sorted({int(key.split(".")[0]) for key in tuple(case.weights().keys())})
    table = Table(
        tuple(
            rule
            for i in layers
            for rule in (Rule(f"{i}.weight", f"net/l{i}/kernel", LINEAR), Rule(f"{i}.bias", f"net/l{i}/bias"))
        )
    )
    source = case.weights()
    shapes = {
        f"l{i}": {
            "kernel": jax.ShapeDtypeStruct(source.shape(f"{i}.weight")[::-1], jnp.float32),
            "bias": jax.ShapeDtypeStruct(source.shape(f"{i}.bias"), jnp.float32),
        }
        for i in layers
    }
    params = jax.tree.map(jnp.asarray, import_tree(table, source, {"net": shapes}))
    settings = OptimizerSettings(given["lr"], tuple(given["betas"]), given["eps"])
    optimizer = Optimizer(
        "adam", settings, build_schedule(ScheduleSettings(), given["steps"]), dict.fromkeys(flat(params), Group(""))
    )

    def loss(params):
        hidden = x
        for i in layers:
            hidden = hidden @ params["net"][f"l{i}"]["kernel"] + params["net"][f"l{i}"]["bias"]
            hidden = hidden if i == layers[-1] else jax.nn.relu(hidden)
        return jnp.mean(jnp.square(hidden - y))

    state, average = optimizer.init(params), params
    for step in range(given["steps"]):
        value, gradients = jax.value_and_grad(loss)(params)
        case.compare(f"loss.{step}", value, **TOLERANCE)
        updates, state = optimizer.update(gradients, state, params, jnp.int32(step))
        params = optax.apply_updates(params, updates)
        average = moving_average(average, params, given["ema_decay"])
    for prefix, tree, rename in (("after.", params, str), ("ema.", average, lambda key: key.replace(".", ""))):
        ours = export_tree(table, tree)
        for key in tuple(ours.keys()):
            case.compare(prefix + rename(key), ours.read(key), **TOLERANCE)
