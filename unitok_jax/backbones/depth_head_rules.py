"""Weight rules of `depth_head`: the names of DualToken's heads (our design) and of VILA-U's."""

from unitok_jax.backbones.depth_head import DepthHeadConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import HEADS_BIAS, HEADS_IN, HEADS_OUT, LINEAR, Unsqueeze

OURS = "layers/span_{i}/"


def depth_head_table(config: DepthHeadConfig) -> Table:
    """Rules for one of DualToken's heads."""
    rules = [*_blocks("blocks.{i}.", config), *_norm("norm", "norm", config), *_linear("classifiers.{d}", "{d}")]
    rules.append(Rule("code_proj.weight", "code_proj/kernel", LINEAR))
    if config.code_bias:
        rules.append(Rule("code_proj.bias", "code_proj/bias"))
    if config.ffn == "shared":
        rules.append(Rule("pos_emb", "positions", Unsqueeze((0,))))
    if config.project_hidden or config.size != config.hidden:
        rules += _dense("hidden_proj", "hidden_proj")
    return Table(tuple(rules))


def vilau_table(config: DepthHeadConfig) -> Table:
    """Rules for VILA-U's ``rqtransformer``; the config has `project_hidden`, `code_bias` and `one_classifier`."""
    rules = [
        *_blocks("head_transformer.blocks.{i}.", config),
        *_norm("classifier_mlp.layer_norm", "norm", config),
        *_linear("classifier_mlp.linear", "{d}"),
        *_dense("in_mlp_1", "code_proj"),
        *_dense("in_mlp_2", "hidden_proj"),
        Rule("pos_emb_d", "positions", Unsqueeze((0,))),
    ]
    return Table(tuple(rules))


def _blocks(upstream: str, config: DepthHeadConfig) -> list[Rule]:
    rules = [*_norm(upstream + "ln1", OURS + "norm1", config), *_norm(upstream + "ln2", OURS + "norm2", config)]
    for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v")):
        key, path = f"{upstream}attn.{theirs}.", f"{OURS}attention/{ours}/"
        rules += [Rule(key + "weight", path + "kernel", HEADS_IN), Rule(key + "bias", path + "bias", HEADS_BIAS)]
    rules.append(Rule(upstream + "attn.proj.weight", OURS + "attention/out/kernel", HEADS_OUT))
    rules.append(Rule(upstream + "attn.proj.bias", OURS + "attention/out/bias"))
    if config.ffn == "per_depth":
        return [*rules, Rule(upstream + "w1", OURS + "mlp/w1"), Rule(upstream + "w2", OURS + "mlp/w2")]
    return rules + _dense(upstream + "mlp.0", OURS + "mlp/fc1") + _dense(upstream + "mlp.2", OURS + "mlp/fc2")


def _linear(upstream: str, depth: str) -> list[Rule]:
    path = f"classifiers/span_{depth}/"
    return [Rule(upstream + ".weight", path + "kernel", LINEAR), Rule(upstream + ".bias", path + "bias")]


def _dense(upstream: str, ours: str) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/kernel", LINEAR), Rule(upstream + ".bias", ours + "/bias")]


def _norm(upstream: str, ours: str, config: DepthHeadConfig) -> list[Rule]:
    scale = [Rule(upstream + ".weight", ours + "/scale")]
    return [*scale, Rule(upstream + ".bias", ours + "/bias")] if config.ffn == "shared" else scale
