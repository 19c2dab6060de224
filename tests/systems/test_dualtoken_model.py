"""DualToken at a tiny size: codes given or made in the step, incremental and whole passes, a decode to its end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.depth_head import DepthHead, DepthHeadConfig, init_depth_head, new_memory
from unitok_jax.backbones.discriminators import DiscriminatorSettings
from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.errors import UserError
from unitok_jax.inference import decode as loop
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.systems import adversary, base
from unitok_jax.systems.adversary import AdversarySettings
from unitok_jax.systems.dualtoken import stage_tokenizer
from unitok_jax.systems.pixels import float_pixels

MODEL = {
    "vit": {"width": 16, "ffn": 16, "layers": 2, "heads": 2, "image_size": 8, "patch_size": 4},
    "layer_recon": 1,
    "layer_shortcut": None,
    "layer_sem": 1,
    "pix": {"features": 8, "size": 12, "depth": 2, "kind": "rq"},
    "sem": {"features": 4, "size": 10, "depth": 3, "kind": "rq_ema"},
    "decoder": {
        "latent_shape": (2, 2),
        "in_channels": 8,
        "channels": 8,
        "multipliers": (1, 1, 1),
        "res_blocks": 1,
        "attn_resolutions": (),
        "resolution": 8,
        "groups": 2,
    },
    "text": None,
    "lm": {"vocab_size": 380, "width": 16, "ffn": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8},
    "head": {"layers": 1, "heads": 2},
    "system_message": "",
}


@functools.cache
def made():
    system = base.build("dualtoken", MODEL)
    parts = (*system.lm_parts, *system.coder_parts)
    return system, jax.jit(lambda: system.init(jax.random.key(0), parts))()


def drawn_example(image):
    return Example("e", (Turn("user", "dog"), Turn("assistant", IMAGE)), (image,), Task.GENERATION)


@pytest.mark.slow
def test_codes_given_and_codes_made_in_the_step_are_read_alike():
    system, params = made()
    stage = base.build_stage(system, "lm", {"row_length": 24, "condition_dropout": 0.0})
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    example = drawn_example(image)
    rng = np.random.default_rng(0)
    pixels = jax.tree.map(jnp.asarray, packing.pack([[stage.layout(example, rng)]], stage.spec, codes=False))

    @jax.jit
    def read(params, batch):
        return system.embed(params, batch), system.codes_of(params, batch)

    embeds, codes = read(params, float_pixels(pixels))
    assert codes.shape == (1, 1, 4, 5)
    given = Example("e", example.turns, (), Task.GENERATION, (np.asarray(codes[0, 0]),))
    batch = packing.pack([[stage.layout(given, rng)]], stage.spec, codes=True)
    assert batch["codes"].shape == codes.shape
    np.testing.assert_array_equal(jax.jit(system.embed)(params, jax.tree.map(jnp.asarray, batch)), embeds)
    counts = stage.counts(pixels)
    assert (int(counts["visual"]), int(counts["text"])) == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("ffn", ["shared", "per_depth"])
def test_a_head_step_by_step_says_what_it_says_at_once(ffn):
    config = DepthHeadConfig(12, 8, layers=2, heads=2, depth=3, codes=7, code_features=4, ffn=ffn)
    head, params = DepthHead(config), init_depth_head(config, jax.random.key(0))
    hidden, rows = jax.random.normal(jax.random.key(1), (5, 12)), jax.random.normal(jax.random.key(2), (5, 3, 4))

    @jax.jit
    def both(params):
        at_once = head.apply({"params": params}, head.apply({"params": params}, hidden, rows), method="logits")
        memory, sums, steps = new_memory(config, 5), jnp.zeros((5, 4)), []
        for depth in range(3):
            logits, memory = head.apply({"params": params}, hidden, sums, memory, jnp.int32(depth), method="step")
            steps.append(logits)
            sums = sums + rows[:, depth]
        return at_once, jnp.stack(steps, 1)

    at_once, steps = both(params)
    np.testing.assert_allclose(at_once, steps, atol=2e-6)


@pytest.mark.slow
def test_a_position_of_a_causal_projection_needs_no_later_one():
    system, params = made()
    x = jax.random.normal(jax.random.key(0), (2, 4, 8))
    at = jnp.array([[2], [1]])

    @jax.jit
    def run(params, x):
        return system.tokenizer.features(params, "pix", x), system.tokenizer.features(params, "pix", x, at=at)

    whole, _ = run(params, x)
    one = run(params, x.at[:, 3].set(9.0))[1]
    np.testing.assert_allclose(one, jnp.take_along_axis(whole, at[..., None], 1), atol=1e-5)


@pytest.mark.slow
def test_a_picture_is_drawn_to_its_end_and_then_words_go_on():
    system, params = made()
    asked = Example("e", (Turn("user", "dog"),), (), Task.GENERATION)
    rows = [system.prompt(asked), system.unconditional(asked)]
    batch = jax.tree.map(jnp.asarray, prompt_batch(rows))
    how = Decoding(GREEDY, Sampling(top_k=4), guidance=3.0, max_steps=8)
    ids = loop.written(loop.decode(system, params, batch, sample_keys(np.array([0])), how))[0]
    tokens = system.vocabulary.ids
    assert ids[:5, 0].tolist() == [tokens.image_pad] * 4 + [tokens.vision_end]
    assert not np.isin(ids[5:, 0], (tokens.image_pad, tokens.vision_end)).any()
    assert not ids[4:, 1:].any()
    (codes,) = system.read(ids)[1]
    assert codes.shape == (2, 2, 5)
    assert (codes[..., :2] < 12).all()
    assert (codes[..., 2:] < 10).all()
    with pytest.raises(UserError, match="draws pictures of 2x2 positions"):
        loop.decode(system, params, batch, sample_keys(np.array([0])), Decoding(grid=(4, 4)))


@pytest.mark.slow
def test_it_captions_answers_draws_and_reconstructs():
    system, params = made()
    how = InferenceSettings(
        Decoding(max_steps=3), Decoding(image=Sampling(top_k=4), guidance=3.0, max_steps=8), batch_size=2
    )
    pipeline = Pipeline(system, params, how)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert len(pipeline.caption(pictures)) == 3
    assert len(pipeline.ask(pictures[:2], ["which digit?"] * 2)) == 2
    drawn = pipeline.generate(["a red seven", "a blue two"], seeds=3)
    assert drawn.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(pipeline.generate(["a blue two"], seeds=4)[0], drawn[1])
    back = pipeline.reconstruct(pictures)
    tokens = pipeline.encode(pictures)
    np.testing.assert_array_equal(back, pipeline.decode_tokens(tokens))
    books = pipeline.codebooks(tokens)
    assert {name: (codes.shape, entries) for name, (codes, entries) in books.items()} == {
        "pix": ((3, 4, 2), 12),
        "sem": ((3, 4, 3), 10),
    }
    np.testing.assert_array_equal(pipeline.seen(pictures), pictures)
    assert not pipeline.gives_features(pictures[0])
    with pytest.raises(UserError, match="does not judge its own drawings"):
        pipeline.generate(["a red seven"], best_of=2)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "renewed"), [(3, False), (4, True), (5, False), (6, True)])
def test_the_discriminator_begins_anew_when_its_time_comes(step, renewed):
    settings = AdversarySettings(DiscriminatorSettings("resnet", width=32, layers=1), start=3)
    options = stage_tokenizer.TokenizerOptions(adversary=settings, discriminator_restart=2)
    old = jax.tree.map(jnp.zeros_like, adversary.init_adversary(settings, jax.random.key(0)))
    state = {"step": jnp.int32(step), "adversary": old[1]}
    params, state = stage_tokenizer._restart(options, {"discriminator": old[0]}, state, jax.random.key(1), {})
    kernels = [leaf for leaf in jax.tree.leaves(params["discriminator"]) if leaf.ndim == 4]
    assert all((leaf.std() > 0) == renewed for leaf in kernels)
    assert int(state["step"]) == step + 1


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="no later than layer_sem"):
        base.build("dualtoken", MODEL | {"layer_recon": 2})
    with pytest.raises(UserError, match=r"config.model.pix.features: 5 channels a code do not divide"):
        base.build("dualtoken", MODEL | {"pix": {"features": 5}})
    system = base.build("dualtoken", MODEL | {"lm": None})
    with pytest.raises(UserError, match=r"config.model.lm: missing"):
        base.build_stage(system, "lm", {})
    large = base.build("dualtoken", MODEL | {"lm": {**MODEL["lm"], "vocab_size": 151936}})
    with pytest.raises(UserError, match="151936, but the small bundled vocabulary has 380 ids"):
        base.build_stage(large, "lm", {})
    text = {"width": 16, "ffn": 16, "layers": 1, "heads": 2, "vocab_size": 256000, "max_length": 6, "projection": 16}
    with pytest.raises(UserError, match=r"text.vocab_size: 256000, but config.model.vocabulary has 380 ids; give"):
        base.build("dualtoken", MODEL | {"text": text}).text_tokens(["a seven"])
    with pytest.raises(UserError, match="without prequant_sem"):
        base.build("dualtoken", MODEL | {"prequant_sem": False})
