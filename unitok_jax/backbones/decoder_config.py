"""The sizes and switches of a decoder-only language model."""

import dataclasses
import itertools
from typing import Literal

from unitok_jax.errors import UserError

VOCABULARY_MULTIPLE = 256  # leaves over the vocabulary are padded to a multiple of this


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder of Llama's kind, and what Chameleon, Qwen2 and Qwen3 change in it.

    Attributes:
        vocab_size: number of ids; arrays are padded beyond it.
        width, ffn: model and feed-forward width.
        layers, heads, kv_heads, head_dim: of the stack; `kv_heads` divides `heads`.
        rope_theta: base of the rotary frequencies.
        rope_layout: ``half`` turns channel j with j + H/2, ``interleaved`` 2j with 2j + 1.
        norm_eps: of every norm.
        qkv_bias: biases on q, k and v (Qwen2).
        qk_norm: None, ``layernorm`` per head (Chameleon) or ``rmsnorm`` per head (Qwen3).
        qk_norm_groups: parameter rows of the ``layernorm`` kind; each serves a run of heads.
        swin_norm: norms on the branches' outputs instead of their inputs (Chameleon 30B).
        tied_embeddings: the head is the embedding table.
        dropout: rate on what each branch adds, in training.
        cuts: layers before which a new span begins.
        remat: recompute a layer's inside in the backward pass instead of keeping it.
        unroll: layers a scan step.
        dtype: what is computed in, such as ``bfloat16``.
    """

    vocab_size: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_layout: Literal["half", "interleaved"] = "half"
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: Literal["layernorm", "rmsnorm"] | None = None
    qk_norm_groups: int = 1
    swin_norm: bool = False
    tied_embeddings: bool = False
    dropout: float = 0.0
    cuts: tuple[int, ...] = ()
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise UserError(f"decoder: kv_heads {self.kv_heads} must divide heads {self.heads}")
        if self.head_dim % 2:
            raise UserError(f"decoder: head_dim {self.head_dim} must be even; rotary positions turn pairs")
        if self.rope_layout not in ("half", "interleaved"):
            raise UserError(f"decoder: rope_layout {self.rope_layout!r}; expected half or interleaved")
        if self.qk_norm not in (None, "layernorm", "rmsnorm"):
            raise UserError(f"decoder: qk_norm {self.qk_norm!r}; expected layernorm, rmsnorm or none")
        if self.qk_norm == "layernorm" and (self.heads % self.qk_norm_groups or self.kv_heads % self.qk_norm_groups):
            raise UserError(f"decoder: qk_norm_groups {self.qk_norm_groups} must divide heads and kv_heads")
        if list(self.cuts) != sorted(set(self.cuts)) or not all(0 < cut < self.layers for cut in self.cuts):
            raise UserError(f"decoder: cuts {self.cuts} must rise and lie between 0 and layers {self.layers}")

    @property
    def padded_vocab(self) -> int:
        """The vocabulary axis in memory."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(first, end) layers of each span."""
        return tuple(itertools.pairwise((0, *self.cuts, self.layers)))
