"""The released checkpoints tell what they are, and the sizes of their models, by names and shapes alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_manifests import CHAMELEON_7B, CONFIG, abstract_params, manifest

from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.settings import from_config
from unitok_jax.systems.release import Found
from unitok_jax.systems.unitoken import published_model
from unitok_jax.systems.unitoken.release import kind_of
from unitok_jax.systems.unitoken.weights import artefacts
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import upstream_shapes

PARTS = {
    "unitoken_base": ("unitoken", {"lm": (), "vit": ("vit.",)}),
    "unitoken_anyres": ("unitoken", {"lm": (), "vit": ("vit.",)}),
    "lumina_mgpt_7b": ("lumina_mgpt", {"lm": ()}),
    "chameleon_vqgan": ("vqgan", {"vqgan": ()}),
    "siglip_so400m_patch14_384": ("siglip", {"vit": ("vision_model.",), "text": ()}),
}
KINDS = {"lm": DecoderConfig, "vit": SiglipConfig, "vqgan": VAEConfig, "text": SiglipTextConfig}


@pytest.mark.parametrize("name", PARTS)
def test_kind_and_sizes(name):
    shapes = manifest("unitoken", name)
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    found = Found(name, Path(name), source, {})
    kind, parts = PARTS[name]
    assert kind_of(found) == kind
    for part, prefix in parts.items():
        settings = getattr(published_model, f"{part}_settings")(found, *prefix)
        assert from_config(KINDS[part], settings, part) == getattr(CONFIG, part)


def test_hugging_face_keeps_a_row_of_q_and_k_norms_for_each_head():
    tables, params = artefacts(CONFIG), {"lm": abstract_params(CONFIG)["lm"]}
    theirs = upstream_shapes(tables["chameleon_lm"], params)
    assert theirs["model.layers.31.self_attn.k_norm.bias"] == (32, 128)
    rest = {key: shape for key, shape in theirs.items() if "_norm." not in key or "layernorm" in key}
    assert rest.items() <= manifest("unitoken", "lumina_mgpt_7b").items()
    assert len(theirs) == len(manifest("unitoken", "lumina_mgpt_7b"))


def test_a_30b_keeps_a_row_for_each_part_of_its_heads():
    lm = dataclasses.replace(CHAMELEON_7B, heads=64, kv_heads=8, width=8192, qk_norm_groups=4)
    shapes = {
        "model.embed_tokens.weight": (65536, 8192),
        "model.layers.0.self_attn.q_norm.weight": (4, 128),
        "model.layers.0.self_attn.q_proj.weight": (8192, 8192),
        "model.layers.0.self_attn.k_proj.weight": (1024, 8192),
        "model.layers.31.mlp.gate_proj.weight": (11008, 8192),
        "model.layers.0.mlp.gate_proj.weight": (11008, 8192),
    }
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    settings = published_model.lm_settings(Found("30b", Path("30b"), source, {}))
    assert from_config(DecoderConfig, settings, "lm") == lm
