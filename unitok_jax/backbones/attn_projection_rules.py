"""Weight rules of `attn_projection`."""

from unitok_jax.weights.kinds import Split
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import HEADS_BIAS, HEADS_IN, LINEAR


def attn_projection_table() -> Table:
    """Rules for one ``AttnProjection``, whose q, k and v share a projection; the zero bias of k is a stored buffer."""
    parts = ("q", "k", "v")
    linear = (("attn.proj", "attention/out"), ("proj", "proj"))
    linear += (("mlp.w0", "mlp/gate"), ("mlp.w1", "mlp/up"), ("mlp.w2", "mlp/down"))
    norms = (("norm1", "norm1"), ("norm2", "norm2"), ("norm3", "norm3"), ("mlp.norm", "mlp/norm"))
    biases = zip(("q_bias", "zero_k_bias", "v_bias"), parts, strict=True)
    return Table(
        (
            Rule("attn.qkv.weight", tuple(f"attention/{part}/kernel" for part in parts), HEADS_IN, Split()),
            *(Rule(f"attn.{theirs}", f"attention/{ours}/bias", HEADS_BIAS) for theirs, ours in biases),
            *(Rule(f"{theirs}.weight", f"{ours}/kernel", LINEAR) for theirs, ours in linear),
            *(Rule(f"{theirs}.bias", f"{ours}/bias") for theirs, ours in linear),
            *(Rule(f"{theirs}.weight", f"{ours}/scale") for theirs, ours in norms),
            *(Rule(f"{theirs}.bias", f"{ours}/bias") for theirs, ours in norms),
        )
    )
