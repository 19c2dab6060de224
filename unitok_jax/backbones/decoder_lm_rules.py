"""Weight rules of `decoder_lm`: the names that Hugging Face gives Llama, Chameleon, Qwen2 and Qwen3."""

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    Collapse,
    Expand,
    Transform,
    vocabulary,
    vocabulary_head,
)

UPSTREAM = "model.layers.{i}."
OURS = "layers/span_{i}/"
IGNORED = {
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "a buffer; recomputed from rope_theta",
}


def decoder_table(config: DecoderConfig) -> Table:
    """Rules for a decoder; paths as in `DecoderLM`.

    Tied checkpoints have no ``lm_head.weight``; one that is there all the same is passed over.
    """
    rules = [
        Rule("model.embed_tokens.weight", "embed/embedding", vocabulary(config.vocab_size)),
        Rule("model.norm.weight", "final_norm/scale"),
        Rule(UPSTREAM + "input_layernorm.weight", OURS + "attention_norm/scale"),
        Rule(UPSTREAM + "post_attention_layernorm.weight", OURS + "mlp_norm/scale"),
        Rule(UPSTREAM + "self_attn.o_proj.weight", OURS + "attention/out/kernel", HEADS_OUT),
    ]
    for name in ("q", "k", "v"):
        rules.append(Rule(f"{UPSTREAM}self_attn.{name}_proj.weight", f"{OURS}attention/{name}/kernel", HEADS_IN))
        if config.qkv_bias:
            rules.append(Rule(f"{UPSTREAM}self_attn.{name}_proj.bias", f"{OURS}attention/{name}/bias", HEADS_BIAS))
    for name in ("gate", "up", "down"):
        rules.append(Rule(f"{UPSTREAM}mlp.{name}_proj.weight", f"{OURS}mlp/{name}/kernel", LINEAR))
    rules += _norm_rules(config)
    if config.tied_embeddings:
        return Table(tuple(rules), IGNORED | {r"lm_head\.weight": "a copy of the embedding table"})
    head = Rule("lm_head.weight", "head/kernel", vocabulary_head(config.vocab_size))
    return Table((*rules, head), IGNORED)


def _norm_rules(config: DecoderConfig) -> list[Rule]:
    """q and k norms: ``rmsnorm`` one row [H]; ``layernorm`` [groups, H], where Hugging Face keeps one row a head."""
    rules = []
    for name, heads in (("q", config.heads), ("k", config.kv_heads)):
        upstream, ours = f"{UPSTREAM}self_attn.{name}_norm.", f"{OURS}attention/{name}_norm/"
        if config.qk_norm == "rmsnorm":
            rules.append(Rule(upstream + "weight", ours + "scale"))
        elif config.qk_norm == "layernorm":
            also: tuple[Transform, ...] = (Collapse(heads), *([Expand(1)] if config.qk_norm_groups == heads else []))
            rules.append(Rule(upstream + "weight", ours + "scale", also=also))
            rules.append(Rule(upstream + "bias", ours + "bias", also=also))
    return rules
