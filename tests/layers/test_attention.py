"""Every backend against one naive form; which backend runs where."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention, choose_backend
from unitok_jax.layers.attention_blockwise import Plan, blockwise_attention
from unitok_jax.layers.attention_kernels import splash_attention
from unitok_jax.layers.compiled_for import current_platform
from unitok_jax.layers.masks import FULL, AttentionMask, allowed, self_mask

B, S, N, K, H = 2, 37, 4, 2, 8
SEGMENTS = np.asarray([[1] * 12 + [2] * 20 + [0] * 5, [3] * 37])
BLOCKS = np.asarray([[-1] * 10 + [0] * 7 + [5] * 9 + [-1] * 11, [-1] * 37])
MASKS = {
    "full": FULL,
    "causal": self_mask(),
    "segments, both ways": self_mask(SEGMENTS, causal=False),
    "segments and blocks": self_mask(SEGMENTS, BLOCKS),
    "cached": AttentionMask(q_index=np.asarray([[20], [3]]) + np.arange(S)),
}


def qkv(q_len=S, k_len=S, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (B, q_len, N, H), (B, k_len, K, H), (B, k_len, K, H)
    return tuple(jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))


def plainly_allowed(mask, q_len, k_len):
    """The definition, position by position."""
    vector = lambda x, default: np.broadcast_to(default if x is None else x, (B, len(default)))  # noqa: E731
    q_index, k_index = vector(mask.q_index, np.arange(q_len)), vector(mask.k_index, np.arange(k_len))
    q_segments, k_segments = vector(mask.q_segments, np.ones(q_len)), vector(mask.k_segments, np.ones(k_len))
    q_blocks, k_blocks = vector(mask.q_blocks, -np.ones(q_len)), vector(mask.k_blocks, -np.ones(k_len))
    seen = np.zeros((B, q_len, k_len), bool)
    for b, s, t in np.ndindex(seen.shape):
        together = q_blocks[b, s] >= 0 and q_blocks[b, s] == k_blocks[b, t]
        ordered = not mask.causal or k_index[b, t] <= q_index[b, s] or together
        seen[b, s, t] = ordered and q_segments[b, s] == k_segments[b, t] != 0
    return seen


TILT = np.float32(np.arange(B * S * N * H).reshape(B, S, N, H) % 7 - 3)  # weighs every output differently


def naive(q, k, v, mask, scale, tilt=TILT):
    """Output and the gradients of ``sum(tilt * output)``, in float64 numpy, as the calculus has them."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    seen = plainly_allowed(mask, q.shape[1], k.shape[1])[:, None]
    k, v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    weights = np.exp(np.einsum("bsnh,btnh->bnst", q, k) * scale) * seen
    total = weights.sum(-1, keepdims=True)
    weights /= np.where(total == 0, 1, total)
    d_weights = np.einsum("bsnh,btnh->bnst", tilt, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale
    d_k, d_v = np.einsum("bnst,bsnh->btnh", d_scores, q), np.einsum("bnst,bsnh->btnh", weights, tilt)
    d_k, d_v = (x.reshape(*x.shape[:2], K, N // K, H).sum(3) for x in (d_k, d_v))
    return np.einsum("bnst,btnh->bsnh", weights, v), np.einsum("bnst,btnh->bsnh", d_scores, k), d_k, d_v


def with_gradients(function, q, k, v, tilt=TILT):
    """The same of one of ours."""

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(function, q, k, v)
        return out, *pull(tilt)

    return run(q, k, v)


def assert_close(ours, expected, tolerance=2e-5):
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("name", MASKS)
def test_the_mask_matrix_is_its_definition(name):
    matrix = np.broadcast_to(allowed(MASKS[name], S, S), (B, S, S))
    np.testing.assert_array_equal(matrix, plainly_allowed(MASKS[name], S, S))


@pytest.mark.parametrize("backend", ["xla", "blockwise"])
@pytest.mark.parametrize("name", MASKS)
def test_backends_match_the_naive_form(backend, name):
    mask, scale = MASKS[name], 0.3
    runs = {
        "xla": lambda q, k, v: attention(q, k, v, mask, scale=scale, backend="xla"),
        "blockwise": lambda q, k, v: blockwise_attention(q, k, v, mask, scale, block=16),
    }
    assert_close(with_gradients(runs[backend], *qkv()), naive(*qkv(), mask, scale))


@pytest.mark.parametrize("backend", ["xla", "blockwise"])
def test_queries_against_a_longer_cache(backend):
    mask = AttentionMask(q_index=jnp.asarray([[30], [11]]) + jnp.arange(3))
    q, k, v = qkv(q_len=3, k_len=40)
    out = jax.jit(lambda *x: attention(*x, mask, backend=backend))(q, k, v)
    np.testing.assert_allclose(out, naive(q, k, v, mask, H**-0.5, TILT[:, :3])[0], atol=2e-6)


@pytest.mark.parametrize("backend", ["xla", "blockwise"])
def test_padding_gives_zeros_and_finite_gradients(backend):
    mask = self_mask(jnp.zeros((B, S), jnp.int32))
    for result in with_gradients(lambda *x: attention(*x, mask, backend=backend), *qkv()):
        np.testing.assert_array_equal(result, 0)


def test_half_precision_keeps_its_dtype_and_accumulates_in_float32():
    q, k, v = qkv(dtype=jnp.bfloat16)
    wide = naive(*(x.astype(jnp.float32) for x in (q, k, v)), self_mask(), 1.0)[0]
    for backend in ("xla", "blockwise"):
        out = jax.jit(lambda *x: attention(*x, self_mask(), scale=1.0, backend=backend))(q, k, v)  # noqa: B023
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=0.03)


def test_splash_matches_the_naive_form():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (B, 128, heads, H)) for key, heads in zip(keys, (N, K, K), strict=True))
    mask = self_mask(np.asarray([[1] * 50 + [2] * 60 + [0] * 18, [1] * 128]))
    tilt = np.arange(q.size, dtype=np.float32).reshape(q.shape) % 7 - 3
    ours = with_gradients(lambda *x: splash_attention(*x, mask, 0.3, interpret=True), q, k, v, tilt)
    assert_close(ours, naive(q, k, v, mask, 0.3, tilt))


