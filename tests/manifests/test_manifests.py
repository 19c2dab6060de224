"""Released checkpoints at full size, names and shapes only: every key has its parameter, every parameter its keys.

The lists lie in ``$UNITOK_MANIFESTS`` (default ``../shared/manifests``), which does not come with the project.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.decoder_lm import DecoderConfig, init_decoder
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_text import SiglipText, SiglipTextConfig
from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import llamagen_table
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.system import Adapter
from unitok_jax.systems.unitoken.weights import artefacts
from unitok_jax.weights.artefacts import recognise
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import plan, upstream_shapes

FOLDER = Path(os.environ.get("UNITOK_MANIFESTS", Path(__file__).parents[3] / "shared" / "manifests"))
CHAMELEON_7B = DecoderConfig(65536, 4096, 11008, layers=32, heads=32, kv_heads=32, head_dim=128, qk_norm="layernorm")
CONFIG = UniTokenConfig(CHAMELEON_7B, SiglipConfig(), VAEConfig(), SiglipTextConfig())
CUT = dataclasses.replace(
    CONFIG,
    lm=dataclasses.replace(CHAMELEON_7B, cuts=(1, 20)),
    vit=dataclasses.replace(CONFIG.vit, cuts=(26,)),
    text=dataclasses.replace(CONFIG.text, cuts=(13,)),
)
CASES = [  # manifest, the artefact that it is, the parts that it holds
    ("unitoken_base", "unitoken", ("lm", "vit", "adapter")),
    ("unitoken_anyres", "unitoken", ("lm", "vit", "adapter")),
    ("lumina_mgpt_7b", "lumina_mgpt", ("lm",)),
    ("chameleon_vqgan", "vqgan", ("vqgan",)),
    ("chameleon_llm_vqmodel_encoder_only", "chameleon", ("vqgan",)),
    ("siglip_so400m_patch14_384", "siglip", ("vit", "text")),
]


def manifest(system, name):
    path = FOLDER / system / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no manifests at {FOLDER}; set UNITOK_MANIFESTS to their folder")
    return {key: tuple(entry["shape"]) for key, entry in json.loads(path.read_text()).items()}


def init_parts(config, key):
    def module(made, *shape, dtype=jnp.float32):
        return made.init(key, jnp.zeros(shape, dtype))["params"]

    return {
        "lm": init_decoder(config.lm, key),
        "vit": module(SiglipVision(config.vit), 1, 384, 384, 3),
        "adapter": module(Adapter(config.lm.width), 1, config.vit.width),
        "vqgan": module(TamingVAE(config.vqgan), 1, 64, 64, 3),
        "text": module(SiglipText(config.text), 1, config.text.max_length, dtype=jnp.int32),
    }


@functools.cache
def abstract_params(config):
    """Shapes of all parts at full size; nothing is allocated."""
    return jax.eval_shape(lambda: init_parts(config, jax.random.key(0)))


@pytest.mark.parametrize("config", [CONFIG, CUT], ids=["one span", "several spans"])
@pytest.mark.parametrize(("name", "artefact", "parts"), CASES, ids=[case[0] for case in CASES])
def test_every_key_and_parameter_matches_both_ways(name, artefact, parts, config):
    upstream = manifest("unitoken", name)
    abstract = {part: abstract_params(config)[part] for part in parts}
    table = artefacts(config)[artefact].only(*parts)
    plan(table, upstream, abstract)
    assert upstream_shapes(table, abstract) == upstream


@pytest.mark.parametrize(("name", "artefact", "parts"), CASES, ids=[case[0] for case in CASES])
def test_checkpoints_are_told_by_their_keys(name, artefact, parts):
    shapes = manifest("unitoken", name)
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    tables = artefacts(CONFIG)
    found = recognise(tables, source, parts, name)
    assert {key for key in shapes if not tables[found].ignores(key)} == set(shapes)
    plan(tables[found].only(*parts), shapes, {part: abstract_params(CONFIG)[part] for part in parts})


def test_size_of_unitoken():
    abstract = {part: abstract_params(CONFIG)[part] for part in ("lm", "vit", "adapter")}
    shapes = upstream_shapes(artefacts(CONFIG)["unitoken"], abstract)
    assert len(shapes) == 871
    assert sum(map(np.prod, shapes.values())) == pytest.approx(7.463e9, rel=1e-3)


@pytest.mark.parametrize("part", ["lm", "vit", "adapter"])
def test_one_part_of_a_whole_checkpoint(part):
    table = artefacts(CONFIG)["unitoken"].only(part)
    plan(table, manifest("unitoken", "unitoken_base"), {part: abstract_params(CONFIG)[part]})


def test_llamagens_vq_vae():
    config = VAEConfig(codebook_size=16384, embed_dim=8, attn_resolutions=(32,), l2_norm=True)
    abstract = jax.eval_shape(lambda key: TamingVAE(config).init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))
    upstream = manifest("tar", "vq_ds16_t2i")
    plan(llamagen_table(5), upstream, abstract["params"])
    assert upstream_shapes(llamagen_table(5), abstract["params"]) == upstream
