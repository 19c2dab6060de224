"""Weight rules of `siglip` for timm's and open_clip's names of the same tower (``vit_so400m_patch16_siglip_384``)."""

from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.weights.kinds import Split
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, HEADS_BIAS, HEADS_IN, HEADS_OUT, LINEAR, SAME, Transform, Unsqueeze


def siglip_timm_table(config: SiglipConfig) -> Table:
    """Rules for a vision tower; below open_clip's ``visual.trunk.`` the names are timm's."""
    rules = [
        Rule("pos_embed", "embeddings/position/embedding", Unsqueeze((0,))),
        *_leaves("patch_embed.proj", "embeddings/patch", CONV),
        *_block("blocks.{i}.", "layers/span_{i}/"),
        *_leaves("norm", "post_norm", SAME, "scale"),
    ]
    if config.pooling:
        rules.append(Rule("attn_pool.latent", "head/probe"))
        rules += pooling_rules("attn_pool.", "head/")
    text = {r"(?!visual\.)(text|logit)_?.*": "the text tower"}
    return Table(tuple(rules), text, aliases=(("visual.trunk.", ""),))


def pooling_rules(upstream: str, ours: str) -> list[Rule]:
    """timm's attention pool, without its latent."""
    keys = tuple(f"{ours}attention/{name}/" for name in "kv")
    return [
        Rule(upstream + "q.weight", ours + "attention/q/kernel", HEADS_IN),
        Rule(upstream + "q.bias", ours + "attention/q/bias", HEADS_BIAS),
        Rule(upstream + "kv.weight", tuple(key + "kernel" for key in keys), HEADS_IN, Split()),
        Rule(upstream + "kv.bias", tuple(key + "bias" for key in keys), HEADS_BIAS, Split()),
        *_leaves(upstream + "proj", ours + "attention/out", HEADS_OUT),
        *_leaves(upstream + "norm", ours + "norm", SAME, "scale"),
        *_mlp(upstream, ours),
    ]


def _block(upstream: str, ours: str) -> list[Rule]:
    paths = tuple(f"{ours}attention/{name}/" for name in "qkv")
    return [
        Rule(upstream + "attn.qkv.weight", tuple(path + "kernel" for path in paths), HEADS_IN, Split()),
        Rule(upstream + "attn.qkv.bias", tuple(path + "bias" for path in paths), HEADS_BIAS, Split()),
        *_leaves(upstream + "attn.proj", ours + "attention/out", HEADS_OUT),
        *_leaves(upstream + "norm1", ours + "norm1", SAME, "scale"),
        *_leaves(upstream + "norm2", ours + "norm2", SAME, "scale"),
        *_mlp(upstream, ours),
    ]


def _mlp(upstream: str, ours: str) -> list[Rule]:
    return [rule for fc in ("fc1", "fc2") for rule in _leaves(f"{upstream}mlp.{fc}", f"{ours}mlp/{fc}", LINEAR)]


def _leaves(upstream: str, ours: str, transform: Transform, weight: str = "kernel") -> list[Rule]:
    return [Rule(f"{upstream}.weight", f"{ours}/{weight}", transform), Rule(f"{upstream}.bias", f"{ours}/bias")]
