"""Weight rules of the blocks that the hybrid tokenizer and BitDance's generators share."""

from unitok_jax.weights.kinds import Split
from unitok_jax.weights.rules import Rule
from unitok_jax.weights.transforms import HEADS_BIAS, HEADS_IN, HEADS_OUT, LINEAR


def block_rules(upstream: str, ours: str) -> list[Rule]:
    """Rules of a stack: layer i is ``<upstream>.{i}.`` there and ``<ours>/span_{i}/`` here."""
    key, path = upstream + ".{i}.", ours + "/span_{i}/"
    return [
        Rule(key + "attention_norm.weight", path + "attention_norm/scale"),
        Rule(key + "ffn_norm.weight", path + "mlp_norm/scale"),
        *fused_attention(key + "attention", path + "attention", bias=False),
        *fused_gate(key + "feed_forward", path + "mlp", bias=False),
    ]


def fused_attention(upstream: str, ours: str, bias: bool) -> list[Rule]:
    """``wqkv`` (one projection upstream) and ``wo``."""
    paths = tuple(f"{ours}/{name}/" for name in "qkv")
    rules = [
        Rule(upstream + ".wqkv.weight", tuple(path + "kernel" for path in paths), HEADS_IN, Split()),
        Rule(upstream + ".wo.weight", ours + "/out/kernel", HEADS_OUT),
    ]
    if bias:
        rules.append(Rule(upstream + ".wqkv.bias", tuple(path + "bias" for path in paths), HEADS_BIAS, Split()))
        rules.append(Rule(upstream + ".wo.bias", ours + "/out/bias"))
    return rules


def fused_gate(upstream: str, ours: str, bias: bool) -> list[Rule]:
    """``w1`` (gate and up in one) and ``w2`` of a SwiGLU; `upstream` ends where ``.w1`` follows."""
    first, second = (f"{ours}/gate/", f"{ours}/up/"), f"{ours}/down/"
    rules = [
        Rule(upstream + ".w1.weight", tuple(path + "kernel" for path in first), LINEAR, Split()),
        Rule(upstream + ".w2.weight", second + "kernel", LINEAR),
    ]
    if bias:
        rules.append(Rule(upstream + ".w1.bias", tuple(path + "bias" for path in first), kind=Split()))
        rules.append(Rule(upstream + ".w2.bias", second + "bias"))
    return rules
