"""Weight rules of `decoder_lm`: the names that Hugging Face gives Llama, Chameleon, Qwen2 and Qwen3."""

from typing import Literal

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    SAME,
    Chain,
    Collapse,
    Expand,
    HalfSplit,
    Transform,
    Unsqueezed,
    resized_vocabulary,
    vocabulary,
    vocabulary_head,
)

UPSTREAM = "model.layers.{i}."
OURS = "layers/span_{i}/"
IGNORED = {
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "a buffer; recomputed from rope_theta",
}


def decoder_table(
    config: DecoderConfig, norm_rows: Literal["groups", "heads"] = "groups", starts_from: int | None = None
) -> Table:
    """Rules for a decoder; paths as in `DecoderLM`.

    Tied checkpoints have no ``lm_head.weight``; one that is there all the same is passed over.

    Args:
        config: of the decoder.
        norm_rows: what export writes of the ``layernorm`` kind of q and k norms: a row for each group of heads, as
            UniToken and Lumina-mGPT keep them, or one for each head, as Hugging Face does. Import takes both.
        starts_from: rows of the tables of the language model that this one is trained from, which import takes as
            well; see `transforms.Resized`.
    """
    resized = resized_vocabulary(starts_from, config.vocab_size) if starts_from else ()
    rules = [
        Rule("model.embed_tokens.weight", "embed/embedding", vocabulary(config.vocab_size), also=resized[:1]),
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
    rules += _norm_rules(config, norm_rows)
    if config.tied_embeddings:
        return Table(tuple(rules), IGNORED | {r"lm_head\.weight": "a copy of the embedding table"})
    head = Rule("lm_head.weight", "head/kernel", vocabulary_head(config.vocab_size), also=resized[1:])
    return Table((*rules, head), IGNORED)


def _norm_rules(config: DecoderConfig, rows: str) -> list[Rule]:
    """q and k norms: ``rmsnorm`` one row [H]; ``layernorm`` [groups, H], where Hugging Face keeps one row a head."""
    rules = []
    for name, heads in (("q", config.heads), ("k", config.kv_heads)):
        upstream, ours = f"{UPSTREAM}self_attn.{name}_norm.", f"{OURS}attention/{name}_norm/"
        if config.qk_norm == "rmsnorm":
            rules.append(Rule(upstream + "weight", ours + "scale"))
        elif config.qk_norm == "layernorm":
            whole: tuple[Transform, ...] = (Expand(1),) if config.qk_norm_groups == heads else ()
            layouts = (SAME, Collapse(heads)) if rows == "groups" else (Collapse(heads), SAME)
            for theirs, leaf in (("weight", "scale"), ("bias", "bias")):
                rules.append(Rule(upstream + theirs, ours + leaf, layouts[0], also=(*layouts[1:], *whole)))
    return rules


def meta_chameleon_table(config: DecoderConfig) -> Table:
    """Rules for Chameleon as Meta released it, in one file (``consolidated.pth`` of the 7B).

    Its rotary pairs are neighbours, and its q and k norms have one row for all heads.
    """
    upstream, pairs = "layers.{i}.", HalfSplit(config.head_dim)
    turned, plain = Chain((pairs, HEADS_IN)), HEADS_IN
    norm_rows = Chain((pairs, Unsqueezed(0)))
    rules = [
        Rule("tok_embeddings.weight", "embed/embedding", vocabulary(config.vocab_size)),
        Rule("norm.weight", "final_norm/scale"),
        Rule("output.weight", "head/kernel", vocabulary_head(config.vocab_size)),
        Rule(upstream + "attention_norm.weight", OURS + "attention_norm/scale"),
        Rule(upstream + "ffn_norm.weight", OURS + "mlp_norm/scale"),
        Rule(upstream + "attention.wo.weight", OURS + "attention/out/kernel", HEADS_OUT),
    ]
    for name, transform in (("q", turned), ("k", turned), ("v", plain)):
        rules.append(Rule(f"{upstream}attention.w{name}.weight", f"{OURS}attention/{name}/kernel", transform))
    for theirs, name in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
        rules.append(Rule(f"{upstream}feed_forward.{theirs}.weight", f"{OURS}mlp/{name}/kernel", LINEAR))
    for name in ("q", "k"):
        for theirs, leaf in (("weight", "scale"), ("bias", "bias")):
            key = f"{upstream}attention.{name}_normalization.{theirs}"
            rules.append(Rule(key, f"{OURS}attention/{name}_norm/{leaf}", norm_rows))
    return Table(tuple(rules), {r"rope\.freqs": "a buffer; recomputed from rope_theta"})
