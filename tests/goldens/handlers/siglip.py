"""SigLIP's vision tower as UniToken runs it."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from harness import FP32, Mutation, drop, nhwc, swap

from unitok_jax.backbones import siglip_block
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.layers.mlp import MLP

ONE_LAYER = 3e-6  # tight enough to tell epsilons apart (they move the result by 5e-6; rounding by 3e-7)


def check(case):
    vision = case.config["vision_config"]
    config = SiglipConfig(
        width=vision["hidden_size"],
        ffn=vision["intermediate_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        cuts=(1,),
        position_resize="bicubic_offset",
    )
    tower = SiglipVision(case.settings(config))
    pixels = jnp.asarray(nhwc(case.input("pixel_values")))
    abstract = jax.eval_shape(tower.init, jax.random.key(0), pixels)["params"]
    params = case.params(siglip_table(config), abstract, "vit.")
    last, aux = jax.jit(functools.partial(tower.apply, every_layer=True))({"params": params}, pixels)
    case.compare("embeddings", aux["embeddings"])
    for name in case.matching(r"hidden_states\.\d+"):
        layer = int(re.sub(r"\D", "", name))
        tolerance = ONE_LAYER if layer == 1 else FP32
        case.compare(name, aux["layers"][layer - 1] if layer else aux["embeddings"], tolerance)
    case.compare("last_hidden_state", last)
    case.compare("pooler_output", aux["pooled"])
    _odd_size(case, tower, params)


def _odd_size(case, tower, params):
    """A picture of another size, whose positions are resized as transformers 4.43.3 did."""
    pixels = jnp.asarray(nhwc(case.input("odd.pixel_values")))
    last, _ = jax.jit(tower.apply)({"params": params}, pixels)
    blind = jax.tree.map(jnp.zeros_like, params["embeddings"]["patch"])
    bare = {**params, "embeddings": {**params["embeddings"], "patch": blind}}
    positions = tower.apply({"params": bare}, pixels, method="embed")
    case.compare("odd.pos_embed", positions)
    case.compare("odd.last_hidden_state", last)


MUTATIONS = {
    "siglip": (
        Mutation("eps x 10", config=lambda c: dataclasses.replace(c, eps=10 * c.eps)),
        Mutation("erf gelu", patch=(siglip_block, "MLP", lambda ffn, _, **kw: MLP(ffn, "gelu", **kw))),
        Mutation("swapped norms", params=swap("span_0_1/norm1", "span_0_1/norm2")),
        Mutation("no post-norm bias", params=drop("post_norm/bias")),
        Mutation("no query bias", params=drop("span_1_3/attention/q/bias")),
        Mutation("new resize", config=lambda c: dataclasses.replace(c, position_resize="bicubic")),
    )
}
