"""Tar's autoregressive de-tokenizer: teacher forcing, gradients, and cached greedy drawing under guidance."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import tar_parts
from harness import Mutation, drop

from unitok_jax.backbones.ar_image import ARImage
from unitok_jax.backbones.ar_image_rules import ar_image_table
from unitok_jax.sampling import filters
from unitok_jax.sampling.settings import GREEDY
from unitok_jax.systems.tar import ar_detokenizer
from unitok_jax.systems.tar.ar_detokenizer import ARDrawing, draw_codes
from unitok_jax.systems.tar.stage_ar import code_loss

FORWARD = {"rtol": 1e-4}


def check(case):
    config = case.settings(tar_parts.ar_config(case.config["model_args"], case.config["norm_eps"]))
    params = tar_parts.load_ar(case, config)
    model = ARImage(config)
    condition = jnp.asarray(case.input("cond"))
    tokens = jnp.asarray(case.input("tokens"), jnp.int32)
    short = jnp.asarray(case.input("cond_short"))
    _inside(case, model, params, condition, tokens)
    logits = jax.jit(lambda c: model.apply({"params": params}, c, tokens, method="everything"))
    case.compare("logits", logits(condition), rtol=tar_parts.DEEP)
    case.compare("logits_null", logits(jnp.zeros_like(condition)), rtol=tar_parts.DEEP)
    case.compare("logits_short", logits(short), rtol=tar_parts.DEEP)
    _learning(case, model, params, condition, tokens)
    for name in case.matching("greedy_.*"):
        _drawing(case, config, params, name.removeprefix("greedy_"), condition, short)
    _filters(case)


def _inside(case, model, params, condition, tokens):
    see = {"capture_intermediates": True, "mutable": "intermediates"}
    _, seen = jax.jit(lambda p: model.apply({"params": p}, condition, tokens, **see))(params)
    seen = seen["intermediates"]
    (states, _), _ = seen["layers"][f"span_0_{model.config.layers}"]["__call__"][0]
    case.compare("cond_proj", seen["condition"]["__call__"][0], **FORWARD)
    case.compare("hidden_layer0", states[0], **FORWARD)
    case.compare("hidden_last", states[-1], **FORWARD)


def _learning(case, model, params, condition, tokens):
    weights = jnp.asarray(case.input("valid"))

    def mean(params, valid):
        nll, _ = code_loss(model, params, condition, tokens)
        return (nll * valid[:, None]).sum() / jnp.maximum(valid.sum() * tokens.shape[1], 1)

    every = jnp.ones_like(weights)
    loss, gradients = jax.jit(jax.value_and_grad(mean))(params, every)
    case.compare("loss", loss, **FORWARD)
    case.compare("loss_valid", jax.jit(mean)(params, weights), **FORWARD)
    table = ar_image_table(model.config)
    case.compare_gradients(table, gradients, norms="gradnorm/", full="grad/", rtol=tar_parts.GRADIENTS)
    case.compare("grad_total_norm", tar_parts.global_norm(gradients), rtol=tar_parts.GRADIENTS)
    settings = {"lr": 4e-4, "betas": (0.9, 0.95), "eps": 1e-8, "decay": 0.05, "clip": 1.0}  # the README's
    moved = tar_parts.adamw(params, gradients, **settings)
    tar_parts.compare_optimized(case, table, moved, rtol=0.0, atol=4e-6)


def _drawing(case, config, params, name, condition, short):
    given = short if name == "short" else condition
    scale, interval = _guidance(case, name, config, params, given)
    how = ARDrawing(GREEDY, scale, None if interval < 0 else interval + 1)
    keys = jax.random.split(jax.random.key(0), len(given))
    codes, logits = jax.jit(functools.partial(draw_codes, config, drawing=how))(params, given, keys)
    case.compare(f"greedy_{name}", codes)
    case.compare(f"guided_logits_{name}", logits, rtol=tar_parts.DEEP)


def _guidance(case, name, config, params, given):
    """(scale, interval) that a greedy sequence was drawn with.

    The README tells them; where it does not, the scale is the one that makes the first guided logits out of the
    model's own two, and the later steps show whether it was that.
    """
    text = (case.folder / "README.md").read_text()
    row = re.search(rf"^\| `greedy_{name}` .*cfg_scale=([\d.]+), cfg_interval=(-?\d+)", text, re.MULTILINE)
    if row:
        return float(row.group(1)), int(row.group(2))
    model = ARImage(config)
    any_codes = jnp.zeros((len(given), config.tokens), jnp.int32)
    c, u = (
        np.asarray(model.apply({"params": params}, x, any_codes, method="everything"))[:, 0]
        for x in (given, jnp.zeros_like(given))
    )
    guided = case.expected(f"guided_logits_{name}")[:, 0]
    return round(float(((guided - u) * (c - u)).sum() / ((c - u) ** 2).sum()), 3), -1


def _filters(case):
    text = (case.folder / "README.md").read_text()
    for name in case.matching("filter_.*_probs"):
        row = re.search(rf"`{name}`.*temperature=([\d.]+), top_k=(\d+), top_p=([\d.]+)", text)
        temperature, top_k, top_p = float(row.group(1)), int(row.group(2)), float(row.group(3))
        logits = jnp.asarray(case.input(name.replace("_probs", "_in"))) / temperature
        kept = filters.keep_top_p(filters.keep_top_k(logits, top_k), top_p)
        case.compare(name, np.asarray(jax.nn.softmax(kept)), **FORWARD)


def _swapped(x, n, *axis, split=jnp.split):
    """Guidance's two halves of a batch the other way round; halves along an axis (the rotation's) as they are."""
    return split(x, n, *axis) if axis else split(x, n)[::-1]


MUTATIONS = {
    "ar_dtok": (
        Mutation("eps x 10", config=lambda c: dataclasses.replace(c, norm_eps=10 * c.norm_eps)),
        Mutation("no bias of the condition", params=drop("condition/bias")),
        Mutation("no positions", params=drop("positions")),
        Mutation(
            "guidance the other way",
            patch=(ar_detokenizer.jnp, "split", _swapped),
        ),
    )
}
