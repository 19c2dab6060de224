"""Weight rules of `sana`: the names of diffusers' ``SanaTransformer2DModel``."""

import dataclasses
from typing import Any

from unitok_jax.backbones.sana import SanaConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, LINEAR, POINTWISE, Shape, Transform

UPSTREAM = "transformer_blocks.{i}."
OURS = "blocks/span_{i}/"


@dataclasses.dataclass(frozen=True)
class Squares:
    """A convolution whose stride is its size, [D, C, p, p], as the matrix [p * p * C, D]."""

    side: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (shape[1], shape[0] // self.side**2, self.side, self.side)

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.transpose(2, 3, 1, 0).reshape(shape)

    def to_upstream(self, x: Any) -> Any:
        return x.reshape(self.side, self.side, -1, x.shape[1]).transpose(3, 2, 0, 1)


def sana_table(config: SanaConfig) -> Table:
    """Rules for the transformer."""
    rules = [
        Rule("patch_embed.proj.weight", "patch/kernel", Squares(config.patch)),
        Rule("patch_embed.proj.bias", "patch/bias"),
        *_linear("time_embed.emb.timestep_embedder.linear_1", "time/fc1"),
        *_linear("time_embed.emb.timestep_embedder.linear_2", "time/fc2"),
        *_linear("time_embed.linear", "time/modulation"),
        *_linear("caption_projection.linear_1", "projection/fc1"),
        *_linear("caption_projection.linear_2", "projection/fc2"),
        Rule("caption_norm.weight", "caption_norm/scale"),
        Rule("scale_shift_table", "modulation"),
        *_linear("proj_out", "out"),
        Rule(UPSTREAM + "scale_shift_table", OURS + "modulation"),
        *(rule for n in ("1", "2") for rule in _attention(n, biased=n == "2" or config.attention_bias)),
        *_linear(UPSTREAM + "ff.conv_inverted", OURS + "ff/inverted", POINTWISE),
        *_linear(UPSTREAM + "ff.conv_depth", OURS + "ff/depth", CONV),
        Rule(UPSTREAM + "ff.conv_point.weight", OURS + "ff/point/kernel", POINTWISE),
    ]
    return Table(tuple(rules))


def _attention(number: str, *, biased: bool) -> list[Rule]:
    upstream, ours = f"{UPSTREAM}attn{number}.", f"{OURS}attn{number}/"
    rules = []
    for name in ("q", "k", "v"):
        rules.append(Rule(f"{upstream}to_{name}.weight", f"{ours}{name}/kernel", LINEAR))
        if biased:
            rules.append(Rule(f"{upstream}to_{name}.bias", f"{ours}{name}/bias"))
    return rules + _linear(upstream + "to_out.0", ours + "out")


def _linear(upstream: str, ours: str, transform: Transform = LINEAR) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/kernel", transform), Rule(upstream + ".bias", ours + "/bias")]
