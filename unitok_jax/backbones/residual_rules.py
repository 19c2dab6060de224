"""Weight rules of `quantizers.residual`: the names of RQ-VAE's codebooks, as DualToken keeps them."""

from unitok_jax.quantizers.residual import ResidualConfig
from unitok_jax.weights.kinds import ONE, Tie
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import ZeroRows

LEAVES = (("weight", "weight"), ("cluster_size_ema", "count"), ("embed_ema", "total"))


def residual_table(config: ResidualConfig) -> Table:
    """Rules for ``codebooks.<depth>``: a shared codebook stands there once a depth, and ends in a row of zeros."""
    rules = []
    for depth in range(1 if config.shared else config.depth):
        depths = range(config.depth) if config.shared else (depth,)
        for theirs, ours in LEAVES:
            keys = tuple(f"codebooks.{d}.{theirs}" for d in depths)
            same = Rule(keys, f"book_{depth}/{ours}", kind=Tie() if len(keys) > 1 else ONE)
            rules.append(Rule(keys, same.path, ZeroRows(1), same.kind) if ours == "weight" else same)
    return Table(tuple(rules))
