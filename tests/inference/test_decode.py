import jax.numpy as jnp
import numpy as np
import pytest
from tiny_system import STOP, TinySystem, batch

from unitok_jax.inference.decode import decode, stream, written
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling

PROMPTS = ([3, 4, 5, 6, 7], [8], [9, 2, 4], [5, 5])
SYSTEM = TinySystem()
SAMPLED = Decoding(image=Sampling(temperature=1.5), max_steps=12)


def _keys(*seeds):
    return sample_keys(jnp.asarray(seeds))


def _greedy_by_hand(params, prompt, steps):
    """One row without cache or padding, in numpy."""
    embed, head = (np.asarray(params[k], np.float64) for k in ("embed", "head"))
    ids = list(prompt)
    for _ in range(steps):
        place = np.arange(len(ids))[:, None] * (1.0 + np.arange(embed.shape[1]))
        tagged = embed[ids] + np.sin(place)
        weights = np.exp(tagged @ tagged[-1] - (tagged @ tagged[-1]).max())
        hidden = weights @ tagged / weights.sum()
        ids.append(int(np.argmax(head @ hidden)))
        if ids[-1] == STOP:
            break
    return ids[len(prompt) :]


def test_greedy_batch_of_different_lengths_equals_each_row_by_hand():
    params = SYSTEM.params(1)
    decoding = Decoding(image=GREEDY, max_steps=12)
    got = written(decode(SYSTEM, params, batch(*PROMPTS), _keys(0, 0, 0, 0), decoding))
    for prompt, ids in zip(PROMPTS, got, strict=True):
        assert ids.tolist() == _greedy_by_hand(params, prompt, 12)


def test_a_sample_does_not_depend_on_its_batch():
    params = SYSTEM.params(2)
    together = written(decode(SYSTEM, params, batch(*PROMPTS, length=9), _keys(3, 1, 4, 1), SAMPLED))
    for i, seed in enumerate((3, 1, 4, 1)):
        alone = written(decode(SYSTEM, params, batch(PROMPTS[i]), _keys(seed), SAMPLED))
        np.testing.assert_array_equal(together[i], alone[0])
    other = written(decode(SYSTEM, params, batch(*PROMPTS, length=9), _keys(7, 8, 9, 10), SAMPLED))
    assert any(a.tolist() != b.tolist() for a, b in zip(together, other, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_streaming_equals_the_whole_and_runs_one_program(seed):
    system = TinySystem()
    params = system.params(seed)
    whole = written(decode(system, params, batch(*PROMPTS), _keys(0, 1, 2, 3), SAMPLED))
    traced = len(system.traces)
    pieces = list(stream(system, params, batch(*PROMPTS), _keys(0, 1, 2, 3), SAMPLED, chunk=5))
    assert len(system.traces) == traced
    for piece in pieces:
        for part, ids in zip(piece, whole, strict=True):
            np.testing.assert_array_equal(part, ids[: len(part)])
    assert [len(p) for p in pieces[-1]] == [len(w) for w in whole]


def test_the_loop_ends_early_and_drops_what_ended_rows_emit():
    params = SYSTEM.params(1)
    params["head"] = params["head"].at[STOP].set(100.0 * params["head"][STOP])
    got = decode(SYSTEM, params, batch(*PROMPTS), _keys(0, 1, 2, 3), Decoding(image=Sampling(), max_steps=40))
    assert int(got.step) < 40 and bool(got.done.all())
    assert int(got.step) == int(got.lengths.max())
    for ids in written(got):
        assert (ids == STOP).sum() == 1 and ids[-1] == STOP
    behind = np.arange(got.ids.shape[1]) >= np.asarray(got.lengths)[:, None]
    assert not np.asarray(got.ids)[behind].any()


def test_several_positions_a_step():
    system = TinySystem(positions=3)
    got = decode(system, system.params(3), batch(*PROMPTS[:2]), _keys(0, 1), Decoding(image=GREEDY, max_steps=4))
    assert got.ids.shape == (2, 12)
    assert (np.asarray(got.ids).reshape(2, 4, 3) == np.asarray(got.ids).reshape(2, 4, 3)[..., :1]).all()
    assert (np.asarray(got.lengths) % 3 == 0).all()


def _guided_by_hand(params, prompt, begin, scale, steps):
    """Two contexts, two calls a step; the unconditional one starts anew when `begin` is drawn."""
    embed, head = (np.asarray(params[k], np.float64) for k in ("embed", "head"))

    def logits(ids):
        tagged = embed[ids] + np.sin(np.arange(len(ids))[:, None] * (1.0 + np.arange(embed.shape[1])))
        weights = np.exp(tagged @ tagged[-1] - (tagged @ tagged[-1]).max())
        return head @ (weights @ tagged / weights.sum())

    conditional, unconditional, out = list(prompt), [begin], []
    for _ in range(steps):
        c, u = logits(conditional), logits(unconditional)
        drawn = int(np.argmax(u + scale * (c - u)))
        out.append(drawn)
        conditional.append(drawn)
        unconditional = [drawn] if drawn == begin else [*unconditional, drawn]
        if drawn == STOP:
            break
    return out


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_guidance_equals_two_separate_calls(seed):
    params = SYSTEM.params(seed)
    decoding = Decoding(image=GREEDY, guidance=2.5, max_steps=10)
    rows = batch(*PROMPTS, *[[SYSTEM.begin]] * 4)
    got = written(decode(SYSTEM, params, rows, _keys(0, 0, 0, 0), decoding))
    for prompt, ids in zip(PROMPTS, got, strict=True):
        assert ids.tolist() == _guided_by_hand(params, prompt, SYSTEM.begin, 2.5, 10)


def test_programs_are_kept_by_shape():
    system = TinySystem()
    params = system.params()
    for length, seeds in ((4, (0, 1)), (4, (5, 6)), (6, (0, 1)), (4, (2, 3))):
        decode(system, params, batch([3], [4, 5], length=length), _keys(*seeds), SAMPLED)
    assert len(system.traces) == 2
