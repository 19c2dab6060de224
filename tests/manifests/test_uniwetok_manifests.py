"""UniWeTok's and BitDance's published checkpoints at full size, names and shapes only, both ways."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.binary_vae import BinaryVAEConfig
from unitok_jax.backbones.bitdance import BitDanceConfig
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_timm_rules import siglip_timm_table
from unitok_jax.errors import UserError
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.system import UniWeTok
from unitok_jax.systems.uniwetok.vocabulary import TokenIds, Vocabulary
from unitok_jax.weights import artefacts
from unitok_jax.weights.artefacts import load_published, recognise
from unitok_jax.weights.moving_average import with_averages
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import plan, upstream_shapes

FOLDER = Path(os.environ.get("UNITOK_MANIFESTS", Path(__file__).parents[3] / "shared" / "manifests"))
MANIFEST_LM = "bitdance_14b_64x__llm_sharded_safetensors"
HYBRID = BinaryVAEConfig()
D16C32 = BinaryVAEConfig("conv", 256, (1, 1, 2, 2, 4), 4, 32, 4, attn_blocks=0, generative=False)
D32C128 = BinaryVAEConfig("conv", 128, (1, 1, 2, 2, 4, 8), 4, 128, 16, attn_blocks=0)
SIZES = {"B": (768, 24, 12, 6, 2), "L": (1024, 32, 16, 8, 2), "H": (1280, 40, 20, 12, 3)}
QWEN3_8B = DecoderConfig(151797, 4096, 12288, 36, 32, 8, 128, rope_theta=1e6, norm_eps=1e-6, qk_norm="rmsnorm")
QWEN3_14B = dataclasses.replace(QWEN3_8B, width=5120, ffn=17408, layers=40, heads=40)


def generator(size, parallel=1, channels=32, grid=16):
    width, layers, heads, depth, modulations = SIZES[size]
    kind = "mlp" if parallel == 1 else "transformer"
    head = FlowHeadConfig(kind, width, depth, modulations)
    order = "raster" if parallel == 1 else "patch"
    return BitDanceConfig(
        width, layers, heads, channels, grid=(grid, grid), parallel_num=parallel, order=order, head=head
    )


def unified(lm, vae, rows, parallel=1):
    head = FlowHeadConfig("transformer", lm.width, 6, 2, head_dim=128, squash=True)
    lm = dataclasses.replace(lm, vocab_size=rows)
    return UniWeTokConfig(vae, 1024, lm=lm, flow=head, parallel_num=parallel)


BITDANCE_64 = unified(QWEN3_14B, D16C32, 151988, 64)
BITDANCE_16 = unified(QWEN3_14B, D16C32, 151940, 16)
UNIFIED = unified(QWEN3_8B, HYBRID, 151797)
CASES = [  # manifest, model, the artefact that it is, the parts that it holds
    ("uniwetok_tokenizer", UniWeTokConfig(HYBRID), "tokenizer", ("vae",)),
    ("bitdance_ae_d16c32", UniWeTokConfig(D16C32), "tokenizer", ("vae",)),
    ("bitdance_ae_d32c128", UniWeTokConfig(D32C128), "tokenizer", ("vae",)),
    *(
        (
            f"bitdance_imagenet_{size}_{parallel}x",
            UniWeTokConfig(D16C32, generator=generator(size, parallel)),
            "c2i",
            both,
        )
        for size, parallel in (("B", 1), ("B", 4), ("B", 16), ("L", 1), ("H", 1))
        for both in [("generator", "vae")]
    ),
    *(
        (f"uniwetok_c2i_{size}_inferred", UniWeTokConfig(generator=generator(size, 1, 128, 8)), "c2i_alone", one)
        for size in "BLH"
        for one in [("generator",)]
    ),
    *(
        (f"bitdance_14b_{name}__{file}", config, artefact, parts)
        for name, config in (("64x", BITDANCE_64), ("16x", BITDANCE_16))
        for file, artefact, parts in (
            ("ae_safetensors", "ae", ("vae",)),
            ("llm_sharded_safetensors", "lm", ("lm",)),
            ("projector_safetensors", "projector", ("projector",)),
            ("vision_head_safetensors", "vision_head", ("flow",)),
            ("training_full_state", "full_state", ("lm", "flow", "projector", "vae")),
        )
    ),
    (
        "uniwetok_mllm_8b_inferred__training_full_state",
        UNIFIED,
        "full_state",
        ("lm", "flow", "projector", "vae"),
    ),
]


def manifest(name):
    path = FOLDER / "uniwetok" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no manifests at {FOLDER}; set UNITOK_MANIFESTS to their folder")
    return {key: tuple(entry["shape"]) for key, entry in json.loads(path.read_text()).items()}


@functools.cache
def system(config):
    return UniWeTok(config, Vocabulary(TokenIds(), 0, list, str))


@functools.cache
def abstract(config, parts):
    return jax.eval_shape(lambda: system(config).init(jax.random.key(0), parts))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config", "artefact", "parts"), CASES, ids=[case[0] for case in CASES])
def test_every_key_and_parameter_matches_both_ways(name, config, artefact, parts):
    shapes = manifest(name)
    table = system(config).artefacts[artefact]
    plan(table, shapes, abstract(config, parts))
    assert upstream_shapes(table, abstract(config, parts)) == shapes


def source(shapes):
    return InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})


def test_the_training_container_is_read_by_its_average_and_written_twice():
    shapes = manifest("uniwetok_tokenizer_training_container_min")
    config = UniWeTokConfig(HYBRID)
    tables, params = system(config).artefacts, abstract(config, ("vae",))
    averaged = with_averages(source(shapes))
    assert recognise(tables, averaged, ("vae",), "here") == "tokenizer"
    plan(tables["tokenizer"], {key: averaged.shape(key) for key in tuple(averaged.keys())}, params)
    assert upstream_shapes(tables["tokenizer_container"], params) == shapes


@pytest.mark.parametrize("name", ["bitdance_imagenet_B_4x", "uniwetok_tokenizer"])
def test_checkpoints_are_told_by_their_keys(name):
    _, config, artefact, parts = next(case for case in CASES if case[0] == name)
    assert recognise(system(config).artefacts, source(manifest(name)), parts, name) == artefact


def test_the_teacher():
    shapes = manifest("teacher_siglip2_so400m_384_visual_openclip")
    config = SiglipConfig(patch_size=16)
    made = jax.eval_shape(SiglipVision(config).init, jax.random.key(0), jnp.zeros((1, 384, 384, 3)))["params"]
    table = siglip_timm_table(config)
    plan(table, shapes, made)
    assert {f"visual.trunk.{key}": shape for key, shape in upstream_shapes(table, made).items()} == shapes


def test_published_sizes():
    millions = {
        name: sum(map(np.prod, upstream_shapes(system(config).artefacts[artefact], abstract(config, parts)).values()))
        for name, config, artefact, parts in CASES
        if name in ("uniwetok_tokenizer", "uniwetok_c2i_B_inferred", "uniwetok_c2i_H_inferred")
    }
    assert {name: round(count / 1e6, 1) for name, count in millions.items()} == {
        "uniwetok_tokenizer": 621.6,
        "uniwetok_c2i_B_inferred": 242.6,
        "uniwetok_c2i_H_inferred": 1008.3,
    }


@pytest.mark.parametrize(
    ("name", "config", "artefact", "part", "told"),
    [
        (MANIFEST_LM, unified(QWEN3_14B, D16C32, 151928, 4), "lm", "lm", "config.model.parallel_num=64 and"),
        (
            "bitdance_imagenet_B_16x",
            UniWeTokConfig(D16C32, generator=generator("B", 4)),
            "c2i",
            "generator",
            "generator.parallel_num=16",
        ),
    ],
)
def test_another_number_of_tokens_at_once_is_told(name, config, artefact, part, told, monkeypatch):
    shapes = manifest(name)
    monkeypatch.setattr(artefacts, "open_source", lambda path: source(shapes))
    table = system(config).artefacts[artefact].only(part)
    with pytest.raises(UserError, match=r"has shape .* needs"):
        plan(table, shapes, abstract(config, (part,)))
    assert told in table.hint(shapes)
    with pytest.raises(UserError, match=told):
        load_published(system(config).artefacts, "x", abstract(config, (part,)))


def test_the_language_model_begins_as_qwen3():
    """Tables of Qwen3's 151,936 rows are taken, and written with the rows of the grown vocabulary."""
    config = BITDANCE_64
    shapes = {k: (151936, *s[1:]) if s[0] == 151988 else s for k, s in manifest(MANIFEST_LM).items()}
    table, params = system(config).artefacts["lm"], abstract(config, ("lm",))
    reads = {read.keys[0]: read for read in plan(table, shapes, params)}
    assert reads["lm_head.weight"].transform != reads["lm_head.weight"].link.rule.transform
    assert upstream_shapes(table, params)["model.embed_tokens.weight"] == (151988, 5120)
