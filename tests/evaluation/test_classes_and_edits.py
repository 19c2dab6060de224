"""Digits drawn by class, and edits: judged by what they show, and shown."""

import types

import numpy as np
import pytest

from unitok_jax.data import digits
from unitok_jax.errors import UserError
from unitok_jax.evaluation import classes, editing, exhibits, files

OWN = [next(i for i in range(1797) if digits.digit(i) == d and not digits.held_out(i)) for d in range(10)]


def test_pictures_of_classes_are_judged_by_their_digit(tmp_path):
    for digit in range(10):
        for number, shown in enumerate((digit, digit if digit else 1)):  # one of the zeros is a one
            picture = digits.render(OWN[shown], "green")
            files.write_picture(tmp_path / "drawn" / f"{digit:04d}" / f"{number:04d}.png", picture)
    files.write_text(tmp_path / "drawn" / "settings.json", "{}")
    assert classes.classes(tmp_path, "drawn") == {"class_correct": 0.95}
    page = classes.exhibit(tmp_path)
    assert page.count("<img") == 20 and page.count("class=wrong") == 1
    with pytest.raises(UserError, match=r"no pictures; draw them first: .*sample_classes --workdir RUN --out .*other"):
        classes.classes(tmp_path, "other")


def test_edits_are_judged_and_shown(tmp_path):
    def edit(images, instructions, seeds):
        """Does what changes a colour; leaves digits as they are."""
        made = []
        for image, instruction in zip(images, instructions, strict=True):
            bright = image.max(-1, keepdims=True) / 255
            colour = instruction.removeprefix("make it ")
            made.append((bright * digits.COLOURS[colour]).astype(np.uint8) if colour in digits.COLOURS else image)
        return np.stack(made)

    found = editing.edits(types.SimpleNamespace(edit=edit), tmp_path, 6, seed=0)
    assert found["edit_correct_colour"] == 1 and found["edit_correct_digit"] == 0 and found["edit_correct"] == 0.5
    page = exhibits.edits(tmp_path)
    assert page.count("<img") == 12 and page.count("class=wrong") == 3 and "make it" in page
