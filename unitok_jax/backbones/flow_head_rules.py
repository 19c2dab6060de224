"""Weight rules of `flow_head`: the released heads, whose keys begin with ``net.``."""

from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.backbones.grid_transformer_rules import fused_attention, fused_gate
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR

NAMES = {
    "time_embed.mlp.0": "time/fc1",
    "time_embed.mlp.2": "time/fc2",
    "cond_embed": "condition",
    "input_proj": "input",
    "ada_ln_blocks.{i}": "modulation_{i}_modulate",
    "final_layer.ada_ln_modulation": "output_modulate",
    "final_layer.linear": "output",
}


def flow_head_table(config: FlowHeadConfig) -> Table:
    """Rules for a head."""
    rules = [rule for upstream, ours in NAMES.items() for rule in _linear(f"net.{upstream}", ours)]
    key, path = "net.res_blocks.{i}.", "blocks/span_{i}/"
    norms = ("norm",) if config.kind == "mlp" else ("norm1", "norm2")
    for norm in norms:
        rules.append(Rule(f"{key}{norm}.weight", f"{path}{norm}/scale"))
        rules.append(Rule(f"{key}{norm}.bias", f"{path}{norm}/bias"))
    if config.kind == "transformer":
        rules += fused_attention(f"{key}attn", f"{path}attention", bias=True)
    if config.kind == "transformer" and not config.gated:
        rules += [*_linear(f"{key}mlp.0", f"{path}mlp/fc1"), *_linear(f"{key}mlp.2", f"{path}mlp/fc2")]
    else:
        rules += fused_gate(key.removesuffix("."), f"{path}mlp", bias=True)
    return Table(tuple(rules))


def _linear(upstream: str, ours: str) -> list[Rule]:
    return [Rule(f"{upstream}.weight", f"{ours}/kernel", LINEAR), Rule(f"{upstream}.bias", f"{ours}/bias")]
