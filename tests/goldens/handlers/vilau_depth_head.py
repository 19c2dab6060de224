"""VILA-U's depth transformer: logits, loss, gradients, guided drawing, and its sampler's filters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, swap

from unitok_jax.backbones.depth_head import DepthHead, DepthHeadConfig, init_depth_head
from unitok_jax.backbones.depth_head_rules import vilau_table
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.filters import keep_top_k, keep_top_p
from unitok_jax.sampling.settings import GREEDY, Decoding
from unitok_jax.systems.dualtoken.drawing import draw_codes
from unitok_jax.weights.rules import Table
from unitok_jax.weights.transfer import export_tree

TOLERANCE = 2e-5  # the README's


def check(case):
    config = case.settings(config_of(case.config))
    table = vilau_table(config)
    ignoring = Table(table.rules, {r"codebook\.weight": "the tokenizer's codebook, an input of this case"})
    params = case.params(ignoring, jax.eval_shape(lambda: init_depth_head(config, jax.random.key(0))))
    book = jnp.asarray(case.weights().read("codebook.weight"))
    check_training(case, config, table, params, book)
    check_drawing(case, config, params, book)
    check_sampler(case)


def config_of(given):
    return DepthHeadConfig(
        hidden=given["input_embed_dim_2"],
        width=given["embed_dim"],
        layers=given["n_layer"],
        heads=given["n_head"],
        depth=given["block_size"][-1],
        codes=given["vocab_size"],
        code_features=given["input_embed_dim_1"],
        project_hidden=True,
        code_bias=True,
        one_classifier=True,
    )


def check_training(case, config, table, params, book):
    head, codes = DepthHead(config), jnp.asarray(case.input("code"), jnp.int32).reshape(-1, config.depth)
    hidden = jnp.asarray(case.input("hidden"))

    def loss(params, hidden):
        states = head.apply({"params": params}, hidden.reshape(-1, config.hidden), book[codes])
        logits = head.apply({"params": params}, states, method="logits")
        scored = head.apply({"params": params}, states, codes, jnp.ones(len(codes)), chunk=7, method="score")
        return scored.nll.mean(), logits

    (value, logits), (gradients, grad_hidden) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, hidden)
    case.compare("logits", logits.reshape(case.expected("logits").shape), TOLERANCE)
    case.compare("loss", value, TOLERANCE)
    case.compare("grad_hidden", grad_hidden, TOLERANCE)
    theirs = export_tree(table, gradients)
    norms = [np.linalg.norm(np.asarray(theirs.read(key), np.float64)) for key in case.config["names"]]
    case.compare("grad_norms", norms, TOLERANCE)


def check_drawing(case, config, params, book):
    hidden = jnp.asarray(case.input("gen_hidden"))[:, 0]
    decoding = Decoding(image=GREEDY, guidance=case.config["cfg"])
    keys = sample_keys(np.arange(len(hidden) // 2))
    codes, sums, guided = draw_codes(config, params, hidden, lambda depth, ids: book[ids], decoding, keys)
    both = jnp.concatenate([codes, codes])[:, None]
    case.compare("gen_codes", both)
    case.compare("gen_features", jnp.concatenate([sums, sums])[:, None], TOLERANCE)
    case.compare("gen_guided_logits", guided.swapaxes(0, 1), TOLERANCE)


def check_sampler(case):
    logits = jnp.asarray(case.input("sampler_logits"))
    for name in case.matching(r"sampler_(?!logits).*"):
        k, p = (re.search(rf"{word}([\d.]+)", name) for word in ("topk", "topp"))
        kept = keep_top_k(logits, int(k[1]) if k else 0)
        if not p:
            case.compare(name, jnp.where(jnp.isfinite(kept), kept, -1e30), TOLERANCE)
            continue
        kept = keep_top_p(kept, float(p[1]))
        case.compare(name, jax.nn.softmax(kept), TOLERANCE)


MUTATIONS = {
    "vilau_depth_head": (
        Mutation("swapped norms", params=swap("norm1", "norm2")),
        Mutation("no key bias in the first projection", params=drop("code_proj/bias")),
        Mutation("no positions", params=drop("positions")),
        Mutation("no classifier bias", params=drop("classifiers/span_0_1/bias")),
    ),
}
