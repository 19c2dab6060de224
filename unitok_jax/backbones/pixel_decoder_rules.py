"""Weight rules of `pixel_decoder`."""

from unitok_jax.backbones.taming_vae_rules import DENSE, KERNEL, NORM, decoder_rules, module_rules
from unitok_jax.weights.rules import Table


def pixel_decoder_table() -> Table:
    """Rules for ``post_quant_conv`` and ``decoder``, as they stand in DualToken's state dict."""
    parts = (("norm1", "norm1", NORM), ("conv1", "narrow", DENSE), ("norm2", "norm2", NORM), ("conv2", "conv2", KERNEL))
    parts += (("nin_shortcut", "shortcut", DENSE),)
    narrowing = [
        rule
        for theirs, ours, leaves in parts
        for rule in module_rules(f"post_quant_conv.{theirs}", f"post_quant_conv/{ours}", leaves)
    ]
    return Table((*narrowing, *decoder_rules()))
