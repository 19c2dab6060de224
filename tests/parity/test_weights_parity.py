"""Tiny random Hugging Face models through our rules and back: not one number, key or shape changes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from unitok_jax.backbones.decoder_lm import DecoderConfig, DecoderLM, init_decoder
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.backbones.siglip_text import SiglipText, SiglipTextConfig
from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import chameleon_vqmodel_table
from unitok_jax.errors import UserError
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.weights import artefacts
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.rules import Table
from unitok_jax.weights.safetensors_files import save_folder
from unitok_jax.weights.transfer import export_tree, import_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {"vocab_size": 301, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
OURS = DecoderConfig(301, 32, 48, layers=3, heads=4, kv_heads=2, head_dim=8, norm_eps=1e-6, cuts=(2,))
MODELS = {
    "llama": (transformers.LlamaConfig(**SIZES, **HEADS), {}),
    "qwen2": (transformers.Qwen2Config(**SIZES, **HEADS), {"qkv_bias": True}),
    "qwen2_tied": (
        transformers.Qwen2Config(**SIZES, **HEADS, tie_word_embeddings=True),
        {"qkv_bias": True, "tied_embeddings": True},
    ),
    "qwen3": (transformers.Qwen3Config(**SIZES, **HEADS, head_dim=8), {"qk_norm": "rmsnorm"}),
}


def randomise(model):
    """Random values everywhere, so that swapped norms or biases would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.eval()


def round_trip(model, table, abstract, folder):
    """Our parameters of a model, which come back as the same files."""
    model.save_pretrained(folder / "theirs")
    theirs = open_source(folder / "theirs")
    params = import_tree(table, theirs, abstract)
    save_folder(export_tree(table, params), folder / "ours")
    ours = open_source(folder / "ours")
    assert set(ours.keys()) == set(theirs.keys())
    for key in tuple(theirs.keys()):
        np.testing.assert_array_equal(ours.read(key), theirs.read(key))
    return params


@pytest.mark.parametrize("name", MODELS)
def test_decoder(name, tmp_path):
    config, changes = MODELS[name]
    ours = DecoderConfig(**{**vars(OURS), "rope_theta": _theta(config), "norm_eps": config.rms_norm_eps, **changes})
    model = randomise(transformers.AutoModelForCausalLM.from_config(config))
    params = round_trip(model, decoder_table(ours), abstract_decoder(ours), tmp_path)
    ids = np.arange(12).reshape(2, 6) * 7
    logits = DecoderLM(ours).apply({"params": params}, ids, method="predict")[..., :301]
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=3e-5 * np.abs(expected).max(), rtol=0)
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    again = type(model).from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


def table_of(config):
    return decoder_table(config) + Table((), {r"model\.vqmodel\..*": "another part"})


def abstract_decoder(config):
    return jax.eval_shape(lambda key: init_decoder(config, key), jax.random.key(0))


def _theta(config):
    return float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0))


