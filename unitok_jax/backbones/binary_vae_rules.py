"""Weight rules of `binary_vae`: the released keys of both kinds, and the training container of the hybrid."""

import dataclasses

import numpy as np

from unitok_jax.backbones.binary_vae import BinaryVAEConfig
from unitok_jax.backbones.grid_transformer_rules import block_rules
from unitok_jax.weights.kinds import ONE, Tie
from unitok_jax.weights.moving_average import shadow
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, LINEAR, POINTWISE, SAME, Transform

IGNORED = {r"(?!encoder\.|decoder\.).*": "of the training run; the released loader drops all but the tokenizer too"}


def binary_vae_table(config: BinaryVAEConfig) -> Table:
    """Rules for a tokenizer as it is released: ``encoder.*`` and ``decoder.*``."""
    rules = [
        Rule("encoder.conv_in.weight", "encoder/conv_in/kernel", CONV),
        *_module("encoder.conv_out", "encoder/projection", POINTWISE),
        *_module("decoder.conv_in", "decoder/conv_in", CONV),
        *_module("decoder.conv_out", "decoder/conv_out", CONV),
        *_resnet("encoder.down.{i}.block.{j}", "encoder/down_{i}/block_{j}"),
        *_module("encoder.down.{i}.downsample", "encoder/down_{i}/downsample", CONV),
        *_resnet("decoder.up.{i}.block.{j}", "decoder/up_{i}/block_{j}"),
        *_module("decoder.up.{i}.upsample.conv1", "decoder/up_{i}/upsample", CONV),
        *_module("decoder.adaptive.{i}.gamma", "decoder/adaptive_{i}/gamma", LINEAR),
        *_module("decoder.adaptive.{i}.beta", "decoder/adaptive_{i}/beta", LINEAR),
    ]
    for part in ("encoder", "decoder"):
        rules += _resnet(f"{part}.mid_block.{{j}}", f"{part}/mid_block_{{j}}")
        rules += _module(f"{part}.norm_out", f"{part}/norm_out", SAME, "scale")
        if config.kind == "hybrid":
            rules.append(Rule(f"{part}.register_token.weight", f"{part}/transformer/registers"))
            rules += block_rules(f"{part}.mid_attn_blocks", f"{part}/transformer/layers")
    return Table(tuple(rules), IGNORED)


def training_container_table(config: BinaryVAEConfig) -> Table:
    """Rules that write the training run's own checkpoint: every tensor twice, plain and as its moving average.

    And the average's own settings, which stay what they are: its decay, and -1 for no count of updates. To read one,
    see `weights.moving_average` and the plain table: not every tensor need have an average.
    """

    def twice(rule: Rule) -> Rule:
        keys = (*rule.upstreams, *map(shadow, rule.upstreams))
        return dataclasses.replace(rule, upstream=keys, kind=Tie(equal=False) if rule.kind == ONE else rule.kind)

    settings = {"model_ema.decay": np.array(0.999, np.float32), "model_ema.num_updates": np.array(-1, np.int32)}
    return Table(tuple(map(twice, binary_vae_table(config).rules)), constants=settings)


def _module(upstream: str, ours: str, transform: Transform, weight: str = "kernel") -> list[Rule]:
    return [
        Rule(f"{upstream}.weight", f"{ours}/{weight}", transform),
        Rule(f"{upstream}.bias", f"{ours}/bias"),
    ]


def _resnet(upstream: str, ours: str) -> list[Rule]:
    """A residual block; its convolutions have no biases."""
    rules = [
        Rule(f"{upstream}.conv1.weight", f"{ours}/conv1/kernel", CONV),
        Rule(f"{upstream}.conv2.weight", f"{ours}/conv2/kernel", CONV),
        Rule(f"{upstream}.nin_shortcut.weight", f"{ours}/shortcut/kernel", POINTWISE),
    ]
    for norm in ("norm1", "norm2"):
        rules += _module(f"{upstream}.{norm}", f"{ours}/{norm}", SAME, "scale")
    return rules