def test_splash_lowers_for_tpus():
    shapes = [jax.ShapeDtypeStruct((1, 256, heads, 128), jnp.bfloat16) for heads in (N, K, K)]
    ids = jax.ShapeDtypeStruct((1, 256), jnp.int32)

    def loss(q, k, v, segments):
        return attention(q, k, v, self_mask(segments), backend="splash").astype(jnp.float32).sum()

    text = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*shapes, ids).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3  # forward, dq, dk and dv


def test_blockwise_never_holds_the_score_matrix():
    """The largest array anywhere in its forward and backward pass grows with the length, not with its square."""

    def largest(length):
        q = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32)
        loss = lambda q, k, v: blockwise_attention(q, k, v, self_mask(), 1.0, block=128).sum()  # noqa: E731
        return max(sizes(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, q, q).jaxpr))

    assert largest(4096) == 2 * largest(2048) == 2 * 2 * 64 * 2048


def test_blockwise_keeps_no_masks_for_layers_that_are_computed_anew():
    """The mask is the same in all layers; differentiating their scan must not take it out and keep all its blocks."""

    def largest(length):
        segments, q = jnp.ones((1, length), jnp.int32), jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32)

        @jax.checkpoint
        def layer(x, weight):
            return x + blockwise_attention(weight * x, x, x, self_mask(segments), 1.0, block=128), None

        loss = lambda q, weights: jax.lax.scan(layer, q, weights)[0].sum()  # noqa: E731
        return max(sizes(jax.make_jaxpr(jax.grad(loss))(q, jnp.ones(3)).jaxpr))

    assert largest(4096) == 2 * largest(2048)


def sizes(jaxpr):
    """Sizes of all arrays in a program."""
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


LONG = (1, 4096, 8, 128)
ONES = np.ones((1, 4096), np.int32)
INDEXED = AttentionMask(q_index=ONES)


