"""Weight rules of `taming_vae`: the names of Chameleon's VQGAN and of LlamaGen's VQ-VAE."""

import numpy as np

from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, POINTWISE, SAME, Transform

NORM = (("weight", "scale", SAME), ("bias", "bias", SAME))
KERNEL = (("weight", "kernel", CONV), ("bias", "bias", SAME))
DENSE = (("weight", "kernel", POINTWISE), ("bias", "bias", SAME))
USAGE = 65536  # entries of LlamaGen's statistics buffer, whatever the codebook's size
Leaves = tuple[tuple[str, str, Transform], ...]


def vqgan_table() -> Table:
    """Rules for Chameleon's ``vqgan.ckpt``."""
    loss = {r"loss\..*": "the training loss's networks; Chameleon's loader drops them too"}
    return Table((*_vqmodel_rules(), *decoder_rules()), loss)


def decoder_rules() -> list[Rule]:
    """Rules for a decoder as taming names it: levels from the highest resolution up, by number."""
    return [
        *_ends("decoder"),
        *_resnet("decoder.up.{i}.block.{j}", "decoder/up_{i}/block_{j}"),
        *_attention("decoder.up.{i}.attn.{j}", "decoder/up_{i}/attn_{j}"),
        *module_rules("decoder.up.{i}.upsample.conv", "decoder/up_{i}/upsample", KERNEL),
        *_middle("decoder.mid.", ("block_1", "attn_1", "block_2"), "decoder"),
    ]


def chameleon_vqmodel_table() -> Table:
    """Rules for Hugging Face's ``ChameleonVQVAE``, which reads pictures only."""
    return Table(tuple(_vqmodel_rules()), absent={r"decoder/.*": "Hugging Face Chameleon has no picture decoder"})


def _vqmodel_rules() -> list[Rule]:
    return [
        *_ends("encoder"),
        *_resnet("encoder.down.{i}.block.{j}", "encoder/down_{i}/block_{j}"),
        *_attention("encoder.down.{i}.attn.{j}", "encoder/down_{i}/attn_{j}"),
        *module_rules("encoder.down.{i}.downsample.conv", "encoder/down_{i}/downsample", KERNEL),
        *_middle("encoder.mid.", ("block_1", "attn_1", "block_2"), "encoder"),
        *_codes("quantize.embedding.weight"),
    ]


def llamagen_table(levels: int) -> Table:
    """Rules for LlamaGen's VQ models (``vq_ds16_t2i.pt``: 5 levels), whose decoder counts them from the lowest up."""
    rules = [
        *_ends("encoder"),
        *_resnet("encoder.conv_blocks.{i}.res.{j}", "encoder/down_{i}/block_{j}"),
        *_attention("encoder.conv_blocks.{i}.attn.{j}", "encoder/down_{i}/attn_{j}"),
        *module_rules("encoder.conv_blocks.{i}.downsample.conv", "encoder/down_{i}/downsample", KERNEL),
        *_middle("encoder.mid.", ("0", "1", "2"), "encoder"),
        *_codes("quantize.embedding.weight"),
        *_ends("decoder"),
        *_middle("decoder.mid.", ("0", "1", "2"), "decoder"),
    ]
    for level in range(levels):
        upstream, ours = f"decoder.conv_blocks.{levels - 1 - level}.", f"decoder/up_{level}/"
        rules += _resnet(upstream + "res.{j}", ours + "block_{j}")
        rules += _attention(upstream + "attn.{j}", ours + "attn_{j}")
        rules += module_rules(upstream + "upsample.conv", ours + "upsample", KERNEL)
    usage = {"quantize.codebook_used": np.zeros(USAGE, np.float32)}  # a strict load of upstream's asks for it
    return Table(tuple(rules), {r"quantize\.codebook_used": "a buffer of usage statistics"}, constants=usage)


def _codes(key: str) -> list[Rule]:
    return [
        *module_rules("quant_conv", "quant_conv", DENSE),
        *module_rules("post_quant_conv", "post_quant_conv", DENSE),
        Rule(key, "codebook/embedding"),
    ]


def _ends(side: str) -> list[Rule]:
    parts = (("conv_in", KERNEL), ("norm_out", NORM), ("conv_out", KERNEL))
    return [rule for name, leaves in parts for rule in module_rules(f"{side}.{name}", f"{side}/{name}", leaves)]


def _middle(upstream: str, names: tuple[str, str, str], side: str) -> list[Rule]:
    first, attention, second = (upstream + name for name in names)
    return [
        *_resnet(first, f"{side}/mid/block_1"),
        *_attention(attention, f"{side}/mid/attn_1"),
        *_resnet(second, f"{side}/mid/block_2"),
    ]


def _resnet(upstream: str, ours: str) -> list[Rule]:
    parts = (("norm1", "norm1", NORM), ("conv1", "conv1", KERNEL), ("norm2", "norm2", NORM))
    parts += (("conv2", "conv2", KERNEL), ("nin_shortcut", "shortcut", DENSE))
    return [
        rule
        for theirs, name, leaves in parts
        for rule in module_rules(f"{upstream}.{theirs}", f"{ours}/{name}", leaves)
    ]


def _attention(upstream: str, ours: str) -> list[Rule]:
    parts = (("norm", "norm", NORM), ("q", "q", DENSE), ("k", "k", DENSE), ("v", "v", DENSE))
    parts += (("proj_out", "out", DENSE),)
    return [
        rule
        for theirs, name, leaves in parts
        for rule in module_rules(f"{upstream}.{theirs}", f"{ours}/{name}", leaves)
    ]


def module_rules(upstream: str, ours: str, leaves: Leaves) -> list[Rule]:
    """Rules for the leaves (`NORM`, `KERNEL`, `DENSE`) of one module."""
    return [Rule(f"{upstream}.{theirs}", f"{ours}/{leaf}", transform) for theirs, leaf, transform in leaves]
