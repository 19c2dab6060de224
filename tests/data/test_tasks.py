import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unitok_jax.data import pictures
from unitok_jax.data.example import IMAGE, REASONS, BadExample, Task, Turn
from unitok_jax.data.tasks import TASKS, to_example

RED = np.full((4, 6, 3), (250, 0, 0), np.uint8)
BLUE = np.full((4, 6, 3), (0, 0, 250), np.uint8)


def make(task, record, prompts=(), seed=0):
    return to_example(task, {"id": "r:1", **record}, prompts, np.random.default_rng(seed))


def encoded(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_caption_and_generate_are_mirrored():
    record = {"image": RED, "caption": "a red field"}
    told = make("caption", record, ("What is it?",))
    assert told.turns == (Turn("user", IMAGE + "What is it?"), Turn("assistant", "a red field"))
    assert told.task == Task.UNDERSTANDING
    drawn = make("generate", record, ("Paint {caption}!",))
    assert drawn.turns == (Turn("user", "Paint a red field!"), Turn("assistant", IMAGE))
    assert drawn.task == Task.GENERATION
    np.testing.assert_array_equal(drawn.images[0], RED)


def test_prompt_places_the_picture():
    assert make("caption", {"image": RED, "caption": "x"}, (f"Look: {IMAGE} ?",)).turns[0].text == f"Look: {IMAGE} ?"


def test_edit_and_variation_take_a_target():
    both = {"image": RED, "target": BLUE, "instruction": "make it blue"}
    for task in ("edit", "variation"):
        example = make(task, both)
        np.testing.assert_array_equal(example.images, [RED, BLUE])
        assert example.turns[1].text == IMAGE
    assert make("edit", both).turns[0].text == IMAGE + "make it blue"
    np.testing.assert_array_equal(make("variation", {"image": RED}).images, [RED, RED])


def test_text_with_and_without_prompt():
    assert make("text", {"text": " hello "}).turns == (Turn("assistant", "hello"),)
    assert make("text", {"text": "4", "prompt": "2+2?"}).turns[0] == Turn("user", "2+2?")


def test_pictures_without_a_mark_stand_in_front_as_the_entry_says():
    record = {
        "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "x"}],
        "image": [RED, BLUE],
    }
    assert make("conversation", record).turns[0].text == IMAGE * 2 + "what?"
    assert make("conversation", record, (IMAGE + " ",)).turns[0].text == f"{IMAGE} {IMAGE} what?"


def test_conversation_tasks_follow_the_pictures():
    def talk(*turns, **record):
        messages = [{"from": who, "value": text} for who, text in turns]
        return make("conversation", {"conversations": messages, **record})

    seen = talk(("human", "<image>\nwhat?"), ("gpt", "red"), ("human", "sure?"), ("gpt", "yes"), image=RED)
    assert [turn.role for turn in seen.turns] == ["user", "assistant"] * 2
    assert seen.turns[0].text == f"{IMAGE}\nwhat?"
    assert seen.task == Task.UNDERSTANDING
    assert talk(("human", "draw"), ("gpt", "<image>"), image=RED).task == Task.GENERATION
    assert talk(("human", "hi"), ("gpt", "ho")).task == Task.TEXT
    assert talk(("human", "what?"), ("gpt", "red"), images=[RED, BLUE]).turns[0].text == IMAGE + IMAGE + "what?"
    with pytest.raises(BadExample, match="image symbols do not match the images"):
        talk(("human", "<image><image>"), ("gpt", "x"), image=RED)
    with pytest.raises(BadExample, match="without a known speaker"):
        talk(("robot", "hi"))


def test_question_and_prompt_are_drawn_by_the_rng():
    record = {"image": RED, "questions": ["a?", "b?"], "answers": ["A", "B"]}
    made = [make("question", record, ("{question}", "Tell: {question}"), seed) for seed in range(40)]
    found = {(example.turns[0].text.removeprefix(IMAGE), example.turns[1].text) for example in made}
    assert found == {("a?", "A"), ("b?", "B"), ("Tell: a?", "A"), ("Tell: b?", "B")}
    assert make("question", record, (), 3).turns == make("question", record, (), 3).turns


def test_captions_may_be_a_list():
    record = {"image": RED, "caption": ["one", "two"]}
    assert {make("caption", record, (), seed).turns[1].text for seed in range(20)} == {"one", "two"}


def test_image_alone_has_its_label():
    example = make("image", {"image": RED, "label": np.int64(3)})
    assert example.turns == ()
    assert (example.label, example.task) == (3, Task.NONE)
    assert [make("image", {"image": RED, "label": value}).label for value in ("7", 2.0, -1, None)] == [7, 2, None, None]
    assert make("caption", {"image": RED, "caption": "x", "label": "dog"}).label is None


def test_numbers_may_be_answers():
    record = {"image": RED, "questions": ["how many?"], "answers": [2]}
    assert make("question", record).turns[1] == Turn("assistant", "2")


def test_codes_stand_for_pictures():
    codes = np.arange(4)
    example = make("generate", {"caption": "x", "codes": codes})
    assert example.images == ()
    np.testing.assert_array_equal(example.codes[0], codes)
    both = make("caption", {"caption": "x", "codes": codes, "image": RED})
    assert len(both.images) == len(both.codes) == 1
    two = {"conversations": [{"from": "gpt", "value": "<image> and <image>"}], "codes": [codes, codes + 1]}
    assert len(make("conversation", two).codes) == len(make("conversation", {**two, "image": [RED, BLUE]}).codes) == 2
    assert len(make("variation", {"codes": [codes]}).codes) == 2
    assert len(make("edit", {"codes": [codes, codes], "instruction": "x"}).codes) == 2
    assert len(make("caption", {"codes": [codes, codes + 1], "caption": "x"}).codes) == 1
    with pytest.raises(BadExample, match="1 pictures, 2 places"):
        make("edit", {"codes": [codes], "instruction": "x"})


@pytest.mark.parametrize(
    ("task", "record", "reason"),
    [
        ("caption", {"image": RED, "caption": "  "}, "missing text"),
        ("caption", {"image": RED}, "missing text"),
        ("caption", {"caption": "x"}, "image missing"),
        ("caption", {"caption": "x", "image": "gone.png", "folder": "/nowhere"}, "image missing"),
        ("caption", {"caption": "x", "image": b"no picture"}, "image cannot be decoded"),
        ("caption", {"caption": "x", "image": 7}, "image cannot be decoded"),
        ("caption", {"caption": "x", "image": RED.astype(float)}, "image cannot be decoded"),
        ("caption", {"caption": f"x {IMAGE}", "image": RED}, "image symbols do not match the images"),
        ("question", {"image": RED, "questions": ["a"], "answers": []}, "missing text"),
        ("conversation", {"conversations": []}, "missing text"),
        ("text", {"text": None}, "missing text"),
        ("text", {"text": "half a pair \ud800"}, "missing text"),
        ("caption", {"image": RED, "caption": [3]}, "missing text"),
        ("caption", {"image": "a\0b.png", "caption": "x"}, "image missing"),
        ("caption", {"image": "nowhere://a/b.png", "caption": "x"}, "image missing"),
        ("caption", {"image": "a.png", "folder": 7, "caption": "x"}, "image missing"),
        ("caption", {"image": [[RED]], "caption": "x"}, "image cannot be decoded"),
        ("caption", {"image": np.zeros((2, 900, 3), np.uint8), "caption": "x"}, "image too large"),
        ("question", {"image": RED, "questions": 5, "answers": [1]}, "missing text"),
        ("question", {"image": RED, "questions": "why?", "answers": "here"}, "missing text"),
        ("question", {"image": RED, "questions": ["a"], "answers": [None]}, "missing text"),
        ("question", {"image": RED, "questions": [{"q": 1}], "answers": ["x"]}, "missing text"),
        ("conversation", {"conversations": {"from": "human"}}, "missing text"),
        ("conversation", {"conversations": [{"from": ["human"], "value": "x"}]}, "missing text"),
        ("conversation", {"conversations": [7]}, "missing text"),
        ("image", {"image": RED, "label": "seven"}, "other"),
        ("image", {"image": RED, "label": [1, 2]}, "other"),
        ("image", {"image": RED, "label": 1.5}, "other"),
        ("image", {"image": RED, "label": float("nan")}, "other"),
        ("image", {"image": RED, "label": 2**40}, "other"),
        ("caption", {"codes": [1, 2, 3], "caption": "x"}, "no precomputed codes"),
        ("caption", {"codes": [[[1], [2, 3]]], "caption": "x"}, "no precomputed codes"),
        ("caption", {"codes": [[0.5, 1.0]], "caption": "x"}, "no precomputed codes"),
        ("caption", {"codes": [[-1, 1]], "caption": "x"}, "no precomputed codes"),
        ("caption", {"codes": {"a": 1}, "caption": "x"}, "no precomputed codes"),
    ],
)
def test_bad_records_say_why(task, record, reason):
    with pytest.raises(BadExample) as caught:
        make(task, record)
    assert caught.value.reason == reason
    assert reason in REASONS
    assert "r:1" in caught.value.detail


def test_truncated_file_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        (tmp_path / "cut").write_bytes(encoded(noise, kind)[:800])
        with pytest.raises(BadExample, match="image cannot be decoded"):
            pictures.decode("cut", str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [struct.error("short"), zlib.error("bad"), IndexError("x"), KeyError("x"), AssertionError(), TypeError("x")],
)
def test_whatever_a_decoder_raises_is_a_bad_picture(error, monkeypatch):
    def decode(*args, **options):
        raise error

    monkeypatch.setattr(Image.Image, "convert", decode)
    with pytest.raises(BadExample, match="image cannot be decoded"):
        pictures.decode(encoded(RED))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds
def test_damaged_files_are_bad_pictures():
    """Every kind of file with bytes drawn anew: some still decode, none raises anything else."""
    rng, bad = np.random.default_rng(3), 0
    noise = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PPM", "ICO"):
        whole = bytearray(encoded(noise, kind))
        for _ in range(30):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 120), 4):
                damaged[place] = rng.integers(256)
            try:
                assert pictures.decode(bytes(damaged)).dtype == np.uint8
            except BadExample:
                bad += 1
    assert bad > 50


