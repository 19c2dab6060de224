"""TA-Tok's losses with forced codes, their gradients, and one step of AdamW."""

import re

import jax
import jax.numpy as jnp
import tar_parts
from flax.traverse_util import flatten_dict, unflatten_dict
from harness import Mutation

from unitok_jax.backbones.siglip import SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.quantizers import nearest
from unitok_jax.systems.tar import stage_ta_tok
from unitok_jax.systems.tar.ta_tok import teacher_features
from unitok_jax.systems.tar.weights import ta_tok_table
from unitok_jax.weights.transfer import export_tree

FORWARD = {"rtol": 1e-4}


def check(case):
    config = case.settings(tar_parts.ta_tok_config(case.config))
    model, params = tar_parts.load_ta_tok(case, config)
    images = tar_parts.pictures(case)
    scale = int(case.input("pool_scale"))
    target = _target(case, config, images, scale)
    codes = jnp.asarray(case.input("forced_indices"), jnp.int32)
    weights = case.config["loss"]

    def total(params):
        features = model.apply({"params": params}, images, method="features")
        found, quantized, decoded = stage_ta_tok.losses(model, params, features, target, scale, codes=codes)
        means = {name: value.mean() for name, value in found.items()}
        code = weights["commitment_loss_weight"] * means["commitment"]
        code += weights["codebook_loss_weight"] * means["codebook"]
        loss = weights["rec_weight"] * means["reconstruction"] + weights["q_weight"] * code
        return loss, {"q": code, **means, "sad": decoded, "z": quantized.source, "rows": quantized.rows}

    (loss, seen), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    names = {
        "sad": "sad", "z": "z", "q": "rows", "loss_rec": "reconstruction", "loss_commit": "commitment",
        "loss_codebook": "codebook", "loss_q": "q",
    }  # fmt: skip
    for name, ours in names.items():
        case.compare(name, seen[ours], **FORWARD)
    case.compare("loss_total", loss, **FORWARD)
    _learning(case, model, params, gradients)


def _target(case, config, images, scale):
    tower = SiglipVision(config.tower)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), images)["params"])
    held, case.mutation = case.mutation, None
    params = case.params(siglip_table(config.tower), shapes, "teacher.")
    case.mutation = held
    target = jax.jit(lambda p, x: teacher_features(tower, p, x, config.layers_read, scale))(params, images)
    case.compare("teacher_target", target, **FORWARD)
    return target


def _learning(case, model, params, gradients):
    table = ta_tok_table(model.config)
    case.compare_gradients(table, gradients, norms="gradnorm/", full="grad/", rtol=tar_parts.GRADIENTS)
    flat = {
        path: leaf
        for path, leaf in flatten_dict(gradients, sep="/").items()
        if any(re.search(pattern, "ta_tok/" + path) for pattern in stage_ta_tok.TRAINED)
    }
    case.compare("grad_total_norm", tar_parts.global_norm(flat), rtol=tar_parts.GRADIENTS)
    kept = unflatten_dict({path: flatten_dict(params, sep="/")[path] for path in flat}, sep="/")
    given = case.config["optimizer"]
    moved = tar_parts.adamw(
        kept, unflatten_dict(flat, sep="/"), lr=given["lr"], betas=given["betas"], eps=given["eps"],
        decay=given["weight_decay"], clip=given["clip"],
    )  # fmt: skip
    merged = {**flatten_dict(params, sep="/"), **flatten_dict(moved, sep="/")}
    # "Except where |grad| is tiny" (README): Adam's first step divides a gradient by itself.
    before = flatten_dict(gradients, sep="/")
    ours, slopes = (export_tree(table, unflatten_dict(leaves, sep="/")) for leaves in (merged, before))
    for name in case.matching("adamw/.*"):
        key = name.removeprefix("adamw/")
        clear = abs(slopes.read(key)) > 1e-6
        case.compare(name, ours.read(key), rtol=0.0, atol=2e-6, where=clear)


MUTATIONS = {
    "ta_tok_train_step": (
        Mutation("losses exchanged", patch=(nearest, "commitment_loss", nearest.codebook_loss)),
        Mutation("plain vectors", patch=(stage_ta_tok, "unit_length", lambda x: x)),
    )
}
