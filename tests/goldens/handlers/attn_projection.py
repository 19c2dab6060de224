"""DualToken's attention projections, down and up, with their gradients."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, swap

from unitok_jax.backbones import attn_projection
from unitok_jax.backbones.attn_projection import AttnProjection, ProjectionConfig
from unitok_jax.backbones.attn_projection_rules import attn_projection_table
from unitok_jax.weights.transfer import export_tree

TOLERANCE = 2e-5  # the README's


def check(case):
    for name, said in case.config["cases"].items():
        check_one(case, name, said)


def config_of(said):
    """``in 12 out 48 heads 4 causal``, with more words behind it."""
    features, out, heads = (int(re.search(rf"{word} (\d+)", said)[1]) for word in ("in", "out", "heads"))
    return ProjectionConfig(features, out, heads, causal=bool(re.search(r"(?<!non)(?<!not )causal", said)))


def check_one(case, name, said):
    config = case.settings(config_of(said))
    module, table = AttnProjection(config), attn_projection_table()
    x, cotangent = (jnp.asarray(case.input(f"{name}.{what}")) for what in ("x", "cotangent"))
    abstract = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = case.params(table, abstract, f"{name}.")

    @jax.jit
    def run(params, x):
        y, pull = jax.vjp(lambda params, x: module.apply({"params": params}, x), params, x)
        return y, pull(cotangent)

    y, (gradients, grad_x) = run(params, x)
    case.compare(f"{name}.y", y, TOLERANCE)
    case.compare(f"{name}.grad_x", grad_x, TOLERANCE)
    theirs = export_tree(table, gradients)
    norms = [np.linalg.norm(np.asarray(theirs.read(key), np.float64)) for key in case.config["grad_norm_names"]]
    case.compare(f"{name}.grad_norms", norms, TOLERANCE)


def _changed(**fields):
    return lambda config: dataclasses.replace(config, **fields)


MUTATIONS = {
    "attn_projection": (
        Mutation("all causal", config=_changed(causal=True)),
        Mutation("none causal", config=_changed(causal=False)),
        Mutation("swapped norms", params=swap("norm1/", "norm3/")),
        Mutation("no query bias", params=drop("attention/q/bias")),
        Mutation("eps x 10", patch=(attn_projection, "EPS", 1e-4)),
        Mutation("erf gelu", patch=(attn_projection.nn, "gelu", lambda x: jax.nn.gelu(x, approximate=False))),
    ),
}
