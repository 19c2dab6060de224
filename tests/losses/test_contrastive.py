"""SigLIP's loss against its definition, pair by pair."""

import jax
import numpy as np

from unitok_jax.losses import contrastive
from unitok_jax.losses.contrastive import retrieval_accuracy

sigmoid_loss = jax.jit(contrastive.sigmoid_loss)  # as a whole: faster than operation by operation
RNG = np.random.default_rng(0)
IMAGES, TEXTS = RNG.normal(size=(2, 6, 5)).astype(np.float32)
SCALE, BIAS = np.float32(0.7), np.float32(-1.5)
SAME = np.array([0, 1, 2, 0, 4, 1])[:, None] == np.array([0, 1, 2, 0, 4, 1])


def cosines(images, texts):
    return np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in texts] for a in images], np.float64)


def reference(images, texts, same):
    total = 0
    for i, row in enumerate(cosines(images, texts)):
        for j, cosine in enumerate(row):
            sign = 1 if i == j else -1
            if i == j or not same[i, j]:
                total += np.log1p(np.exp(-sign * (cosine * np.exp(SCALE) + BIAS)))
    return total / len(images)


def test_loss():
    loss, _ = sigmoid_loss(IMAGES, TEXTS, SCALE, BIAS)
    np.testing.assert_allclose(loss, reference(IMAGES, TEXTS, np.eye(6, dtype=bool)), rtol=1e-5)


def test_equal_captions_are_no_negatives():
    loss, _ = sigmoid_loss(IMAGES, TEXTS, SCALE, BIAS, SAME)
    np.testing.assert_allclose(loss, reference(IMAGES, TEXTS, SAME), rtol=1e-5)


def test_a_pair_left_out_has_no_gradient():
    texts = np.eye(6, 5, dtype=np.float32) + 0.1
    everywhere = np.ones((6, 6), bool)

    def alone(texts):
        return jax.vmap(lambda i, t: contrastive.sigmoid_loss(i[None], t[None], SCALE, BIAS)[0])(IMAGES, texts).mean()

    gradient = jax.grad(lambda t: sigmoid_loss(IMAGES, t, SCALE, BIAS, everywhere)[0])(texts)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(alone))(texts), atol=1e-6)


def test_accuracy_counts_both_directions():
    scores = np.array([[3.0, 2, 0], [1, 0, 0], [0, 0, 5]], np.float32)
    assert np.isclose(retrieval_accuracy(scores, np.eye(3, dtype=bool)), (2 / 3 + 2 / 3) / 2)
    same = np.eye(3, dtype=bool)
    same[0, 1] = same[1, 0] = True
    assert retrieval_accuracy(scores, same) == 1


def test_accuracy_of_the_batch():
    _, accuracy = sigmoid_loss(IMAGES, TEXTS, SCALE, BIAS, SAME)
    scores = cosines(IMAGES, TEXTS)
    rows = [SAME[i, scores[i].argmax()] for i in range(6)]
    columns = [SAME[scores[:, j].argmax(), j] for j in range(6)]
    np.testing.assert_allclose(accuracy, np.mean(rows + columns), rtol=1e-6)


def test_a_perfect_batch():
    loss, accuracy = sigmoid_loss(
        np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), np.float32(5), np.float32(-70)
    )
    assert accuracy == 1 and loss < 1e-6
