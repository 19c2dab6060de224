"""Pipelines without a model, whose figures are known beforehand."""

import types

import numpy as np

from unitok_jax.data import digits
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.systems.base import VisualTokens

TRAINING = [i for i in range(len(digits.load()[0])) if not digits.held_out(i)]


def drawn_by_hand(digit: int, colour: str, seed: int, noise: float = 12.0) -> np.ndarray:
    """A training scan of the digit with noise: right, yet no copy."""
    rng = np.random.default_rng(seed)
    index = rng.choice([i for i in TRAINING if digits.digit(i) == digit])
    picture = digits.render(int(index), colour) + rng.normal(0, noise, (digits.SIZE, digits.SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


class Fake:
    """What a pipeline says of its codes."""

    codebook_size = 256
    params = types.MappingProxyType({})

    def gives_features(self, image):
        return True

    def codebooks(self, tokens):
        return {"codebook": (tokens.codes[:, 0, :, None], self.codebook_size)}


class Oracle(Fake):
    """Knows every held-out picture by heart; trusts the features where they and the codes disagree."""

    def __init__(self):
        self.settings = InferenceSettings()
        scans = [i for i in range(len(digits.load()[0])) if digits.held_out(i)]
        self._known = {digits.render(i, c).tobytes(): (digits.digit(i), c) for i in scans for c in digits.COLOURS}

    def caption(self, images, *, feature_images=None):
        seen = images if feature_images is None else feature_images
        known = [self._known.get(image.tobytes()) for image in seen]
        return [digits.caption(*pair) if pair else "a handwritten nothing" for pair in known]

    def ask(self, images, questions):
        captions = [digits.parse_caption(text) for text in self.caption(images)]
        return [
            colour if question == digits.COLOUR_QUESTION else digits.NUMBERS[digit]
            for (digit, colour), question in zip(captions, questions, strict=True)
        ]

    def generate(self, prompts, *, seeds=0):
        wanted = [digits.parse_caption(prompt) for prompt in prompts]
        return np.stack([drawn_by_hand(*pair, seed=seeds + i) for i, pair in enumerate(wanted)])

    def reconstruct(self, images):
        return np.clip(images.astype(int) + np.where(np.arange(digits.SIZE) % 2, 5, -5)[:, None], 0, 255).astype(
            np.uint8
        )

    def encode(self, images):
        return VisualTokens(codes=np.arange(len(images) * 16).reshape(len(images), 1, 16) % 256, grid=(4, 4))


class Wrong(Oracle):
    """Names and draws the next digit in the next colour, everywhere, and uses one code."""

    def caption(self, images, *, feature_images=None):
        pairs = [digits.parse_caption(text) for text in super().caption(images)]
        return [digits.caption(*_next(*pair)) if None not in pair else "" for pair in pairs]

    def generate(self, prompts, *, seeds=0):
        return super().generate([digits.caption(*_next(*digits.parse_caption(p))) for p in prompts], seeds=seeds)

    def reconstruct(self, images):
        return np.zeros_like(images)

    def encode(self, images):
        return VisualTokens(codes=np.full((len(images), 1, 16), 7))


class Copier(Oracle):
    """Draws training pictures as they are, in the asked colour or, for an unseen pair, the asked colour's digit."""

    def generate(self, prompts, *, seeds=0):
        pictures = []
        for digit, colour in (digits.parse_caption(prompt) for prompt in prompts):
            fits = [(i, c) for i, c in digits.split("train") if c == colour and digits.digit(i) == digit]
            fits = fits or [scan for scan in digits.split("train") if scan[1] == colour]
            pictures.append(digits.render(*fits[0]))
        return np.stack(pictures)


def _next(digit: int, colour: str) -> tuple[int, str]:
    names = digits.COLOUR_NAMES
    return (digit + 1) % 10, names[(names.index(colour) + 1) % len(names)]


CONFIG = types.MappingProxyType({"system": "unitoken", "seed": 0, "evaluation": {"prompts_per_unseen_pair": 2}})
