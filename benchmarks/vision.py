"""Tokenizers and towers twice: modules of `transformers` in torch, and ours with their weights."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoders import in_dtype, torch_device
from benchmarks.options import Options
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import chameleon_vqmodel_table, llamagen_table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import import_tree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A VQGAN, a VQ-VAE, a tower, and how many pictures are read at once."""

    vqgan: VAEConfig
    vq: VAEConfig
    tower: SiglipConfig
    batch: int


_LLAMAGEN = VAEConfig(embed_dim=8, codebook_size=16384, attn_resolutions=(16,), resolution=256, l2_norm=True)
_LEVELS = (1, 1, 2, 2, 4)
PRESETS = {
    "tiny": Sizes(
        VAEConfig(32, (1, 2), 1, 32, 8, 40, resolution=16),
        VAEConfig(32, (1, 2), 1, 16, 8, 40, (8,), resolution=16, l2_norm=True),
        SiglipConfig(32, 48, 2, 4, image_size=28, patch_size=7),
        2,
    ),
    "cpu": Sizes(
        VAEConfig(32, _LEVELS, 2, 128, 128, 8192, resolution=256),
        VAEConfig(32, _LEVELS, 2, 128, 8, 16384, (16,), resolution=256, l2_norm=True),
        SiglipConfig(384, 1536, 6, 6, image_size=224, patch_size=16, unroll=6),
        4,
    ),
    "released": Sizes(VAEConfig(), dataclasses.replace(_LLAMAGEN, z_channels=256), SiglipConfig(unroll=3), 16),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """One job of both sides.

    Attributes:
        ours: jitted, of (parameters, input).
        params: ours.
        theirs: torch's, of a tensor.
        given: the input; pictures are [B, H, W, 3] here and [B, 3, H, W] there.
        exact: the results are codes, of which 1 in 100 may differ, where two are about as near.
    """

    ours: Callable[[Any, Any], Any]
    params: Any
    theirs: Callable[[Any], Any]
    given: Callable[[int], np.ndarray]
    exact: bool = False


def matches(torch: Any, sizes: Sizes, options: Options) -> dict[str, Match]:
    """The jobs by name: a VQGAN reads, a VQ-VAE writes, a tower reads."""
    vqgan, janus, tower = (
        model.eval().to(torch_device(options), getattr(torch, options.dtype))
        for model in (_chameleon(sizes.vqgan), _janus(torch, sizes.vq), _siglip(sizes.tower))
    )
    read = functools.partial(_pictures, sizes.vqgan.resolution)
    both = _vae(sizes.vqgan, vqgan, chameleon_vqmodel_table(), options)
    two = _vae(sizes.vq, janus, llamagen_table(len(sizes.vq.multipliers)), options, _llamagen_name)
    grid = sizes.vq.resolution // sizes.vq.factor

    def their_codes(pixels: Any) -> Any:
        return vqgan.quantize(vqgan.quant_conv(vqgan.encoder(pixels)))[2]

    def their_picture(codes: Any) -> Any:
        latents = janus.quantize.embedding(codes).permute(0, 3, 1, 2)
        return janus.decoder(janus.post_quant_conv(latents)).permute(0, 2, 3, 1)

    def codes(count: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, sizes.vq.codebook_size, (count, grid, grid)).astype(np.int32)

    vision = SiglipVision(dataclasses.replace(sizes.tower, dtype=options.dtype))
    views = functools.partial(_pictures, sizes.tower.image_size)
    weights = _import(siglip_table(sizes.tower), tower, jax.eval_shape(vision.init, jax.random.key(0), views(1)))
    return {
        "VQGAN encode": Match(jax.jit(_encode(both[0])), in_dtype(both[1], options), their_codes, read, exact=True),
        "VQ-VAE decode": Match(jax.jit(_decode(two[0])), in_dtype(two[1], options), their_picture, codes),
        "SigLIP encode": Match(
            jax.jit(lambda p, x: vision.apply({"params": p}, x)[0]),
            in_dtype(weights, options),
            lambda pixels: tower(pixels).last_hidden_state,
            views,
        ),
    }


def _encode(vae: TamingVAE) -> Callable[[Any, Any], Any]:
    def encode(params: Any, pixels: Any) -> jax.Array:
        latents, _ = vae.apply({"params": params}, pixels, method="encode")
        return vae.apply({"params": params}, latents, method="quantize").codes.reshape(-1)

    return encode


def _decode(vae: TamingVAE) -> Callable[[Any, Any], Any]:
    return lambda params, codes: vae.apply({"params": params}, codes, method="decode_codes")[0]


def _vae(config: VAEConfig, model: Any, table: Any, options: Options, name: Any = str) -> tuple[TamingVAE, Any]:
    vae = TamingVAE(dataclasses.replace(config, dtype=options.dtype))
    images = _pictures(config.resolution, 1)
    shapes = jax.eval_shape(vae.init, jax.random.key(0), images)
    return vae, _import(table, model, shapes, name)


def _import(table: Any, model: Any, abstract: Any, name: Callable[[str], str] = str) -> Any:
    state = {name(key): value.float().cpu().numpy() for key, value in model.state_dict().items()}
    return jax.tree.map(jnp.asarray, import_tree(table, InMemory(state), abstract["params"]))


def _pictures(side: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def _vq_sizes(config: VAEConfig) -> dict[str, Any]:
    return {
        "embed_dim": config.embed_dim,
        "num_embeddings": config.codebook_size,
        "latent_channels": config.z_channels,
        "base_channels": config.channels,
        "channel_multiplier": list(config.multipliers),
        "num_res_blocks": config.res_blocks,
    }


def _chameleon(config: VAEConfig) -> Any:
    import transformers
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    sizes = {**_vq_sizes(config), "resolution": config.resolution, "attn_resolutions": None}
    return ChameleonVQVAE(transformers.ChameleonVQVAEConfig(**sizes))


def _janus(torch: Any, config: VAEConfig) -> Any:
    import transformers

    model = transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**_vq_sizes(config)))
    with torch.no_grad():
        rows = model.quantize.embedding.weight
        rows /= rows.norm(dim=-1, keepdim=True)  # its lookup never normalises, LlamaGen's and ours do
    return model


def _siglip(config: SiglipConfig) -> Any:
    import transformers

    sizes = {"hidden_size": config.width, "intermediate_size": config.ffn, "num_hidden_layers": config.layers}
    sizes |= {"num_attention_heads": config.heads, "image_size": config.image_size, "patch_size": config.patch_size}
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes))


def _llamagen_name(key: str) -> str:
    """LlamaGen's name of a tensor of Janus."""
    key = re.sub(r"(encoder|decoder)\.(?:down|up)\.(?=\d)", r"\1.conv_blocks.", key)
    key = re.sub(r"(conv_blocks\.\d+\.)block\.", r"\1res.", key)
    for theirs, number in (("mid.block_1", "mid.0"), ("mid.attn_1", "mid.1"), ("mid.block_2", "mid.2")):
        key = key.replace(theirs, number)
    return key