@pytest.mark.parametrize(
    "platform, q_shape, kv_len, mask, dtype, expected",
    [
        ("cpu", (58, 64, 4, 40), 64, self_mask(), jnp.float32, "xla"),
        ("cpu", LONG, 4096, self_mask(), jnp.float32, "blockwise"),
        ("tpu", (8, 1, 8, 128), 8192, INDEXED, jnp.bfloat16, "xla"),
        ("tpu", (8, 729, 16, 72), 729, FULL, jnp.bfloat16, "xla"),
        ("tpu", LONG, 4096, self_mask(), jnp.bfloat16, "splash"),
        ("tpu", LONG, 4096, self_mask(ONES), jnp.float32, "splash"),
        ("tpu", LONG, 4096, self_mask(blocks=ONES), jnp.bfloat16, "blockwise"),
        ("tpu", LONG, 8192, INDEXED, jnp.bfloat16, "blockwise"),
        ("tpu", (1, 4000, 8, 128), 4000, self_mask(), jnp.bfloat16, "blockwise"),
        ("gpu", LONG, 4096, self_mask(), jnp.bfloat16, "cudnn"),
        ("gpu", LONG, 4096, FULL, jnp.bfloat16, "cudnn"),
        ("gpu", LONG, 4096, self_mask(ONES, packed=False), jnp.bfloat16, "cudnn"),
        ("gpu", LONG, 4096, self_mask(ONES), jnp.bfloat16, "blockwise"),
        ("gpu", LONG, 4096, self_mask(ONES, causal=False, packed=False), jnp.bfloat16, "blockwise"),
        ("gpu", LONG, 4096, self_mask(ONES, ONES, packed=False), jnp.bfloat16, "blockwise"),
        ("gpu", LONG, 4096, INDEXED, jnp.bfloat16, "blockwise"),
        ("gpu", LONG, 4096, self_mask(), jnp.float32, "blockwise"),
        ("gpu", (1, 4096, 8, 100), 4096, self_mask(), jnp.bfloat16, "blockwise"),
    ],
)
def test_choice_of_backend(platform, q_shape, kv_len, mask, dtype, expected):
    assert choose_backend(platform, q_shape, kv_len, mask, dtype) == expected


def test_cudnn_gets_the_order_alone_and_no_matrix(monkeypatch):
    """Its kernel needs a GPU; the plain form in its place is given just what it would be."""
    plain, given = jax.nn.dot_product_attention, []

    def on_a_cpu(*arrays, implementation, **options):
        given.append(options)
        return plain(*arrays, **options, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_cpu)
    mask = self_mask(np.asarray([[1] * 30 + [0] * 7, [1] * 37]), packed=False)
    ours = with_gradients(lambda *x: attention(*x, mask, scale=0.3, backend="cudnn"), *qkv())
    assert_close(ours, naive(*qkv(), mask, 0.3))
    assert given == [{"is_causal": True, "scale": 0.3}]
    with pytest.raises(UserError, match="cudnn takes rows of one example"):
        attention(*qkv(), MASKS["segments and blocks"], backend="cudnn")


@pytest.mark.parametrize(("longest", "visited"), [(1, 6), (9, 8), (16, 8), (17, 8), (18, 9), (None, 9)])
def test_blockwise_leaves_out_what_neither_order_nor_blocks_reach(longest, visited):
    """Three blocks of 16: those at and below the diagonal, and as far above it as a block of ids reaches."""
    mask = self_mask(SEGMENTS, None if longest == 1 else BLOCKS, longest_block=longest)  # runs of 9 at most
    reached = {tuple(pair) for pair in Plan(S, S, 16, mask.reach, 1.0).pairs().tolist()}
    assert len(reached) == visited
    seen = np.argwhere(plainly_allowed(mask, S, S).any(0)) // 16
    assert set(map(tuple, seen.tolist())) <= reached
    if longest == 9:
        ours = with_gradients(lambda *x: blockwise_attention(*x, mask, 0.3, block=16), *qkv())
        assert_close(ours, naive(*qkv(), mask, 0.3))


def test_rows_of_many_blocks_visit_little_more_than_the_triangle():
    """UniWeTok's rows: 16,384 positions, 64 tokens at once."""
    mask = self_mask(blocks=ONES, longest_block=64)
    assert len(Plan(16384, 16384, 512, mask.reach, 1.0).pairs()) == 32 * 33 // 2 + 31


def test_platform_is_the_default_one_without_a_mesh():
    assert current_platform() == "cpu"


def test_an_unknown_backend_is_told():
    with pytest.raises(UserError, match=r"no backend 'splas'\. Did you mean splash\?"):
        attention(*qkv(), FULL, backend="splas")
