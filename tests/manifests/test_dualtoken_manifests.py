"""DualToken's checkpoints at full size, names and shapes only, both ways."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.depth_head import DepthHeadConfig, init_depth_head
from unitok_jax.backbones.depth_head_rules import vilau_table
from unitok_jax.backbones.pixel_decoder import PixelDecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.errors import UserError
from unitok_jax.quantizers.residual import ResidualConfig
from unitok_jax.systems import base
from unitok_jax.systems.dualtoken import release
from unitok_jax.systems.dualtoken.config import DualTokenConfig
from unitok_jax.systems.dualtoken.system import DualToken
from unitok_jax.systems.dualtoken.weights import explain
from unitok_jax.systems.qwen_tokenizer import stand_in
from unitok_jax.systems.release import Found
from unitok_jax.systems.stand_ins import made_up
from unitok_jax.weights.artefacts import recognise
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import plan, upstream_shapes

FOLDER = Path(os.environ.get("UNITOK_MANIFESTS", Path(__file__).parents[3] / "shared" / "manifests")) / "dualtoken"
QWEN = DecoderConfig(
    151936, 2048, 11008, 36, 16, 2, 128, rope_theta=1e6, norm_eps=1e-6, qkv_bias=True, tied_embeddings=True
)
RELEASED = DualTokenConfig(lm=QWEN)
SMALL = DualTokenConfig(
    vit=SiglipConfig(image_size=256, patch_size=16),
    pix=ResidualConfig(depth=4),
    sem=ResidualConfig(depth=4, kind="rq_ema"),
    decoder=PixelDecoderConfig(latent_shape=(16, 16), attn_resolutions=(16,), resolution=256),
)
WIDE = ResidualConfig(features=1152, depth=4)
LEGACY = dataclasses.replace(SMALL, pix=WIDE, sem=WIDE, prequant_sem=False, postquant_causal=False)
SIGLIP1 = dataclasses.replace(RELEASED, text=SiglipTextConfig())
PER_DEPTH = dataclasses.replace(RELEASED, head=DepthHeadConfig(ffn="per_depth"))
CODER = ("vit", "text", "prequant", "codebooks", "postquant", "decoder")
HEADED = ("lm", "projector", "pixel_head", "semantic_head")
CASES = {
    "tokenizer_siglip2_so400m_384_rvq8": (RELEASED, "tokenizer", CODER),
    "tokenizer_siglip2_so400m_256_rvq4": (SMALL, "tokenizer", CODER),
    "tokenizer_siglip1_so400m_384_rvq8": (SIGLIP1, "tokenizer", CODER),
    "tokenizer_legacy_siglip2_so400m_256_rvq4": (LEGACY, "tokenizer", CODER),
    "frozen_siglip_vision_so400m_384": (RELEASED, "teacher", ("teacher",)),
    "mllm_design_qwen2.5_3b_384_rvq8": (RELEASED, "mllm", HEADED),
    "mllm_design_qwen2.5_3b_384_rvq8_per_depth_ffn": (PER_DEPTH, "mllm", HEADED),
}
SLOW = (
    "tokenizer_siglip2_so400m_256_rvq4",
    "tokenizer_siglip1_so400m_384_rvq8",
    "mllm_design_qwen2.5_3b_384_rvq8_per_depth_ffn",
)


def manifest(name):
    path = FOLDER / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no manifests at {FOLDER.parent}; set UNITOK_MANIFESTS to their folder")
    return {key: tuple(entry["shape"]) for key, entry in json.loads(path.read_text()).items()}


@functools.cache
def system_of(config):
    return DualToken(dataclasses.replace(config, vocabulary=made_up("qwen2.5", stand_in)))


@functools.cache
def abstract(config, parts):
    """Shapes of some parts at full size; nothing is allocated."""
    return jax.eval_shape(lambda: system_of(config).init(jax.random.key(0), parts))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_every_key_and_parameter_matches_both_ways(name):
    config, artefact, parts = CASES[name]
    upstream, table = manifest(name), system_of(config).artefacts[artefact].only(*parts)
    plan(table, upstream, abstract(config, parts))
    assert upstream_shapes(table, abstract(config, parts)) == upstream


@pytest.mark.slow
def test_a_tower_cut_elsewhere_fits_too():
    config = dataclasses.replace(RELEASED, layer_recon=2, layer_shortcut=None, layer_sem=20)
    upstream = {k: v for k, v in manifest("tokenizer_siglip2_so400m_384_rvq8").items() if "prequant_shortcut" not in k}
    plan(system_of(config).artefacts["tokenizer"], upstream, abstract(config, CODER))


@pytest.mark.parametrize(("name", "code", "depth"), [("256_depth4", 1024, 4), ("384_depth16", 1152, 16)])
def test_vilaus_head(name, code, depth):
    config = DepthHeadConfig(
        hidden=4096,
        width=2560,
        layers=6,
        heads=40,
        depth=depth,
        code_features=code,
        project_hidden=True,
        code_bias=True,
        one_classifier=True,
    )
    upstream = manifest(f"vilau_rqtransformer_{name}")
    shapes = jax.eval_shape(lambda: init_depth_head(config, jax.random.key(0)))
    plan(vilau_table(config), upstream, shapes)
    assert upstream_shapes(vilau_table(config), shapes) == upstream
    if code == 1152:  # as wide as the tower, so that it can stand in a DualToken
        model = dataclasses.replace(
            RELEASED,
            **{"lm": DecoderConfig(151936, 4096, 11008, 2, 32, 32, 128), "head": config, "prequant_sem": False},
            **{name: ResidualConfig(features=code, depth=depth) for name in ("pix", "sem")},
        )
        source = InMemory({f"rqtransformer.{k}": np.broadcast_to(np.float32(0), v) for k, v in upstream.items()})
        tables = system_of(model).artefacts
        assert recognise(tables, source, ("semantic_head",), "x") == "vilau_semantic_head"
        keys = {f"rqtransformer.{key}": shape for key, shape in upstream.items()}
        plan(tables["vilau_semantic_head"], keys, {"semantic_head": shapes})


def test_checkpoints_are_told_by_their_keys_and_the_older_spelling_is_read():
    shapes = manifest("tokenizer_siglip2_so400m_384_rvq8")
    old = {k.replace("_sem.", "_semantic.").replace("_pix.", "_pixel."): v for k, v in shapes.items()}
    assert set(old) != set(shapes)
    tables = system_of(RELEASED).artefacts
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in old.items()})
    assert recognise(tables, source, CODER, "old") == "tokenizer"
    plan(tables["tokenizer"], old, abstract(RELEASED, CODER))


def test_the_wrong_variant_names_what_fits():
    legacy = manifest("tokenizer_legacy_siglip2_so400m_256_rvq4")
    assert "prequant_sem=False" in explain(SMALL, legacy)
    assert "postquant_causal=False" in explain(SMALL, legacy)
    assert all(f"{branch}.features=1152 (now 32)" in explain(SMALL, legacy) for branch in ("pix", "sem"))
    assert "prequant_sem=True" in explain(LEGACY, manifest("tokenizer_siglip2_so400m_256_rvq4"))
    told = explain(RELEASED, manifest("tokenizer_siglip2_so400m_256_rvq4"))
    assert "vit.patch_size=16" in told and "vit.image_size=256" in told
    assert "pix.depth=4" in told
    assert explain(RELEASED, manifest("tokenizer_siglip2_so400m_384_rvq8")) == ""


def test_the_file_that_no_released_code_fits_is_refused():
    wide = {"quantizer_pix.codebooks.0.weight": (16385, 256), "prequant_sem.proj.weight": (256, 1152)}
    assert "1152 is not a multiple of 256" in explain(RELEASED, wide)
    with pytest.raises(UserError, match="DualToken-dim256 cannot be loaded"):
        dataclasses.replace(RELEASED, pix=ResidualConfig(features=256))


@pytest.mark.parametrize(
    ("name", "config"), [("siglip2_so400m_384_rvq8", RELEASED), ("legacy_siglip2_so400m_256_rvq4", LEGACY)]
)
def test_the_config_is_read_off_the_shapes(name, config):
    shapes = manifest(f"tokenizer_{name}")
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    told, notes = release.recipe([Found("file", Path("file"), source, {})], "auto", None)
    read = base.build("dualtoken", told["model"]).config
    sem = dataclasses.replace(config.sem, kind="rq_ema")
    assert read == dataclasses.replace(config, lm=None, sem=sem, text_pad=0)
    assert any("taps" in note for note in notes)
    with pytest.raises(UserError, match="are those of"):
        release.recipe([Found("file", Path("file"), source, {})], "tokenizer" if config is LEGACY else "legacy", None)
