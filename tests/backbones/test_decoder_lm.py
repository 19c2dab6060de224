"""The decoder: cache against full pass, packed rows, blocks, spans, dropout, remat, sharding rules, compile counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from unitok_jax.backbones.decoder_lm import (
    MASKED,
    SHARDING,
    DecoderConfig,
    DecoderLM,
    decoder_cache,
    head_kernel,
    init_decoder,
)
from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import build_mesh
from unitok_jax.parallel.rules import param_shardings

CHAMELEON = DecoderConfig(300, 32, 48, 3, 4, 2, 8, qk_norm="layernorm", qk_norm_groups=2, swin_norm=True)
QWEN2 = DecoderConfig(300, 32, 48, 2, 4, 2, 8, rope_theta=1e6, norm_eps=1e-6, qkv_bias=True, tied_embeddings=True)
QWEN3 = DecoderConfig(300, 24, 48, 2, 4, 2, 8, rope_theta=1e6, norm_eps=1e-6, qk_norm="rmsnorm")
CONFIGS = {"chameleon": CHAMELEON, "qwen2": QWEN2, "qwen3": QWEN3}
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 12)).astype(np.int32)


@functools.cache
def built(config):
    """Parameters in which no norm is 1 and no bias 0."""
    params = init_decoder(config, jax.random.key(0))
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + np.float32(noise.normal(scale=0.1, size=x.shape)), params)


@functools.cache
def predict_of(config):
    return jax.jit(
        lambda params, tokens, **reading: DecoderLM(config).apply(
            {"params": params}, tokens, method="predict", **reading
        )
    )


def predict(config, tokens, **reading):
    return np.asarray(predict_of(config)(built(config), tokens, **reading))[..., :300]


class Reader:
    """Reads tokens bit by bit into a cache; one compile a shape."""

    def __init__(self, config, rows, room):
        self.traces = 0
        self.params, self.cache = built(config), decoder_cache(config, rows, room)
        model = DecoderLM(config)

        @jax.jit
        def advance(params, tokens, cache, valid, blocks):
            self.traces += 1
            embeds = model.apply({"params": params}, tokens, method="embed_tokens")
            hidden, aux = model.apply({"params": params}, embeds, cache=cache, valid=valid, blocks=blocks)
            return model.apply({"params": params}, hidden, method="logits"), aux["cache"]

        self._advance = advance

    def read(self, tokens, valid=None, blocks=None):
        valid = np.full(len(tokens), tokens.shape[1], np.int32) if valid is None else np.asarray(valid, np.int32)
        logits, self.cache = self._advance(self.params, tokens, self.cache, valid, blocks)
        return np.asarray(logits)[..., :300]


@pytest.mark.parametrize("name", [n if n == "qwen3" else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS])
def test_cache_gives_the_full_pass(name):
    config = CONFIGS[name]
    expected = predict(config, TOKENS)
    reader = Reader(config, 2, 12)
    np.testing.assert_allclose(reader.read(TOKENS[:, :5]), expected[:, :5], atol=1e-5)
    for at in range(5, 12):
        np.testing.assert_allclose(reader.read(TOKENS[:, at : at + 1])[:, 0], expected[:, at], atol=1e-5)
    assert reader.traces == 2
    np.testing.assert_array_equal(reader.cache.lengths, 12)


def test_prompts_of_unequal_length_decode_as_each_alone():
    """Right padding is overwritten before it is read; a row whose length is set to 0 starts anew."""
    expected = predict(CHAMELEON, TOKENS)
    prompt = TOKENS[:, :6].copy()
    prompt[1, 3:] = 299  # padding
    reader = Reader(CHAMELEON, 2, 12)
    reader.read(prompt, valid=[6, 3])
    for step in range(6):
        logits = reader.read(np.stack([TOKENS[0, 6 + step], TOKENS[1, 3 + step]])[:, None])[:, 0]
        np.testing.assert_allclose(logits, [expected[0, 6 + step], expected[1, 3 + step]], atol=1e-5)
    reader.cache = reader.cache.replace(lengths=reader.cache.lengths.at[0].set(0))
    logits = reader.read(np.stack([TOKENS[0, 0], TOKENS[1, 9]])[:, None])[:, 0]
    np.testing.assert_allclose(logits, [expected[0, 0], expected[1, 9]], atol=1e-5)


def test_padding_that_runs_over_the_end_of_the_cache_is_lost():
    reader = Reader(QWEN2, 2, 8)
    reader.read(TOKENS[:, :6], valid=[6, 2])
    reader.read(TOKENS[:, 6:12], valid=[2, 0])  # row 0 has room for 2
    np.testing.assert_array_equal(reader.cache.lengths, [8, 2])
    later = reader.read(TOKENS[:, 2:3], valid=[0, 1])
    np.testing.assert_allclose(later[1, 0], predict(QWEN2, TOKENS)[1, 2], atol=1e-5)


def test_packed_examples_are_as_alone():
    segments = np.asarray([[1] * 5 + [2] * 4 + [0] * 3] * 2, np.int32)
    positions = np.asarray([[*range(5), *range(4), 0, 0, 0]] * 2, np.int32)
    packed = predict(CHAMELEON, TOKENS, segments=segments, positions=positions)
    np.testing.assert_allclose(packed[:, :5], predict(CHAMELEON, TOKENS)[:, :5], atol=1e-5)
    np.testing.assert_allclose(packed[:, 5:9], predict(CHAMELEON, np.roll(TOKENS, -5, 1))[:, :4], atol=1e-5)
    assert np.isfinite(packed).all()


def test_left_padding_is_as_none():
    shifted = np.roll(TOKENS, 4, axis=1)
    segments = np.asarray([[0] * 4 + [1] * 8] * 2, np.int32)
    positions = np.maximum(np.cumsum(segments, 1, dtype=np.int32) - 1, 0)
    padded = predict(QWEN2, shifted, segments=segments, positions=positions)
    np.testing.assert_allclose(padded[:, 4:], predict(QWEN2, TOKENS)[:, :8], atol=1e-5)


def test_blocks_attend_both_ways_with_and_without_cache():
    blocks = np.asarray([[-1] * 4 + [0] * 4 + [1] * 4] * 2, np.int32)
    expected = predict(QWEN3, TOKENS, blocks=blocks)
    changed = TOKENS.copy()
    changed[:, 7] += 1  # the last of block 0
    difference = np.abs(predict(QWEN3, np.minimum(changed, 299), blocks=blocks) - expected).max((0, 2))
    assert (difference[:4] == 0).all() and (difference[4:] > 1e-4).all()
    reader = Reader(QWEN3, 2, 12)
    parts = [reader.read(TOKENS[:, i : i + 4], blocks=blocks[:, i : i + 4]) for i in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-5)


def test_where_spans_are_cut_changes_nothing():
    config = dataclasses.replace(CHAMELEON, cuts=(1,))
    whole = built(CHAMELEON)["layers"]["span_0_3"]
    parts = {
        name: jax.tree.map(lambda x, at=at: x[at], whole)
        for name, at in {"span_0_1": slice(0, 1), "span_1_3": slice(1, 3)}.items()
    }
    params = {**built(CHAMELEON), "layers": parts}
    assert jax.tree.map(jnp.shape, jax.eval_shape(lambda: init_decoder(config, jax.random.key(0)))) == jax.tree.map(
        jnp.shape, params
    )

    @jax.jit
    def read(tokens, cache):
        model = DecoderLM(config)
        embeds = model.apply({"params": params}, tokens, method="embed_tokens")
        hidden, aux = model.apply({"params": params}, embeds, cache=cache)
        return model.apply({"params": params}, hidden, method="logits"), aux

    logits, aux = read(TOKENS, decoder_cache(config, 2, 12))
    np.testing.assert_allclose(logits[..., :300], predict(CHAMELEON, TOKENS), atol=1e-5)
    assert list(aux["spans"]) == ["span_0_1", "span_1_3"]
    assert [keys.shape[0] for keys in aux["cache"].keys] == [1, 2]


def test_remat_and_unroll_change_no_gradient():
    def gradient(config):
        def loss(params):
            logits = DecoderLM(config).apply({"params": params}, TOKENS, method="predict")
            return jnp.mean(logits[..., :300] ** 2)

        return jax.jit(jax.grad(loss))(built(QWEN3))

    plain, other = gradient(QWEN3), gradient(dataclasses.replace(QWEN3, remat=True, unroll=2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7), other, plain)


def test_dropout_acts_on_both_branches_and_follows_its_key():
    config = dataclasses.replace(QWEN2, dropout=0.5)
    model, params = DecoderLM(config), built(QWEN2)
    embeds = model.apply({"params": params}, TOKENS, method="embed_tokens")

    @jax.jit
    def read(seed):
        rngs = {"dropout": jax.random.key(seed)}
        (hidden, _), seen = model.apply(
            {"params": params},
            embeds,
            deterministic=False,
            rngs=rngs,
            capture_intermediates=True,
            mutable="intermediates",
        )
        layers = seen["intermediates"]["layers"]["span_0_2"]
        return hidden, [layers[f"Dropout_{i}"]["__call__"][0] for i in (0, 1)]

    hidden, dropped = read(0)
    for branch in dropped:
        assert 0.4 < float(np.mean(np.asarray(branch) == 0)) < 0.6
        assert (np.asarray(branch[0] == 0) != np.asarray(branch[1] == 0)).any()  # layers draw apart
    np.testing.assert_array_equal(hidden, read(0)[0])
    assert np.abs(hidden - read(1)[0]).max() > 0.1


def test_half_precision_computes_in_it_and_ends_in_float32_logits():
    config = dataclasses.replace(CHAMELEON, dtype="bfloat16")
    model, params = DecoderLM(config), built(CHAMELEON)

    @jax.jit
    def read(tokens):
        embeds = model.apply({"params": params}, tokens, method="embed_tokens")
        hidden, _ = model.apply({"params": params}, embeds)
        return embeds, hidden, model.apply({"params": params}, hidden, method="logits")

    embeds, hidden, logits = read(TOKENS)
    assert (embeds.dtype, hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert decoder_cache(config, 1, 4).keys[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits[..., :300], predict(CHAMELEON, TOKENS), atol=0.25)


def test_the_padded_vocabulary_is_masked():
    logits = predict_of(QWEN2)(built(QWEN2), TOKENS)
    assert logits.shape[-1] == 512
    np.testing.assert_array_equal(logits[..., 300:], MASKED)


@pytest.mark.parametrize("name", CONFIGS)
def test_head_kernel_gives_the_logits(name):
    config = CONFIGS[name]
    model, params = DecoderLM(config), built(config)
    hidden = jax.random.normal(jax.random.key(0), (5, config.width))
    expected = model.apply({"params": params}, hidden, method="logits")[:, :300]
    np.testing.assert_allclose((hidden @ head_kernel(config, params))[:, :300], expected, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_parameter_has_one_sharding_rule(name):
    params = jax.eval_shape(lambda: init_decoder(CONFIGS[name], jax.random.key(0)))
    shardings, reports = param_shardings(SHARDING, params, build_mesh(devices=jax.devices()[:1]))
    assert reports == []
    specs = {path: sharding.spec for path, sharding in flatten_dict(shardings, sep="/").items()}
    last = list(params["layers"])[-1]
    assert specs[f"layers/{last}/attention/q/kernel"] == jax.sharding.PartitionSpec(None, "fsdp", "tensor", None)
    assert specs["embed/embedding"] == jax.sharding.PartitionSpec("tensor", "fsdp")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kv_heads": 3}, "kv_heads 3 must divide heads 4"),
        ({"head_dim": 7}, "head_dim 7 must be even"),
        ({"qk_norm": "batchnorm"}, "qk_norm 'batchnorm'; expected layernorm, rmsnorm or none"),
        ({"qk_norm_groups": 4}, "qk_norm_groups 4 must divide heads and kv_heads"),
        ({"cuts": (2, 1)}, "cuts .2, 1. must rise"),
    ],
)
def test_impossible_settings_are_told(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CHAMELEON, **change)
