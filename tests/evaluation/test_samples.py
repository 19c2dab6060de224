"""The pictures of a run's sample sheets, from sources of every kind."""

import json

import numpy as np
import pytest
from PIL import Image

from unitok_jax.errors import UserError
from unitok_jax.evaluation import samples
from unitok_jax.evaluation.samples import SampleSettings, SampleSheets

COLOURS = ("red", "lime", "blue")


@pytest.fixture
def folder(tmp_path):
    """Three pictures and a broken one, a JSONL and a LLaVA list that name them, beside each other."""
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (5, 4), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "00.png").write_bytes(b"broken")
    names = ["gone.png", "00.png", "0.png", "1.png", "2.png"]
    (tmp_path / "set.jsonl").write_text("\n".join(["{broken", *(json.dumps({"image": name}) for name in names)]))
    (tmp_path / "set.json").write_text(json.dumps([{"image": name} for name in names]))
    return tmp_path


@pytest.mark.parametrize(("kind", "file"), [("folder", ""), ("jsonl", "set.jsonl"), ("llava", "set.json")])
def test_pictures_beside_the_source_are_found_and_bad_ones_passed_over(folder, kind, file):
    source = {"kind": kind, "path": str(folder / file)}
    found = samples._images(SampleSettings(source=source, caption=2, reconstruct=1))
    assert [picture[0, 0].tolist() for picture in found] == [[255, 0, 0], [0, 255, 0]]
    assert len(samples._images(SampleSettings(source=source, caption=9))) == 3


def test_a_source_without_pictures_is_told():
    source = {"kind": "memory", "records": [{"text": "a"}, {"image": b"broken"}]}
    with pytest.raises(UserError, match=r"config.samples.source: none of its records has a picture"):
        samples._images(SampleSettings(source=source, caption=1))


def test_a_sheet_of_an_image_folder_is_written(folder, tmp_path, monkeypatch):
    class Echo:
        """Reconstructs a picture as it is, and says how red it is."""

        params = None

        def reconstruct(self, images):
            return np.stack(images)

        def caption(self, images):
            return [str(image[0, 0, 0]) for image in images]

    monkeypatch.setattr(samples, "Pipeline", lambda *args: Echo())
    monkeypatch.setattr(samples.base, "build", lambda name, model: None)
    config = {
        "system": "any",
        "samples": {"source": {"kind": "folder", "path": str(folder)}, "caption": 3, "reconstruct": 2},
    }
    SampleSheets(config, tmp_path / "run")({}, 7)
    told = [json.loads(line) for line in (tmp_path / "run" / "samples" / "0000000007.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in told] == ["255", "0", "0"]
    sheet = np.asarray(Image.open(tmp_path / "run" / "samples" / "0000000007.png"))
    assert sheet.shape == (2 * 4 * 2 + 3 * 2, 2 * 5 * 2 + 3 * 2, 3)
    np.testing.assert_array_equal(sheet[2:10, 2:12], np.broadcast_to([255, 0, 0], (8, 10, 3)))
