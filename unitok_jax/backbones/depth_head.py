"""Depth transformers: a small causal transformer over the residual codes of one position.

DualToken's two heads (arXiv 2503.14324, section 3.3; the details are ours, docs/systems/dualtoken.md) and VILA-U's
(arXiv 2409.04429, released ``RQTransformer``) are settings of one network. At depth 0 it reads the language model's
hidden state, at depth d the projected sum of the codebook rows chosen before; each depth has its classifier.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones.kv_cache import write_layer
from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import AttentionMask
from unitok_jax.layers.mlp import MLP
from unitok_jax.layers.norms import LayerNorm, RMSNorm
from unitok_jax.losses.vocabulary import VocabularyLoss, vocabulary_loss
from unitok_jax.parallel.mesh import pin_rows

States = Float[Array, "n depths width"]
Memory = tuple[jax.Array, jax.Array]  # keys and values of the depths so far, each [layers, n, heads, D, head_dim]

SHARDING: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/attention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"/attention/[qkv]/bias$", ("tensor", None)),
    (r"/attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"/(attention/out|fc2|hidden_proj|code_proj)/bias$", (None,)),
    (r"/mlp/fc1/kernel$", ("fsdp", "tensor")),
    (r"/mlp/fc1/bias$", ("tensor",)),
    (r"/mlp/fc2/kernel$", ("tensor", "fsdp")),
    (r"/mlp/w1$", (None, "fsdp", "tensor")),
    (r"/mlp/w2$", (None, "tensor", "fsdp")),
    (r"/(norm|norm1|norm2)/(scale|bias)$", (None,)),
    (r"/hidden_proj/kernel$", ("fsdp", "tensor")),
    (r"/code_proj/kernel$", (None, "fsdp")),
    (r"/positions$", (None, None)),
    (r"/classifiers/span_\d+_\d+/kernel$", (None, "fsdp", "tensor")),
    (r"/classifiers/span_\d+_\d+/bias$", (None, "tensor")),
)


@dataclasses.dataclass(frozen=True)
class DepthHeadConfig:
    """A depth transformer; the defaults are those of DualToken's heads beside Qwen2.5-3B.

    Attributes:
        hidden: width of the language model.
        width: of the head; 0 is `hidden`.
        layers, heads: of the transformer.
        depth: codes of a position, D.
        codes: values of a code, K.
        code_features: width of a codebook row.
        ffn: ``shared`` by all depths (with layer norms and depth positions) or ``per_depth`` (RMSNorm, no positions,
            feed-forward layers of width 2E without biases).
        project_hidden: whether the hidden state is projected though the widths agree (VILA-U).
        code_bias: whether the projection of codebook rows has a bias (VILA-U).
        one_classifier: one classifier for all depths (VILA-U).
        dropout: rate on what each branch adds, in training.
        dtype: what is computed in.
    """

    hidden: int = 2048
    width: int = 0
    layers: int = 3
    heads: int = 16
    depth: int = 8
    codes: int = 16384
    code_features: int = 32
    ffn: Literal["shared", "per_depth"] = "shared"
    project_hidden: bool = False
    code_bias: bool = False
    one_classifier: bool = False
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        if self.ffn not in ("shared", "per_depth"):
            raise UserError(f"depth head: ffn {self.ffn!r}; expected shared or per_depth")
        if self.size % self.heads:
            raise UserError(f"depth head: heads {self.heads} must divide width {self.size}")

    @property
    def size(self) -> int:
        """The width of the head, E."""
        return self.width or self.hidden

    @property
    def classifiers(self) -> int:
        """How many classifiers there are."""
        return 1 if self.one_classifier else self.depth

    def norm(self, name: str) -> nn.Module:
        """A norm of the head's kind; call inside a compact module."""
        return LayerNorm(1e-5, name=name) if self.ffn == "shared" else RMSNorm(1e-6, name=name)


