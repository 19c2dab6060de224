"""A tiny stage for data tests: a layout that needs no system, and small settings."""

import hashlib

import numpy as np

from unitok_jax.data.example import IMAGE
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.data.settings import DataSettings
from unitok_jax.settings import from_config

OUTPUTS = 4  # visual outputs of one picture
SIDE = 8


def spec(length=48, images=3, pack=True, **options):
    views = {
        "vq": View(images, SIDE, SIDE, OUTPUTS, Modality.CODE),
        "vit": View(images, SIDE, SIDE, OUTPUTS, Modality.FEATURE),
    }
    return RowSpec(length, views, code_view="vq", pack=pack, **options)


def layout(example, rng):
    """Bytes for text; four features and four codes for a picture; two noise positions drawn from the rng."""
    ids, modality, slots, seen = [], [], [], 0
    for turn in example.turns:
        for number, text in enumerate(turn.text.split(IMAGE)):
            if number:
                ids += [1] * (2 * OUTPUTS)
                modality += [Modality.FEATURE] * OUTPUTS + [Modality.CODE] * OUTPUTS
                slots += 2 * list(range(seen * OUTPUTS, (seen + 1) * OUTPUTS))
                seen += 1
            ids += text.encode()
            modality += [Modality.TEXT] * len(text.encode())
            slots += [0] * len(text.encode())
    ids += rng.integers(2, 200, 2).tolist()
    modality, slots = [*modality, 0, 0], [*slots, 0, 0]
    small = [image[:SIDE, :SIDE] for image in example.images]
    return ExampleRow(
        tokens=np.array(ids, np.int32),
        targets=np.array([*ids[1:], 0], np.int32),
        loss_weights=np.ones(len(ids), np.float32),
        modality=np.array(modality, np.int8),
        slots=np.array(slots, np.int32),
        task=example.task,
        views={"vq": small if example.codes is None else [], "vit": small},
        codes=None if example.codes is None else np.stack(example.codes).astype(np.int32),
        sizes=np.array([image.shape[:2] for image in example.images], np.int32).reshape(-1, 2),
        label=example.label,
    )


def settings(train=(), **options):
    return from_config(DataSettings, {"train": list(train), "prefetch": 0, **options}, "config.data")


def texts(count, prefix="t"):
    """Plain-text records of different lengths: ``prefix`` and a number, repeated."""
    return [{"id": f"{prefix}{i}", "text": f"{prefix}{i} " * (1 + i % 4)} for i in range(count)]


def digest(batch):
    """A short fingerprint of all arrays of a batch."""
    state = hashlib.sha256()

    def add(name, value):
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
        else:
            state.update(f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())

    add("", batch)
    return state.hexdigest()[:16]
