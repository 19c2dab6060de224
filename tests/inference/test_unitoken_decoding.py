"""UniToken's state machine against a plain reading of its specification (section 12.2), id by id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.sampling.draw import sample_keys, step_keys
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.systems.unitoken import decoding as machine
from unitok_jax.systems.unitoken.vocabulary import TokenIds

IDS = TokenIds(
    bos=0, pad=1, code_offset=2, codes=8, eoi=10, boi=11, sep=12, end_of_turn=13, newline=14, grid=15, image=24
)
SIZE, PADDED = 24, 28
GRAMMAR = machine.Grammar(IDS, SIZE, grid=(4, 2))
CODES = set(range(2, 10))


def may_follow(ids, grid):
    """The ids that may come next, from all ids so far."""
    if ids.count(IDS.boi) != ids.count(IDS.eoi) + 1:
        return set(range(SIZE))
    image = ids[len(ids) - ids[::-1].index(IDS.boi) :]
    if len(image) < 2:
        return {IDS.grid + grid[len(image)] // 2}
    rows, columns = (2 * (i - IDS.grid) for i in image[:2])
    t = len(image) - 2
    if (t + 1) % (columns + 1) == 0:
        return {IDS.newline}
    return {IDS.eoi} if t == (columns + 1) * rows else CODES


def _batch(*prompts):
    tokens = np.full((len(prompts), max(map(len, prompts))), IDS.boi)  # what stands in the padding must not count
    segments = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)], segments[i, : len(prompt)] = prompt, 1
    return {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}


def _embed(ids):
    return jnp.stack([ids, -ids], axis=-1).astype(jnp.float32)[:, None]


def _run(prompts, decoding, steps, grammar=GRAMMAR, eager_boi=False, seed=0):
    """Decodes random logits; returns the ids of each sample, and every emission."""
    rows = guided = list(prompts)
    if decoding.guidance != 1:
        guided = [*rows, *[[IDS.boi]] * len(rows)]
    state = machine.decode_init(grammar, _batch(*guided), decoding)
    step = jax.jit(lambda logits, state, keys: machine.decode_step(grammar, logits, _embed, state, decoding, keys))
    rng, keys, emissions = np.random.default_rng(seed), sample_keys(jnp.arange(len(rows))), []
    for t in range(steps):
        logits = rng.normal(size=(len(guided), PADDED)).astype(np.float32)
        logits[:, SIZE:] = 50.0  # padded columns, never to be drawn
        logits[:, IDS.end_of_turn] -= 2.0
        if eager_boi:
            logits[:, IDS.boi] += 4.0
        emission, state = step(logits, state, step_keys(keys, t))
        emissions.append(jax.tree.map(np.asarray, emission))
    codes = np.stack([e.codes[: len(rows), 0] for e in emissions], axis=1)
    return codes, emissions


PROMPTS = (
    [0, 20, 21, 13],
    [0, 20, 13, 22, 11],  # the forced prefix of a drawing
    [0, 11, 16, 16, 2, 3, 14, 4, 5, 14, 12, 0, 10, 21, 13],  # an image in the question
    [0, 13, 11, 16, 16, 2, 9],  # in mid-image, with a grid of its own
    [11],
)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_only_what_may_follow_is_drawn(guidance):
    decoding = Decoding(text=Sampling(), image=Sampling(top_k=5), guidance=guidance)
    codes, emissions = _run(PROMPTS, decoding, steps=60, eager_boi=True)
    images = 0
    for prompt, drawn in zip(PROMPTS, codes, strict=True):
        ids = list(prompt)
        for i in drawn.tolist():
            if IDS.end_of_turn in ids[len(prompt) :]:
                assert i == IDS.end_of_turn
            else:
                assert i in may_follow(ids, (4, 2)), ids
            ids.append(i)
        images += ids.count(IDS.eoi)
    assert images > 3
    ended = np.cumsum(codes == IDS.end_of_turn, axis=1) > 0
    np.testing.assert_array_equal(np.stack([e.done[: len(PROMPTS)] for e in emissions], axis=1), ended)


def test_guided_rows_share_ids_and_unconditional_rows_restart_at_boi():
    decoding = Decoding(text=Sampling(), image=Sampling(), guidance=2.0)
    codes, emissions = _run(PROMPTS, decoding, steps=40, eager_boi=True)
    n = len(PROMPTS)
    for t, emission in enumerate(emissions):
        np.testing.assert_array_equal(emission.codes[:n], emission.codes[n:])
        np.testing.assert_array_equal(emission.embeds[:, 0, 0], emission.codes[:, 0])
        assert not emission.restart[:n].any()
        np.testing.assert_array_equal(emission.restart[n:], codes[:, t] == IDS.boi)
    assert (codes == IDS.boi).any()


def test_another_grid_is_an_option():
    codes, _ = _run([[0, 11]], Decoding(image=Sampling(), grid=(2, 6)), steps=18)
    assert codes[0, :2].tolist() == [IDS.grid + 1, IDS.grid + 3]
    text, images = machine.read_ids([11, *codes[0]], IDS)
    assert images[0].shape == (2, 6) and text[0] == IDS.image


@pytest.mark.parametrize("grid", [(3, 4), (0, 2)])
def test_an_impossible_grid_is_refused(grid):
    with pytest.raises(UserError, match=r"grid \dx\d: rows and columns of codes must be even"):
        GRAMMAR.grid_tokens(Decoding(grid=grid))


def test_a_grid_that_cannot_be_said_is_refused():
    with pytest.raises(UserError, match="grid 4x512: the vocabulary can say at most 510 codes a side"):
        GRAMMAR.grid_tokens(Decoding(grid=(4, 512)))


def test_guidance_acts_on_codes_alone():
    decoding = Decoding(text=GREEDY, image=GREEDY, guidance=5.0)
    prompts = [[0, 20], [0, 11], [0, 11, 17, 16], [0, 11, 17, 16, 2, 3]]
    state = machine.decode_init(GRAMMAR, _batch(*prompts, *[[11]] * 4), decoding)
    logits = np.random.default_rng(0).normal(size=(8, PADDED)).astype(np.float32)
    got = np.asarray(machine.scores(GRAMMAR, jnp.asarray(logits), state, decoding))
    c, u = logits[:4], logits[4:]
    np.testing.assert_array_equal(got[0], np.where(np.arange(PADDED) < SIZE, c[0], -np.inf))
    code = np.isin(np.arange(PADDED), list(CODES))
    np.testing.assert_allclose(got[2], np.where(code, u[2] + 5 * (c[2] - u[2]), -np.inf), rtol=1e-5)
    for row, forced in ((1, IDS.grid + 2), (3, IDS.newline)):
        np.testing.assert_array_equal(got[row], np.where(np.arange(PADDED) == forced, 0, -np.inf))


def test_a_stray_end_of_image_leaves_the_mode_undefined_as_released():
    state = machine.decode_init(GRAMMAR, _batch([0, 10], [0, 10, 11]), Decoding())
    assert state.depth.tolist() == [-1, 0] and not state.in_image.any()


IMAGE = [11, 16, 17, 2, 3, 4, 9, 14, 5, 6, 7, 8, 14, 10]
CODE_GRID = [[0, 1, 2, 7], [3, 4, 5, 6]]


def test_reading_text_and_several_images():
    text, images = machine.read_ids([20, *IMAGE, 21, *IMAGE, 22, 13], IDS)
    assert text == [20, 24, 21, 24, 22]
    assert [image.tolist() for image in images] == [CODE_GRID, CODE_GRID]


def test_an_image_that_the_prompt_began():
    text, images = machine.read_ids([*IMAGE[1:], 21, *IMAGE, 13], IDS)
    assert text == [24, 21, 24] and len(images) == 2 and images[0].tolist() == CODE_GRID


def test_an_unfinished_image_swallows_the_rest():
    assert machine.read_ids([20, *IMAGE[:-1], 21, 13], IDS) == ([20], [])
    assert machine.read_ids([], IDS) == ([], [])


@pytest.mark.parametrize("broken", [[11, 10], [11, 16, 10], [11, 16, 17, 2, 10], [11, 16, 16, 2, 20, 14, 2, 3, 14, 10]])
def test_what_is_not_a_whole_grid_is_left_out(broken):
    assert machine.read_ids([20, *broken, 21], IDS) == ([20, 21], [])