_small = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Causal self-attention over depths, with or without a memory of the earlier ones, which ends at `start`."""

    config: DepthHeadConfig

    @nn.compact
    def __call__(
        self, x: States, memory: Memory | None, layer: Int[Array, ""], start: Int[Array, ""] | None
    ) -> tuple[States, Memory | None]:
        c = self.config
        heads = functools.partial(nn.DenseGeneral, (c.heads, c.size // c.heads), dtype=c.dtype, kernel_init=_small)
        q, k, v = (heads(name=name)(x) for name in ("q", "k", "v"))
        mask = AttentionMask()
        if memory is not None and start is not None:
            index = jnp.broadcast_to(start + jnp.arange(x.shape[1]), x.shape[:2])
            keys, values = memory
            memory = write_layer(keys, k, layer, index), write_layer(values, v, layer, index)
            k, v = (m[layer].swapaxes(1, 2).astype(q.dtype) for m in memory)
            mask = AttentionMask(q_index=index)
        out = nn.DenseGeneral(c.size, axis=(-2, -1), dtype=c.dtype, kernel_init=_small, name="out")
        return out(attention(q, k, v, mask)), memory


class DepthMLP(nn.Module):
    """``w2[d] gelu(w1[d] x_d)``: matrices of their own for each depth, without biases."""

    config: DepthHeadConfig

    @nn.compact
    def __call__(self, x: States, start: Int[Array, ""] | None) -> States:
        c = self.config
        w1 = self.param("w1", _small, (c.depth, c.size, 2 * c.size))
        w2 = self.param("w2", _small, (c.depth, 2 * c.size, c.size))
        w1, w2 = (of_depths(w, start, x.shape[1]).astype(c.dtype) for w in (w1, w2))
        return jnp.einsum("ndf,dfe->nde", nn.gelu(jnp.einsum("nde,def->ndf", x, w1), approximate=False), w2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, as a scan step over layers."""

    config: DepthHeadConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, carry: tuple[States, Memory | None], layer: Int[Array, ""], start: Int[Array, ""] | None
    ) -> tuple[tuple[States, Memory | None], None]:
        c, (x, memory) = self.config, carry
        if memory is None:
            x = pin_rows(x)
        added, memory = Attention(c, name="attention")(c.norm("norm1")(x), memory, layer, start)
        x = x + self._dropped(added)
        y = c.norm("norm2")(x)
        if c.ffn == "per_depth":
            added = DepthMLP(c, name="mlp")(y, start)
        else:
            added = MLP(4 * c.size, "gelu", dtype=c.dtype, name="mlp")(y)
        return (x + self._dropped(added), memory), None

    def _dropped(self, x: States) -> States:
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(x)


class Stack(nn.Module):
    """All layers, one scan, named ``span_0_<layers>``."""

    config: DepthHeadConfig

    @nn.compact
    def __call__(
        self, x: States, memory: Memory | None, start: Int[Array, ""] | None, deterministic: bool
    ) -> tuple[States, Memory | None]:
        c = self.config
        scanned = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
        )(c, deterministic, name=f"span_0_{c.layers}")
        return scanned((x, memory), jnp.arange(c.layers), start)[0]


class Classifiers(nn.Module):
    """The classifiers' matrices, stacked under ``span_0_<number>``."""

    config: DepthHeadConfig

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "classifiers width codes"], Float[Array, "classifiers codes"]]:
        c = self.config
        return _Matrix((c.classifiers, c.size, c.codes), name=f"span_0_{c.classifiers}")()


class _Matrix(nn.Module):
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        number, _, codes = self.shape
        return self.param("kernel", _small, self.shape), self.param("bias", nn.initializers.zeros, (number, codes))


