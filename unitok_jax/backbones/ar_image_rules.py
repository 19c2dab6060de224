"""Weight rules of `ar_image`: the names of Tar's ``ar_dtok_*.pth``, which are LlamaGen's."""

from unitok_jax.backbones.ar_image import ARImageConfig
from unitok_jax.weights.kinds import Split
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import HEADS_IN, HEADS_OUT, LINEAR, Unsqueeze, vocabulary, vocabulary_head

UPSTREAM = "layers.{i}."
OURS = "layers/span_{i}/"


def ar_image_table(config: ARImageConfig) -> Table:
    """Rules for the picture model; queries, keys and values are one matrix upstream, in this order."""
    rules = [
        Rule("abs_pe", "positions", Unsqueeze((0,))),
        Rule("clip_proj.weight", "condition/kernel", LINEAR),
        Rule("clip_proj.bias", "condition/bias"),
        Rule("tok_embeddings.weight", "embed/embedding", vocabulary(config.codes)),
        Rule("norm.weight", "final_norm/scale"),
        Rule("output.weight", "head/kernel", vocabulary_head(config.codes)),
        Rule(
            UPSTREAM + "attention.wqkv.weight",
            tuple(f"{OURS}attention/{name}/kernel" for name in ("q", "k", "v")),
            HEADS_IN,
            Split(),
        ),
        Rule(UPSTREAM + "attention.wo.weight", OURS + "attention/out/kernel", HEADS_OUT),
        Rule(UPSTREAM + "attention_norm.weight", OURS + "attention_norm/scale"),
        Rule(UPSTREAM + "ffn_norm.weight", OURS + "mlp_norm/scale"),
    ]
    for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
        rules.append(Rule(f"{UPSTREAM}feed_forward.{theirs}.weight", f"{OURS}mlp/{ours}/kernel", LINEAR))
    return Table(tuple(rules))
