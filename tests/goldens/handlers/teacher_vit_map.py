"""The distillation teacher: timm's names and topology of a SigLIP tower."""

import functools

import jax
import jax.numpy as jnp
from harness import Mutation, drop, nhwc

from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_timm_rules import siglip_timm_table

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def check(case):
    given = case.config
    config = SiglipConfig(
        width=given["embed_dim"],
        ffn=int(given["embed_dim"] * given["mlp_ratio"]),
        layers=given["depth"],
        heads=given["num_heads"],
        eps=given["norm_eps"],
        image_size=given["img_size"],
        patch_size=given["patch_size"],
        pooling=given["pool"] == "map",
    )
    tower = SiglipVision(case.settings(config))
    picture = jnp.asarray(nhwc(case.input("image")))
    abstract = jax.eval_shape(tower.init, jax.random.key(0), picture)["params"]
    params = case.params(siglip_timm_table(config), abstract)
    tokens, aux = jax.jit(functools.partial(tower.apply, every_layer=True))({"params": params}, picture)
    case.compare("tokens", tokens, **TOLERANCE)
    case.compare("embedding", aux["pooled"], **TOLERANCE)
    for name in case.matching(r"block\d+"):
        case.compare(name, aux["layers"][int(name.removeprefix("block"))], **TOLERANCE)


MUTATIONS = {"teacher_vit_map": (Mutation("no bias of the pool's values", params=drop("head/attention/v/bias")),)}