def test_chameleon_decoder(tmp_path):
    """Rows of q and k norms are one a head there, and one for a run of heads in UniToken's files."""
    vq = transformers.ChameleonVQVAEConfig(
        base_channels=32, channel_multiplier=[1], num_res_blocks=1, latent_channels=8
    )
    config = transformers.ChameleonConfig(
        **SIZES, **{**HEADS, "num_key_value_heads": 4}, vq_config=vq, vocabulary_map={"<image>": 3, "IMGIMGAZ": 4}
    )
    per_head = dataclasses.replace(
        OURS, kv_heads=4, norm_eps=config.rms_norm_eps, qk_norm="layernorm", qk_norm_groups=4
    )
    model = randomise(transformers.ChameleonForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    params = import_tree(table_of(per_head), open_source(tmp_path), abstract_decoder(per_head))
    ids = np.arange(20, 32).reshape(2, 6) * 7
    ours = DecoderLM(per_head).apply({"params": params}, ids, method="predict")[..., 5:301]
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()[..., 5:]
    np.testing.assert_allclose(ours, expected, atol=3e-5 * np.abs(expected).max(), rtol=0)
    compact = dataclasses.replace(per_head, qk_norm_groups=1)
    with pytest.raises(UserError, match=r"[qk]_norm\.(weight|bias): 4 rows do not reduce to 1"):
        import_tree(table_of(compact), open_source(tmp_path), abstract_decoder(compact))


@pytest.mark.parametrize("pooling", [True, False])
def test_siglip(tmp_path, pooling):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = transformers.SiglipVisionConfig(**sizes, image_size=30, patch_size=7, vision_use_head=pooling)
    ours = SiglipConfig(32, 48, 3, 4, cuts=(1,), image_size=30, patch_size=7, pooling=pooling)
    model = randomise(transformers.SiglipVisionModel(vision))
    image = np.random.default_rng(0).uniform(-1, 1, (2, 30, 30, 3)).astype(np.float32)
    abstract = jax.eval_shape(SiglipVision(ours).init, jax.random.key(0), image)["params"]
    params = round_trip(model, siglip_table(ours), abstract, tmp_path)
    hidden, aux = SiglipVision(ours).apply({"params": params}, image)
    with torch.no_grad():
        expected = model(torch.tensor(np.moveaxis(image, -1, 1)))
    np.testing.assert_allclose(hidden, expected.last_hidden_state.numpy(), atol=1e-4, rtol=0)
    if pooling:
        np.testing.assert_allclose(aux["pooled"], expected.pooler_output.numpy(), atol=1e-4, rtol=0)


def test_siglip_with_its_text_tower(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 301, "max_position_embeddings": 8, "projection_size": 32}
    vision = {**sizes, "image_size": 28, "patch_size": 7}
    model = randomise(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))
    tower = SiglipTextConfig(32, 48, 2, 4, vocab_size=301, max_length=8, projection=32)
    config = UniTokenConfig(OURS, SiglipConfig(32, 48, 2, 4, image_size=28, patch_size=7), VAEConfig(), tower)
    ids, image = np.arange(16).reshape(2, 8) * 9, np.zeros((1, 28, 28, 3), np.float32)
    abstract = {
        "vit": jax.eval_shape(SiglipVision(config.vit).init, jax.random.key(0), image)["params"],
        "text": jax.eval_shape(SiglipText(tower).init, jax.random.key(0), ids)["params"],
    }
    params = round_trip(model, artefacts(config)["siglip"], abstract, tmp_path)
    features, _ = SiglipText(tower).apply({"params": params["text"]}, ids)
    with torch.no_grad():
        expected = model.get_text_features(torch.tensor(ids))
    expected = getattr(expected, "pooler_output", expected)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-4, rtol=0)


def test_chameleon_encoder(tmp_path):
    sizes = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1, "latent_channels": 8}
    config = transformers.ChameleonVQVAEConfig(**sizes, num_embeddings=40, embed_dim=8, resolution=32)
    ours = VAEConfig(32, (1, 2), 1, z_channels=8, embed_dim=8, codebook_size=40, resolution=32)
    model = randomise(transformers.ChameleonVQVAE(config))
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 48, 3)).astype(np.float32)
    abstract = jax.eval_shape(TamingVAE(ours).init, jax.random.key(0), image)["params"]
    params = round_trip(model, chameleon_vqmodel_table(), abstract, tmp_path)
    latents, _ = TamingVAE(ours).apply({"params": params}, image, method="encode")
    codes = TamingVAE(ours).apply({"params": params}, latents, method="quantize").codes
    with torch.no_grad():
        expected = model.encode(torch.tensor(np.moveaxis(image, -1, 1)))
    indices = expected.image_tokens if hasattr(expected, "image_tokens") else expected[2]
    np.testing.assert_array_equal(np.asarray(codes).reshape(-1), indices.reshape(-1).numpy())