def test_size_bomb_is_refused():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    with pytest.raises(BadExample) as caught:
        pictures.decode(bomb)
    assert caught.value.reason in ("image too large", "image cannot be decoded")


def test_alpha_is_laid_on_white_and_truncated():
    rgba = np.random.default_rng(1).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    alpha = rgba[..., 3:] / 255.0
    expected = ((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8)
    np.testing.assert_array_equal(pictures.decode(rgba), expected)
    np.testing.assert_array_equal(pictures.decode(encoded(rgba)), expected)


def test_orientation_of_the_camera_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = pictures.decode(encoded(RED, "JPEG", exif=exif, quality=95))
    assert picture.shape == (6, 4, 3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(RED).convert(mode).save(buffer, "TIFF")
    assert pictures.decode(buffer.getvalue()).shape == (4, 6, 3)


def test_sixteen_bit_grey_keeps_its_range():
    grey = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    np.testing.assert_array_equal(pictures.decode(encoded(grey))[..., 1], grey >> 8)


def test_grey_arrays_become_rgb():
    assert pictures.decode(np.zeros((5, 4, 1), np.uint8)).shape == (5, 4, 3)
    assert pictures.decode(np.zeros((5, 4), np.uint8)).shape == (5, 4, 3)


def test_every_task_has_a_test_of_its_name():
    assert set(TASKS) == {"caption", "generate", "edit", "variation", "text", "conversation", "question", "image"}
