"""Weight rules of `siglip` and `siglip_text`: the names that Hugging Face gives SigLIP and SigLIP2."""

from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.weights.kinds import Split
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import (
    CONV,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    SAME,
    Chain,
    Merge,
    Unsqueeze,
    vocabulary,
)

IGNORED = {r"embeddings\.position_ids": "a buffer that counts positions"}
FLAT_PATCHES = Chain((LINEAR, Merge(0), Merge(1)))  # [D, rows * columns * channels] -> [rows, columns, channels, D]
NO_HEAD = {r"head\..*": "the pooling head, which this config has not (pooling)"}


def siglip_table(config: SiglipConfig, *, flat_patches: bool = False) -> Table:
    """Rules for a vision tower; keys as transformers 5 has them, or, before that, below ``vision_model.``.

    Args:
        config: the tower's.
        flat_patches: the patch embedding is a linear layer upstream, as in the NaFlex ``Siglip2VisionModel``.
    """
    patches = FLAT_PATCHES if flat_patches else CONV
    rules = (
        Rule("embeddings.patch_embedding.weight", "embeddings/patch/kernel", patches),
        Rule("embeddings.patch_embedding.bias", "embeddings/patch/bias"),
        Rule("embeddings.position_embedding.weight", "embeddings/position/embedding"),
        *_layers(),
        *_norm("post_layernorm", "post_norm"),
    )
    tower = Table(rules, IGNORED, aliases=(("vision_model.", ""),))
    return tower + (Table(tuple(_pooling_head())) if config.pooling else Table((), NO_HEAD))


def siglip_text_table(config: SiglipTextConfig) -> Table:
    """Rules for a text tower: keys below ``text_model.``, and the loss's scale and bias, as in ``SiglipModel``."""
    rules = [
        Rule("embeddings.token_embedding.weight", "embeddings/token/embedding", vocabulary(config.vocab_size)),
        Rule("embeddings.position_embedding.weight", "embeddings/position/embedding"),
        *_layers(),
        *_norm("final_layer_norm", "final_norm"),
        *_linear("head", "head"),
    ]
    scalars = (Rule("logit_scale", "logit_scale", Unsqueeze((0,))), Rule("logit_bias", "logit_bias", Unsqueeze((0,))))
    return Table(tuple(rules), IGNORED).under("text_model.", "") + Table(scalars)


def _layers() -> list[Rule]:
    upstream, ours = "encoder.layers.{i}.", "layers/span_{i}/"
    rules = [*_norm(upstream + "layer_norm1", ours + "norm1"), *_norm(upstream + "layer_norm2", ours + "norm2")]
    for name in ("q", "k", "v"):
        rules.append(Rule(f"{upstream}self_attn.{name}_proj.weight", f"{ours}attention/{name}/kernel", HEADS_IN))
        rules.append(Rule(f"{upstream}self_attn.{name}_proj.bias", f"{ours}attention/{name}/bias", HEADS_BIAS))
    rules.append(Rule(upstream + "self_attn.out_proj.weight", ours + "attention/out/kernel", HEADS_OUT))
    rules.append(Rule(upstream + "self_attn.out_proj.bias", ours + "attention/out/bias"))
    return rules + _linear(upstream + "mlp.fc1", ours + "mlp/fc1") + _linear(upstream + "mlp.fc2", ours + "mlp/fc2")


def _pooling_head() -> list[Rule]:
    """The attention pooling; torch keeps its q, k and v projections as one ``in_proj``."""
    paths = tuple(f"head/attention/{name}/" for name in ("q", "k", "v"))
    return [
        Rule("head.probe", "head/probe"),
        Rule("head.attention.in_proj_weight", tuple(path + "kernel" for path in paths), HEADS_IN, Split()),
        Rule("head.attention.in_proj_bias", tuple(path + "bias" for path in paths), HEADS_BIAS, Split()),
        Rule("head.attention.out_proj.weight", "head/attention/out/kernel", HEADS_OUT),
        Rule("head.attention.out_proj.bias", "head/attention/out/bias"),
        *_norm("head.layernorm", "head/norm"),
        *_linear("head.mlp.fc1", "head/mlp/fc1"),
        *_linear("head.mlp.fc2", "head/mlp/fc2"),
    ]


def _norm(upstream: str, ours: str) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/scale", SAME), Rule(upstream + ".bias", ours + "/bias", SAME)]


def _linear(upstream: str, ours: str) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/kernel", LINEAR), Rule(upstream + ".bias", ours + "/bias", SAME)]
