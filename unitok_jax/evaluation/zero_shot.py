"""Zero-shot classification and retrieval with a two-tower model (CLIP's protocol, arXiv 2103.00020).

Class names and templates are read from a JSON file ``{"classnames": [...], "templates": ["a photo of a {c}.", ...]}``;
what counts is the mean of a class's normalised text features, normalised again.
"""

import html
import json
import re
import string
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from unitok_jax.errors import UserError

LOGIT_SCALE = 100.0  # the released evaluation multiplies by this constant and not by the model's own scale
Features = Float[np.ndarray, "n width"]


def canonical(text: str) -> str:
    """SigLIP's cleaning: entities undone, ``_`` to space, ASCII punctuation removed, lower case, single spaces."""
    text = html.unescape(html.unescape(text)).replace("_", " ")
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).lower().split())


def read_classes(path: epath.PathLike) -> tuple[list[str], list[str]]:
    """Class names and templates of a JSON file.

    Raises:
        UserError: if the file is missing or is not of the form above.
    """
    file = epath.Path(path)
    try:
        found = json.loads(file.read_text())
        names, templates = list(found["classnames"]), list(found["templates"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file}: expected JSON {{"classnames": [...], "templates": [...]}} ({error})') from None
    wrong = next((t for t in templates if not re.search(r"\{c\}", t)), None)
    if wrong is not None:
        raise UserError(f"{file}: template {wrong!r} has no {{c}}, the place of the class name")
    return names, templates


def classifier(features: Float[np.ndarray, "classes templates width"]) -> Float[np.ndarray, "width classes"]:
    """The mean direction of each class's prompts, one column a class."""
    return unit(unit(features).mean(1)).T


def logits(images: Features, classes: Float[np.ndarray, "width classes"]) -> Float[np.ndarray, "n classes"]:
    """100 times the cosines."""
    return LOGIT_SCALE * unit(images) @ classes


def build(
    names: Sequence[str], templates: Sequence[str], encode: Callable[[Sequence[str]], Features]
) -> Float[np.ndarray, "width classes"]:
    """The classifier of some class names; `encode` gives the features of a class's prompts."""
    prompts = ([canonical(template.replace("{c}", name)) for template in templates] for name in names)
    return classifier(np.stack([encode(of_class) for of_class in prompts]))


def top_k(scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], k: int) -> float:
    """Share of pictures whose class is among the k of the highest scores."""
    best = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
    return float(np.mean((best == np.asarray(labels)[:, None]).any(1)))


def recall_at_1(
    images: Features, texts: Float[np.ndarray, "texts width"], owner: Int[np.ndarray, " texts"]
) -> dict[str, float]:
    """Retrieval both ways: ``image_to_text`` and ``text_to_image``, the share whose nearest is a right one.

    Args:
        images: one row a picture.
        texts: one row a text; a picture may have several (five in Flickr8k).
        owner: the picture that each text belongs to.
    """
    cosines = unit(images) @ unit(texts).T
    of_images = owner[cosines.argmax(1)] == np.arange(len(images))
    of_texts = cosines.argmax(0) == owner
    return {"image_to_text": float(of_images.mean()), "text_to_image": float(of_texts.mean())}


def unit(x: Float[np.ndarray, "*n width"]) -> Float[np.ndarray, "*n width"]:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
