"""SigLIP's position resizing, SigLIP2's tower and SigLIP's loss against transformers."""

import dataclasses

import jax
import numpy as np
import pytest

from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.losses.contrastive import sigmoid_loss
from unitok_jax.weights.transfer import import_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
OURS = SiglipConfig(32, 48, 2, 4, image_size=28, patch_size=7)
RNG = np.random.default_rng(0)


class Tensors(dict):
    """A state dict as a source of the weight rules."""

    def shape(self, key):
        return self[key].shape

    def dtype(self, key):
        return self[key].dtype

    def read(self, key):
        return self[key]


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.eval()


def params_of(model, config, images):
    state = Tensors({key: value.numpy() for key, value in model.state_dict().items()})
    patch = state["embeddings.patch_embedding.weight"]
    if patch.ndim == 2:  # SigLIP2 multiplies patches laid out as [row, column, channel]
        square = patch.reshape(len(patch), config.patch_size, config.patch_size, config.channels)
        state["embeddings.patch_embedding.weight"] = np.moveaxis(square, -1, 1)
    abstract = jax.eval_shape(SiglipVision(config).init, jax.random.key(0), images)["params"]
    return import_tree(siglip_table(config), state, abstract)


def near(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=3e-5 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (44, 37), (14, 56), (30, 61)])
def test_positions_of_other_sizes(height, width):
    model = randomise(
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, image_size=28, patch_size=7))
    )
    images = RNG.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    params = params_of(model, OURS, images)
    last, aux = jax.jit(SiglipVision(OURS).apply)({"params": params}, images)
    theirs = model(torch.tensor(np.moveaxis(images, -1, 1)), interpolate_pos_encoding=True)
    near(last, theirs.last_hidden_state)
    near(aux["pooled"], theirs.pooler_output)


@pytest.mark.parametrize("side", [4, 3, 7])
def test_siglip2(side):
    """As Tar's decoder uses it: a square of patches, its table shrunk or stretched with antialiasing."""
    config = dataclasses.replace(OURS, image_size=8, patch_size=2, position_resize="bilinear_antialias")
    theirs = transformers.Siglip2VisionConfig(**SIZES, patch_size=2, num_patches=16)
    model = randomise(transformers.Siglip2VisionModel(theirs))
    images = RNG.uniform(-1, 1, (2, 2 * side, 2 * side, 3)).astype(np.float32)
    last, aux = jax.jit(SiglipVision(config).apply)({"params": params_of(model, config, images)}, images)
    patches = images.reshape(2, side, 2, side, 2, 3).swapaxes(2, 3).reshape(2, side * side, 12)
    result = model(
        torch.tensor(patches),
        pixel_attention_mask=torch.ones(2, side * side, dtype=torch.int64),
        spatial_shapes=torch.tensor([[side, side]] * 2),
    )
    near(last, result.last_hidden_state)
    near(aux["pooled"], result.pooler_output)


def test_loss():
    text = {**SIZES, "vocab_size": 99, "max_position_embeddings": 8, "projection_size": 32}
    vision = {**SIZES, "image_size": 14, "patch_size": 7}
    model = randomise(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))
    images = torch.tensor(RNG.uniform(-1, 1, (3, 3, 14, 14)).astype(np.float32))
    result = model(torch.arange(24).reshape(3, 8), images, return_loss=True)
    pictures, texts = result.image_embeds.detach().numpy(), result.text_embeds.detach().numpy()
    scale, bias = model.logit_scale[0].detach().numpy(), model.logit_bias[0].detach().numpy()
    loss, _ = sigmoid_loss(pictures, texts, scale, bias)
    np.testing.assert_allclose(loss, result.loss.detach().numpy(), rtol=1e-5)
