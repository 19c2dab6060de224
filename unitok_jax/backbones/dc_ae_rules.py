"""Weight rules of `dc_ae`: the names of diffusers' ``AutoencoderDC``."""

from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, LINEAR, POINTWISE, Transform


def dc_ae_table() -> Table:
    """Rules for the autoencoder."""
    rules = []
    for side, levels, ours in (("encoder", "down_blocks", "down"), ("decoder", "up_blocks", "up")):
        for end in ("conv_in", "conv_out"):
            rules += _layer(f"{side}.{end}", f"{side}/{end}", CONV)
            rules += _layer(f"{side}.{end}.conv", f"{side}/{end}/conv", CONV)
        rules += _block(f"{side}.{levels}.{{i}}.{{j}}.", f"{side}/{ours}_{{i}}_{{j}}/")
    return Table((*rules, *_norm("decoder.norm_out", "decoder/norm_out")))


def _block(upstream: str, ours: str) -> list[Rule]:
    """Any kind of block, or a level's change of resolution."""
    rules = [
        *_layer(upstream + "conv1", ours + "conv1", CONV),
        Rule(upstream + "conv2.weight", ours + "conv2/kernel", CONV),
        *_norm(upstream + "norm", ours + "norm"),
        *_layer(upstream + "conv", ours + "conv", CONV),
        *_layer(upstream + "conv_out.conv_inverted", ours + "ff/inverted", POINTWISE),
        *_layer(upstream + "conv_out.conv_depth", ours + "ff/depth", CONV),
        Rule(upstream + "conv_out.conv_point.weight", ours + "ff/point/kernel", POINTWISE),
        *_norm(upstream + "conv_out.norm", ours + "ff/norm"),
        Rule(upstream + "attn.to_out.weight", ours + "attn/out/kernel", LINEAR),
        *_norm(upstream + "attn.norm_out", ours + "attn/norm"),
    ]
    for name in ("q", "k", "v"):
        rules.append(Rule(f"{upstream}attn.to_{name}.weight", f"{ours}attn/{name}/kernel", LINEAR))
    for theirs, name in (("proj_in", "near"), ("proj_out", "mix")):
        key = f"{upstream}attn.to_qkv_multiscale.{{k}}.{theirs}.weight"
        rules.append(Rule(key, f"{ours}attn/{name}_{{k}}/kernel", CONV))
    return rules


def _layer(upstream: str, ours: str, transform: Transform) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/kernel", transform), Rule(upstream + ".bias", ours + "/bias")]


def _norm(upstream: str, ours: str) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/scale"), Rule(upstream + ".bias", ours + "/bias")]
