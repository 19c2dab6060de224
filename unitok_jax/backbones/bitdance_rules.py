"""Weight rules of `bitdance`: the released class-conditional models, without the tokenizer that they carry."""

from unitok_jax.backbones.bitdance import BitDanceConfig
from unitok_jax.backbones.flow_head_rules import flow_head_table
from unitok_jax.backbones.grid_transformer_rules import block_rules, fused_gate
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import Unsqueeze


def bitdance_table(config: BitDanceConfig) -> Table:
    """Rules for a generator."""
    rules = (
        Rule("cls_embedding.weight", "class_embedding/embedding"),
        Rule("query_token", "query_token", Unsqueeze((0,))),
        Rule("pos_for_diff.weight", "positions/embedding"),
        Rule("emb_norm.weight", "emb_norm/scale"),
        Rule("norm.weight", "norm/scale"),
        *fused_gate("proj_in", "proj_in", bias=True),
        *block_rules("layers", "layers"),
    )
    return Table(rules) + flow_head_table(config.head).under("head.", "head/")
