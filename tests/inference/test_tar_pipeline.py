"""A tiny Tar with both de-tokenizers: what it draws, reads and refuses; mostly traced, so that little is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.errors import UserError
from unitok_jax.inference import decode, reflection
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.systems import base

TOWER = {"width": 8, "ffn": 8, "layers": 2, "heads": 2, "image_size": 8, "patch_size": 2}
DECODER = {
    **TOWER,
    "layers": 1,
    "image_size": 4,
    "patch_size": 1,
    "channels": 6,
    "position_resize": "bilinear_antialias",
}
LEVELS = {"blocks": ("ResBlock",) * 2, "widths": (8, 8), "layers": (1, 1), "kernels": ((), ())}
MODEL = {
    "constrain": True,
    "ta_tok": {"encoder": TOWER, "decoder": DECODER, "codebook_size": 32},
    "lm": {
        **{"vocab_size": 416, "width": 8, "ffn": 8, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 4},
        **{"qkv_bias": True, "tied_embeddings": True},
    },
    "vq": {
        **{"channels": 4, "multipliers": (1, 2), "res_blocks": 1, "z_channels": 4, "embed_dim": 4, "groups": 2},
        **{"codebook_size": 16, "attn_resolutions": (4,), "resolution": 8, "l2_norm": True},
    },
    "ar": {
        **{"layers": 1, "heads": 2, "width": 8, "multiple_of": 8, "codes": 16, "condition": 8},
        **{"condition_tokens": 16, "tokens": 16},
    },
    "sana": {
        **{"channels": 4, "out_channels": 4, "heads": 2, "head_dim": 4, "cross_heads": 2, "cross_head_dim": 4},
        **{"layers": 1, "caption": 8},
    },
    "vae": {"latent": 4, "head_dim": 4, **{f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in LEVELS.items()}},
    "sana_size": 16,
}
PARTS = ("lm", "ta_tok", "ar", "vq", "sana", "vae", "negative")
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@functools.cache
def system():
    return base.build("tar", MODEL)


@functools.cache
def shapes():
    return jax.eval_shape(lambda: system().init(jax.random.key(0), PARTS))


@functools.cache
def params(*parts):
    return jax.jit(lambda: system().init(jax.random.key(0), parts))()


def test_it_is_a_system():
    assert isinstance(system(), base.System)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("ar", 8), ("sana", 16)])
@pytest.mark.parametrize("codes", [(4, 4), (2, 2), (1, 1), (21,)])
def test_either_de_tokenizer_draws_from_codes_of_any_scale(name, side, codes):
    drawing = system().with_detokenizer(name, side)
    drawn = jax.eval_shape(drawing.decode_image, shapes(), jnp.zeros((3, *codes), jnp.int32))
    assert drawn.shape == (3, side, side, 3)


def test_what_no_de_tokenizer_has_is_refused():
    with pytest.raises(UserError, match="no de-tokenizer sana at 1024; this model has ar at 8, sana at 16"):
        system().with_detokenizer("sana", 1024)
    with pytest.raises(UserError, match="--scale 4: this model's pool scales are 1, 2, 3"):
        system().with_detokenizer(None, None, scale=4)
    with pytest.raises(UserError, match="5 codes a picture"):
        jax.eval_shape(system().decode_image, shapes(), jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(UserError, match="condition_tokens: 3, but the tokenizer gives 16 at scale 1"):
        base.build("tar", {**MODEL, "ar": {**MODEL["ar"], "condition_tokens": 3}})
    with pytest.raises(UserError, match="has no de-tokenizer"):
        base.build("tar", {"ta_tok": MODEL["ta_tok"]}).decode_image({}, jnp.zeros((1, 16), jnp.int32))


def test_scale_and_guidance_of_the_drawing_are_options():
    other = system().with_detokenizer("ar", 8, scale=2, guidance=7.0)
    assert (other.config.scale, other.grammar.scale, other.config.drawing.guidance) == (2, 2, 7.0)
    assert other.config.solving.guidance == 7.0 and system().config.scale == 1
    chosen = system().with_detokenizer("sana", None)
    assert chosen.config.drawing == system().config.drawing
    assert chosen.with_detokenizer(None, None, scale=2).config.detokenizer == "sana", "what was chosen stays"


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_drawing_is_asked_about_by_its_own_codes(scale):
    side = system().config.ta_tok.side(scale)
    codes = np.arange(side * side).reshape(side, side)
    row = system().reflection("a red seven", codes)
    seen = row.modality != 0
    assert seen.sum() == side * side
    np.testing.assert_array_equal(row.codes[0][row.slots[seen]], codes.ravel())
    assert "a red seven" in system().vocabulary.decode(row.tokens[~seen].tolist())
    with pytest.raises(UserError, match="7 codes a picture"):
        system().reflection("x", np.zeros((1, 7), int))


def test_the_best_of_several_is_the_first_with_the_highest_score():
    assert reflection.best([0.1, 0.9, 0.2, 0.5, 0.5, 0.4], 3).tolist() == [1, 3]
    with pytest.raises(UserError, match="best_of: expected 1 or more"):
        reflection.check(system(), 0)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_decode_can_be_traced(guidance):
    how = Decoding(GREEDY, Sampling(top_k=5, top_p=0.9), guidance, max_steps=20)
    examples = [Example("p", (Turn("user", "a red seven"),), task=Task.GENERATION)]
    rows = [system().prompt(e) for e in examples]
    rows += [system().unconditional(e) for e in examples] if guidance > 1 else []
    keys = jax.random.split(jax.random.key(0), 1)
    batch = prompt_batch(rows)
    begun = jax.eval_shape(lambda p, b: decode.prefill(system(), p, b, keys, how), shapes(), batch)
    assert begun.ids.shape[0] == 1


def test_a_question_shows_its_picture_at_the_reading_scale():
    row = system().prompt(Example("q", (Turn("user", IMAGE + "what?"),), (PICTURE,), Task.UNDERSTANDING))
    assert (row.modality != 0).sum() == 16
    assert row.views["ta_tok"][0].shape == (8, 8, 3)


def drawing():
    return Example("p", (Turn("user", "a red seven"),), task=Task.GENERATION)


@pytest.mark.slow
def test_it_draws_captions_and_reconstructs():
    settings = InferenceSettings(
        read=Decoding(max_steps=4), draw=Decoding(image=Sampling(top_k=5), max_steps=20), batch_size=2
    )
    pipeline = Pipeline(system(), params("lm", "ta_tok", "ar", "vq"), settings)
    drawn = pipeline.generate(["a red seven", "a blue two"], seeds=3)
    assert drawn.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(pipeline.generate(["a blue two"], seeds=4)[0], drawn[1])
    assert len(pipeline.caption([PICTURE])) == 1
    tried = [pipeline.generate(["a red seven"], seeds=seed)[0] for seed in (3, 4)]
    codes = pipeline._drawn([drawing()] * 2, settings.draw, [3, 4])
    chances = reflection.scores(system(), pipeline.params, [("a red seven", c) for c in codes])
    assert ((chances > 0) & (chances < 1)).all() and chances[0] != chances[1]
    kept = pipeline.generate(["a red seven"], seeds=3, best_of=2)[0]
    np.testing.assert_array_equal(kept, tried[int(np.argmax(chances))])
    assert pipeline.reconstruct([PICTURE]).shape == (1, 8, 8, 3)
