"""Tar's released checkpoints at full size, names and shapes: every key has its parameter, every parameter its keys."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from test_manifests import manifest

from unitok_jax.backbones import ar_image
from unitok_jax.backbones.dc_ae import DCAEConfig
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.sana import SanaConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.settings import from_config
from unitok_jax.systems.release import Found
from unitok_jax.systems.tar import published_model, release
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.system import Tar
from unitok_jax.systems.tar.vocabulary import TokenIds, Vocabulary
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import plan, upstream_shapes

QWEN = {"layers": 28, "head_dim": 128, "rope_theta": 1e6, "norm_eps": 1e-6, "qkv_bias": True}
LM = {
    "1.5b": DecoderConfig(217206, 1536, 8960, heads=12, kv_heads=2, tied_embeddings=True, **QWEN),
    "7b": DecoderConfig(217206, 3584, 18944, heads=28, kv_heads=4, **QWEN),
}
VQ = VAEConfig(codebook_size=16384, embed_dim=8, attn_resolutions=(16,), resolution=256, l2_norm=True)
TOWER = ("lm", "ta_tok")
CASES = [  # manifest, what the config has besides the tokenizer, the artefact, its parts
    ("ta_tok", {}, "ta_tok", ("ta_tok",)),
    *((f"tar_{size}_llm", {"lm": lm}, "tar", ("lm",)) for size, lm in LM.items()),
    *((f"tar_{size}_llm_with_vision_tower", {"lm": lm}, "tar_with_tower", TOWER) for size, lm in LM.items()),
    *((f"tar_{size}_llm_with_vision_tower", {"lm": lm}, "tar", ("lm",)) for size, lm in LM.items()),
    *(
        (f"ar_dtok_{name}", {"ar": ar_image.sized(size, tokens=tokens), "vq": VQ}, "ar", ("ar",))
        for name, size, tokens in (
            ("lp_256px", "LP", 256),
            ("lp_512px", "LP", 1024),
            ("lp_1024px", "LP", 4096),
            ("xl_256px_paper775M", "XL", 256),
            ("b_256px_paper111M", "B", 256),
            ("s_256px_paper22M", "S", 256),
        )
    ),
    ("vq_ds16_t2i", {"vq": VQ}, "vq", ("vq",)),
    *(
        (f"dif_dtok_sana_600m_{side}px_transformer", {"sana": SanaConfig(), "vae": DCAEConfig()}, "sana", ("sana",))
        for side in (512, 1024)
    ),
    ("dif_dtok_dc_ae_f32c32_vae", {"sana": SanaConfig(), "vae": DCAEConfig()}, "vae", ("vae",)),
]


READ = {  # manifest: what is read off its shapes, of which part
    "ta_tok": ("ta_tok", {"codebook_size": 65536, "select_layer": -2, "l2_norm": True}),
    "ar_dtok_lp_1024px": ("ar", {"layers": 30, "heads": 20, "tokens": 4096, "condition_tokens": 729, "ffn": 3584}),
    "ar_dtok_s_256px_paper22M": ("ar", {"layers": 12, "heads": 6, "tokens": 256}),
    "vq_ds16_t2i": ("vq", {"multipliers": (1, 1, 2, 2, 4), "codebook_size": 16384, "resolution": 256}),
    "tar_7b_llm": ("lm", {"heads": 28, "kv_heads": 4, "head_dim": 128, "tied_embeddings": False}),
    "tar_1.5b_llm": ("lm", {"heads": 12, "kv_heads": 2, "tied_embeddings": True}),
    "dif_dtok_sana_600m_512px_transformer": ("sana", {"layers": 28, "caption": 1152, "heads": 36}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_the_config_is_read_off_the_shapes(name):
    upstream, (part, wanted) = manifest("tar", name), READ[name]
    source = InMemory({key: np.broadcast_to(np.float32(0), shape) for key, shape in upstream.items()})
    read = {
        "ta_tok": lambda found: published_model.ta_tok_settings(found, "")[0],
        "ar": lambda found: published_model.ar_settings(found, 729)[0],
        **{kind: getattr(published_model, f"{kind}_settings") for kind in ("vq", "lm", "sana")},
    }[part]
    found = Found(name, Path(name), source, {})
    assert release.kind_of(found) == part
    settings = read(found)
    assert {key: settings[key] for key in wanted} == wanted
    others = {"ar": {"vq": release.RELEASED["vq"]}, "sana": {"vae": {}}}.get(part, {})
    system = Tar(from_config(TarConfig, {part: settings, **others}, "x"), Vocabulary(TokenIds(), list, str))
    plan(system.artefacts[{"lm": "tar"}.get(part, part)], upstream, {part: _abstract(system, part)})


@functools.cache
def _abstract(system, part):
    return jax.eval_shape(lambda: system.init(jax.random.key(0), (part,)))[part]


@functools.cache
def _system(parts):
    return Tar(TarConfig(**dict(parts)), Vocabulary(TokenIds(), list, str))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "artefact", "parts"), CASES, ids=[f"{name}-{artefact}" for name, _, artefact, _ in CASES]
)
def test_every_key_and_parameter_matches_both_ways(name, given, artefact, parts):
    upstream = manifest("tar", name)
    system = _system(tuple(given.items()))
    table = system.artefacts[artefact]
    abstract = {part: _abstract(system, part) for part in parts}
    plan(table, upstream, abstract)
    written = upstream_shapes(table, abstract)
    left = {key: shape for key, shape in upstream.items() if key not in written}
    assert written == {key: shape for key, shape in upstream.items() if key not in left}
    assert all(table.ignores(table.canonical(key)) and "vision_tower" in key for key in left)
