"""SANA's transformer, DC-AE and SigLIP2's linear patches against tiny random torch models, in both directions."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.dc_ae import DCAE, DCAEConfig
from unitok_jax.backbones.dc_ae_rules import dc_ae_table
from unitok_jax.backbones.sana import Sana, SanaConfig
from unitok_jax.backbones.sana_rules import sana_table
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.systems.tar.ta_tok import TATok, TATokConfig
from unitok_jax.systems.tar.weights import ta_tok_table
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import export_tree, import_tree, upstream_shapes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def both_ways(model, table, shapes):
    """Our parameters of a torch model; what they are exported to must be the model's state dict again."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    params = import_tree(table, InMemory(state), shapes)
    written = export_tree(table, params)
    assert set(written.keys()) == set(state)
    for key in state:
        np.testing.assert_array_equal(written.read(key), state[key])
    return params


def near(ours, theirs, tolerance=1e-4):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)


def nchw(x):
    return torch.tensor(np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("bias", [False, True])
def test_sana(bias):
    config = SanaConfig(4, 4, 3, 8, 2, 12, layers=2, caption=10, attention_bias=bias)
    theirs = randomise(
        diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=3,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=10,
            attention_bias=bias,
            sample_size=8,
        )
    )
    latents = RNG.normal(size=(2, 4, 6, 4)).astype(np.float32)
    caption, times = RNG.normal(size=(2, 5, 10)).astype(np.float32), np.array([3.0, 700.0], np.float32)
    model = Sana(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), latents, caption, times)["params"])
    params = both_ways(theirs, sana_table(config), shapes)
    ours, _ = jax.jit(model.apply)({"params": params}, latents, caption, times)
    result = theirs(nchw(latents), torch.tensor(caption), torch.tensor(times)).sample
    near(np.moveaxis(ours, -1, 1), result)


@pytest.mark.parametrize(("up", "down"), [("interpolate", "Conv"), ("pixel_shuffle", "pixel_unshuffle")])
def test_dc_ae(up, down):
    blocks, widths, layers = ("ResBlock", "EfficientViTBlock", "EfficientViTBlock"), (8, 8, 16), (1, 1, 2)
    kernels = ((), (), (3, 5))
    ours = {f"{side}_{n}": v for side in ("encoder", "decoder") for n, v in
            (("blocks", blocks), ("widths", widths), ("layers", layers), ("kernels", kernels))}  # fmt: skip
    config = DCAEConfig(latent=4, head_dim=4, upsample=up, downsample=down, **ours)
    names = {"blocks": "block_types", "widths": "block_out_channels", "layers": "layers_per_block"}
    names["kernels"] = "qkv_multiscales"
    given = {f"{key.split('_')[0]}_{names[key.split('_')[1]]}": value for key, value in ours.items()}
    theirs = randomise(
        diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=4,
            upsample_block_type=up,
            downsample_block_type=down,
            **given,
        )
    )
    pictures = RNG.uniform(-1, 1, (2, 16, 8, 3)).astype(np.float32)
    model = DCAE(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), pictures)["params"])
    params = both_ways(theirs, dc_ae_table(), shapes)
    encoded = jax.jit(lambda p: model.apply({"params": p}, pictures, method="encode"))(params)
    latents = theirs.encode(nchw(pictures)).latent
    near(np.moveaxis(encoded, -1, 1), latents)
    decoded = jax.jit(lambda p, x: model.apply({"params": p}, x, method="decode"))(params, encoded)
    near(np.moveaxis(decoded, -1, 1), theirs.decode(latents).sample, 5e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_siglip2s_linear_patches(patch):
    """As Tar's decoder is kept: the patch embedding a matrix over (row, column, channel)."""
    config = SiglipConfig(
        16, 24, 2, 2, image_size=4 * patch, patch_size=patch, channels=5, position_resize="bilinear_antialias"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = transformers.Siglip2VisionConfig(**sizes, patch_size=patch, num_patches=16, num_channels=5)
    model = randomise(transformers.Siglip2VisionModel(theirs))
    images = jnp.asarray(RNG.uniform(-1, 1, (2, 3 * patch, 3 * patch, 5)), jnp.float32)
    tower = SiglipVision(config)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), images)["params"])
    params = both_ways(model, siglip_table(config, flat_patches=True), shapes)
    last, _ = jax.jit(tower.apply)({"params": params}, images)
    patches = np.asarray(images).reshape(2, 3, patch, 3, patch, 5).swapaxes(2, 3).reshape(2, 9, -1)
    result = model(
        torch.tensor(patches),
        pixel_attention_mask=torch.ones(2, 9, dtype=torch.int64),
        spatial_shapes=torch.tensor([[3, 3]] * 2),
    )
    near(last, result.last_hidden_state)


class EasyDict(dict):
    """As the package of this name pickles: its entries are its attributes too."""

    __module__ = "easydict"

    def __init__(self, values):
        super().__init__(values)
        self.__dict__.update(values)


def test_a_file_whose_arguments_are_an_easydict(tmp_path, monkeypatch):
    package = types.ModuleType("easydict")
    package.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "easydict", package)
    tower = SiglipConfig(8, 8, 2, 2, image_size=8, patch_size=4)
    decoder = SiglipConfig(8, 8, 1, 2, image_size=2, patch_size=1, channels=4, position_resize="bilinear_antialias")
    config = TATokConfig(encoder=tower, decoder=decoder, codebook_size=16)
    shapes = jax.eval_shape(
        lambda: TATok(config).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), method="everything")["params"]
    )
    table = ta_tok_table(config)
    state = {key: torch.full(shape, 0.5) for key, shape in upstream_shapes(table, shapes).items()}
    state["teacher.anything"] = torch.zeros(3)
    path = tmp_path / "ta_tok.pth"
    torch.save({"model": {"args": EasyDict({"pool_scale": 1, "deep": EasyDict({"dim": 4})}), "sd": state}}, path)
    monkeypatch.delitem(sys.modules, "easydict")  # nothing of it is imported when the file is read
    params = import_tree(table, open_source(path), shapes)
    assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(params))