class DepthHead(nn.Module):
    """A depth transformer; its parts are methods."""

    config: DepthHeadConfig

    def setup(self) -> None:
        c = self.config
        dense = functools.partial(nn.Dense, c.size, dtype=c.dtype, kernel_init=_small)
        self.code_proj = dense(use_bias=c.code_bias)
        if c.project_hidden or c.size != c.hidden:
            self.hidden_proj = dense()
        if c.ffn == "shared":
            self.positions = self.param("positions", _small, (c.depth, c.size))
        self.layers = Stack(c)
        self.norm = c.norm("norm")
        self.classifiers = Classifiers(c)

    def __call__(
        self,
        hidden: Float[Array, "n hidden"],
        rows: Float[Array, "n depth features"],
        deterministic: bool = True,
    ) -> States:
        """States that the classifiers read, [n, D, E].

        Args:
            hidden: the language model's hidden states.
            rows: codebook rows of the right codes; those of the last depth are not read.
            deterministic: False applies dropout, from the ``dropout`` key given to `apply`.
        """
        first = self._first(hidden)[:, None]
        later = self.code_proj(jnp.cumsum(rows[:, :-1].astype(jnp.float32), 1))
        return self._run(jnp.concatenate([first, later], 1), None, None, deterministic)[0]

    def step(
        self,
        hidden: Float[Array, "n hidden"],
        sums: Float[Array, "n features"],
        memory: Memory,
        depth: Int[Array, ""],
    ) -> tuple[Float[Array, "n codes"], Memory]:
        """Logits of one depth, given the sum of the rows chosen before and the memory of the depths before."""
        x = jnp.where(depth == 0, self._first(hidden), self.code_proj(sums))
        states, memory = self._run(x[:, None], memory, depth, True)
        kernel, bias = (of_depths(w, None if self.config.one_classifier else depth, 1)[0] for w in self.classifiers())
        return _logits(states[:, 0], kernel, bias), memory

    def logits(self, states: States) -> Float[Array, "n depths codes"]:
        """Float32 logits of all depths."""
        return jax.vmap(_logits, in_axes=(1, 0, 0), out_axes=1)(states, *self._by_depth())

    def score(
        self, states: States, codes: Int[Array, "n depths"], weights: Float[Array, " n"], chunk: int | None = None
    ) -> VocabularyLoss:
        """What the classifiers say of the right codes; [D * n], depth by depth, never [n, D, K] at once."""
        ones = jnp.ones((len(states), 1), states.dtype)

        def one(args: tuple[jax.Array, ...]) -> VocabularyLoss:
            x, kernel, bias, right = args
            x, kernel = jnp.concatenate([x, ones], 1), jnp.concatenate([kernel, bias[None]])  # the bias as a row
            return vocabulary_loss(x, kernel, right, weights, self.config.codes, chunk)

        scored = jax.lax.map(one, (states.swapaxes(0, 1), *self._by_depth(), codes.T))
        return jax.tree.map(lambda x: x.reshape(-1), scored)

    def _first(self, hidden: Float[Array, "n hidden"]) -> Float[Array, "n width"]:
        c = self.config
        return self.hidden_proj(hidden) if c.project_hidden or c.size != c.hidden else hidden.astype(c.dtype)

    def _run(self, x: States, memory: Memory | None, start: Any, deterministic: bool) -> tuple[States, Any]:
        """The states, and the memory with theirs; None where none is given."""
        if self.config.ffn == "shared":
            x = x + of_depths(self.positions, start, x.shape[1]).astype(x.dtype)
        x, memory = self.layers(x, memory, start, deterministic)
        return self.norm(x), memory

    def _by_depth(self) -> tuple[jax.Array, jax.Array]:
        depth = self.config.depth
        kernel, bias = self.classifiers()
        return jnp.broadcast_to(kernel, (depth, *kernel.shape[1:])), jnp.broadcast_to(bias, (depth, bias.shape[1]))


def _logits(x: Float[Array, "n width"], kernel: Any, bias: Any) -> Float[Array, "n codes"]:
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32) + bias


def of_depths(stacked: Float[Array, "depth *rest"], start: Any, depths: int) -> Float[Array, "depths *rest"]:
    """The entries of `depths` depths from `start` on; None stands for all from the first."""
    return stacked if start is None else jax.lax.dynamic_slice_in_dim(stacked, start, depths)


def new_memory(config: DepthHeadConfig, rows: int) -> Memory:
    """An empty memory for `rows` positions."""
    shape = (config.layers, rows, config.heads, config.depth, config.size // config.heads)
    return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)


def init_depth_head(config: DepthHeadConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters."""
    hidden, rows = jnp.zeros((1, config.hidden)), jnp.zeros((1, config.depth, config.code_features))

    def everything(head: DepthHead) -> jax.Array:
        return head.logits(head(hidden, rows))

    return DepthHead(config).init(key, method=everything)["params"]
