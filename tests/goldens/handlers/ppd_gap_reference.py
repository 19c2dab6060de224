"""Pre-Post Distillation and the Generative-Aware Prior, against the reference of the specification."""

import jax
import jax.numpy as jnp
from harness import Mutation, nchw, nhwc
from uniwetok_models import zeroed

from unitok_jax.backbones.bitdance import BitDanceConfig, init_bitdance
from unitok_jax.backbones.bitdance_rules import bitdance_table
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.backbones.pool_heads import PoolHead, PoolHeadConfig
from unitok_jax.backbones.siglip_timm_rules import pooling_rules
from unitok_jax.quantizers import binary
from unitok_jax.systems.uniwetok.semantics import disagreement, prior_loss
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR

TOLERANCE = {"rtol": 2e-4, "atol": 1e-5}
OTHERS = {r"(pre|post|prior).*": "read apart"}


def check(case):
    features = jnp.asarray(nhwc(case.input("u_G")))
    case.compare("codes", nchw(binary.straight_through(features)))
    teacher = jnp.asarray(case.input("teacher"))
    for kind in ("attn", "linear"):
        check_distillation(case, kind, features, teacher)
    check_prior(case, features)


def check_distillation(case, kind, features, teacher):
    given = case.config
    config = PoolHeadConfig(
        kind={"attn": "attention"}.get(kind, kind),
        width=given["teacher_dim"],
        heads=given["attn_pool_heads"],
        ratio=given["attn_pool_mlp_ratio"],
    )
    head = PoolHead(config)
    shape = jax.ShapeDtypeStruct((2, 4, features.shape[-1]), jnp.float32)
    abstract = jax.eval_shape(head.init, jax.random.key(0), shape)["params"]
    name = {"attn": "head", "linear": "linear"}[kind]
    params = {side: case.params(pool_table(kind), abstract, f"{side}_{name}.") for side in ("pre", "post")}

    def loss(features):
        flat = features.reshape(len(features), -1, features.shape[-1])
        embeds = {
            "pre": head.apply({"params": params["pre"]}, flat),
            "post": head.apply({"params": params["post"]}, binary.straight_through(flat)),
        }
        parts = {side: disagreement(embed, teacher).mean() for side, embed in embeds.items()}
        return parts["pre"] + 2 * parts["post"], (embeds, parts)

    (total, (embeds, parts)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(features)
    for side in ("pre", "post"):
        case.compare(f"{kind}.{side}_embed", embeds[side], **TOLERANCE)
        case.compare(f"{kind}.{side}_distill", parts[side], **TOLERANCE)
    case.compare(f"{kind}.ppd_eta2", total, **TOLERANCE)
    case.compare(f"{kind}.grad_u_G", nchw(gradient), **TOLERANCE)


def pool_table(kind):
    if kind == "linear":
        return Table((Rule("proj.weight", "proj/kernel", LINEAR), Rule("proj.bias", "proj/bias")))
    first = (Rule("in_proj.weight", "in_proj/kernel", LINEAR), Rule("in_proj.bias", "in_proj/bias"))
    return Table((*first, Rule("pool.latent", "pool/probe"), *pooling_rules("pool.", "pool/")))


def check_prior(case, features):
    given = case.config["prior"]
    config = BitDanceConfig(
        width=given["dim"],
        layers=given["n_layer"],
        heads=given["n_head"],
        channels=features.shape[-1],
        grid=features.shape[1:3],
        classes=0,
        head=FlowHeadConfig(
            width=given["diff_dim"], depth=given["diff_layers"], modulations=given["diff_adanln_layers"]
        ),
    )
    config = case.settings(config)
    abstract = jax.eval_shape(lambda key: init_bitdance(config, key), jax.random.key(0))
    params = case.params(bitdance_table(config), abstract, "prior.")
    t, noise = jnp.asarray(case.input("gap.t")), jnp.asarray(case.input("gap.noise"))

    def loss(features, params, stop=False):
        tokens = binary.straight_through(features).reshape(len(features), -1, features.shape[-1])
        error, aux = prior_loss(config, params, tokens, t, noise, stop_target=stop)
        return error.mean(), aux

    both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, aux), (gradient, gradients) = both(features, params)
    for name, ours in {"z": "z", "cond": "condition", "x_pred": "predicted"}.items():
        case.compare(f"gap.{name}", aux[ours].reshape(case.expected(f"gap.{name}").shape), **TOLERANCE)
    case.compare("gap.loss", value, **TOLERANCE)
    case.compare("gap.grad_u_G", nchw(gradient), **TOLERANCE)
    stopped = jax.jit(jax.grad(lambda f: loss(f, params, True)[0]))(features)
    case.compare("gap.grad_u_G_target_stopgrad", nchw(stopped), **TOLERANCE)
    case.compare_gradients(bitdance_table(config), gradients, "gap.gradnorm.prior.", "none.")


MUTATIONS = {"ppd_gap_reference": (Mutation("no query", params=zeroed("query_token")),)}
