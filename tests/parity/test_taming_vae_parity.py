"""The taming VAE as LlamaGen has it, against transformers' copy in Janus."""

import re

import jax
import numpy as np
import pytest

from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import llamagen_table
from unitok_jax.weights.transfer import import_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

OURS = VAEConfig(
    channels=32,
    multipliers=(1, 2),
    res_blocks=1,
    z_channels=16,
    embed_dim=8,
    codebook_size=40,
    attn_resolutions=(8,),
    resolution=16,
    l2_norm=True,
)


class Tensors(dict):
    """A state dict as a source of the weight rules, under LlamaGen's names."""

    def __init__(self, model):
        super().__init__({self.renamed(key): value.numpy() for key, value in model.state_dict().items()})

    @staticmethod
    def renamed(key):
        key = re.sub(r"(encoder\.down|decoder\.up)\.(?=\d)", lambda m: m[1].split(".")[0] + ".conv_blocks.", key)
        key = re.sub(r"(conv_blocks\.\d+\.)block\.", r"\1res.", key)
        parts = {"mid.block_1": "mid.0", "mid.attn_1": "mid.1", "mid.block_2": "mid.2"}
        return re.sub("|".join(parts), lambda m: parts[m[0]], key)

    def shape(self, key):
        return self[key].shape

    def dtype(self, key):
        return self[key].dtype

    def read(self, key):
        return self[key]


@pytest.fixture(scope="module")
def janus():
    """Its lookup never normalises (LlamaGen's does), so its rows are given unit length."""
    config = transformers.JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=40,
        latent_channels=16,
        base_channels=32,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
    )
    model = transformers.JanusVQVAE(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
        rows = model.quantize.embedding.weight
        rows /= rows.norm(dim=-1, keepdim=True)
    return model


def test_encode_and_decode(janus):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
    vae = TamingVAE(OURS)
    abstract = jax.eval_shape(vae.init, jax.random.key(0), images)["params"]
    params = import_tree(llamagen_table(2), Tensors(janus), abstract)
    picture, aux = jax.jit(vae.apply)({"params": params}, images)
    with torch.no_grad():
        pixels = torch.tensor(np.moveaxis(images, -1, 1))
        latents = janus.quant_conv(janus.encoder(pixels))
        unit = torch.nn.functional.normalize(latents, dim=1)
        codes = janus.quantize(unit)[2].reshape(2, 8, 12)
        expected = janus.decoder(janus.post_quant_conv(janus.quantize.embedding(codes).permute(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(np.moveaxis(aux["latents"], -1, 1), latents.numpy(), atol=1e-5)
    np.testing.assert_array_equal(aux["quantized"].codes, codes.numpy())
    np.testing.assert_allclose(np.moveaxis(picture, -1, 1), expected, atol=3e-5 * np.abs(expected).max())
