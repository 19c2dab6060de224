"""Our models as lmms-eval asks them, against its interface of 0.7: a base class, requests with six arguments."""

import importlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.example import IMAGE
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Answer
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import GREEDY, Sampling


class Base:
    """What lmms-eval's base class gives a model."""

    def __init__(self):
        self.task_dict = {}
        self._rank, self._world_size = 0, 1

    @classmethod
    def create_from_arg_string(cls, text, more):
        given = dict(item.split("=", 1) for item in text.split(","))
        return cls(**given, **{key: value for key, value in more.items() if value is not None})


class Reader:
    """Answers with what it was asked, and remembers how."""

    def __init__(self):
        self.settings, self.params, self.calls = InferenceSettings(), {"a": {"b": np.arange(3.0)}}, []

    def answer(self, examples, decoding):
        self.calls.append((decoding, [len(example.images) for example in examples]))
        return [Answer(f"{IMAGE} says {example.turns[0].text.replace(IMAGE, '@')}", []) for example in examples]


@pytest.fixture
def adapter(monkeypatch):
    """The module, lmms-eval being `Base`."""
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = Base
    monkeypatch.delitem(sys.modules, "unitok_jax.cli.lmms", raising=False)
    yield importlib.import_module("unitok_jax.cli.lmms")
    sys.modules.pop("unitok_jax.cli.lmms", None)


@pytest.fixture
def model(adapter, monkeypatch):
    config = types.SimpleNamespace(system="toy", seed=0, stage="lm")
    monkeypatch.setattr(adapter, "load_run", lambda workdir, mesh: (Reader(), config))
    monkeypatch.setattr(adapter, "run_of", lambda workdir, config: {"system": config.system, "seed": config.seed})
    made = adapter.UnitokJax.create_from_arg_string("workdir=runs/mine", {"batch_size": 16, "device": None})
    red, blue = Image.new("RGB", (5, 4), "red"), Image.new("L", (3, 3))
    made.task_dict = {"mme": {"test": [{"image": [red]}, {"image": [red, blue]}, {"image": []}]}}
    return made


def ask(model, *asked):
    """Answers to (question, how to decode, document)."""
    pictures = [
        types.SimpleNamespace(args=(question, how, lambda doc: doc["image"], document, "mme", "test"))
        for question, how, document in asked
    ]
    return model.generate_until(pictures)


def test_questions_are_answered_in_their_order(model):
    short, long = {"max_new_tokens": 4}, {"max_new_tokens": 8}
    answers = ask(model, ("first?", short, 0), ("second?", long, 1), ("third?", short, 2))
    assert answers == ["says @first?", "says @@second?", "says third?"]
    pipeline = model._pipeline
    assert [(decoding.max_steps, images) for decoding, images in pipeline.calls] == [(4, [1, 0]), (8, [2])]
    assert pipeline.settings.batch_size == 16


def test_pictures_stand_where_the_question_has_them(model):
    asked = ("is <image> before <image>?", {}, 1), ("<image> alone <image>", {}, 0), (f"a {IMAGE} trick", {}, 0)
    assert ask(model, *asked) == ["says is @ before @?", "says @ alone", "says @a  trick"]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, GREEDY),
        ({"until": ["ASSISTANT:"], "image_aspect_ratio": "original"}, GREEDY),
        ({"temperature": 0.7, "do_sample": False}, GREEDY),
        ({"temperature": 0.7, "top_p": 0.9}, Sampling(temperature=0.7, top_p=0.9)),
    ],
)
def test_the_decode_is_as_the_task_says(model, how, text):
    ask(model, ("x", how, 0))
    ((decoding, _),) = model._pipeline.calls
    assert decoding.text == text and decoding.max_steps == model._pipeline.settings.read.max_steps


def test_answers_end_where_the_task_says(model):
    assert ask(model, ("x. Y\nz", {"until": [".", "\n"]}, 0), ("x\nz", {"until": "\n"}, 0)) == ["says @x"] * 2


def test_what_it_cannot_do_is_told_in_one_line(model):
    model.task_dict["mme"]["test"][0]["image"] = ["film.mp4"]
    with pytest.raises(UserError, match="mme: gives a str beside the words; the model looks at pictures alone"):
        ask(model, ("x", {}, 0))
    with pytest.raises(UserError, match="5 beams"):
        ask(model, ("x", {"num_beams": 5}, 0))
    with pytest.raises(UserError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(UserError, match="several rounds"):
        model.generate_until_multi_round([])


def test_a_file_tells_what_answered(adapter, model, tmp_path):
    adapter.UnitokJax(workdir="runs/mine", provenance=str(tmp_path / "made_by.json"))
    told = adapter.files.read_json(tmp_path / "made_by.json")
    assert told["system"] == "toy" and {"checkpoint hash", "jax", "device", "python"} <= set(told)
