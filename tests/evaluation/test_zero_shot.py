"""Zero-shot classes, retrieval, and the figures of reconstructions."""

import json

import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.evaluation import metrics, zero_shot


def test_texts_are_cleaned_as_siglip_expects_them():
    told = {"A photo of a Tench.": "a photo of a tench", "it's  a_snake!! ": "its a snake"}
    told |= {"CD-player (old)": "cdplayer old", "salt &amp; pepper": "salt pepper"}
    assert {text: zero_shot.canonical(text) for text in told} == told


def test_a_class_is_the_mean_direction_of_its_prompts():
    def encode(texts):
        return np.array([[len(t) % 7 + 1.0, t.count("a"), 1.0] for t in texts])

    built = zero_shot.build(["ant", "bee"], ["a {c}", "the {c}."], encode)
    assert built.shape == (3, 2)
    np.testing.assert_allclose(np.linalg.norm(built, axis=0), 1)
    scores = zero_shot.logits(built.T, built)
    assert np.diag(scores) == pytest.approx([100, 100])
    assert zero_shot.top_k(scores, np.array([0, 1]), 1) == 1
    assert zero_shot.top_k(scores, np.array([1, 0]), 1) == 0
    assert zero_shot.top_k(scores, np.array([1, 0]), 5) == 1


def test_retrieval_with_several_texts_a_picture():
    images, texts = np.eye(3), np.repeat(np.eye(3), 2, axis=0)
    owner = np.repeat(np.arange(3), 2)
    assert zero_shot.recall_at_1(images, texts, owner) == {"image_to_text": 1.0, "text_to_image": 1.0}
    wrong = zero_shot.recall_at_1(images, texts, np.roll(owner, 2))
    assert wrong == {"image_to_text": 0.0, "text_to_image": 0.0}


def test_class_files_are_checked(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classnames": ["tench"], "templates": ["a {c}"]}))
    assert zero_shot.read_classes(path) == (["tench"], ["a {c}"])
    path.write_text(json.dumps({"classnames": ["tench"], "templates": ["a photo"]}))
    with pytest.raises(UserError, match=r"'a photo' has no \{c\}"):
        zero_shot.read_classes(path)
    with pytest.raises(UserError, match="expected JSON"):
        zero_shot.read_classes(tmp_path / "none.json")


def test_similarity_of_equal_and_of_unlike_pictures():
    rng = np.random.default_rng(0)
    picture = rng.uniform(-1, 1, (2, 16, 20, 3))
    np.testing.assert_allclose(metrics.ssim(picture, picture), 1)
    assert (metrics.ssim(picture, -picture) < 0.1).all()
    np.testing.assert_allclose(metrics.reconstruction_psnr(picture, picture), 80)
    assert metrics.kl_to_uniform(np.ones(8, int)) == pytest.approx(0, abs=1e-12)
    assert metrics.entropy_fraction(np.array([4, 0, 0, 0])) == pytest.approx(0)
