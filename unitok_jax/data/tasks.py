"""Raw records to examples, one function a task.

A record's fields, whatever its source:

- ``image``, ``images``, ``target``: pictures (arrays, encoded bytes or paths relative to ``folder``); ``target`` is
  what an edit or a variation must give.
- ``codes``: precomputed codes, one array or a list of them, in the order of the pictures above; ``grids``: the rows and
  columns of each, where pictures may have several sizes.
- ``caption``: a string or a list of which one is drawn; ``instruction``: what an edit must do.
- ``prompt``, ``text``: plain text, with or without a request before it.
- ``questions``, ``answers``: lists of the same length.
- ``conversations``: ``[{"from": "human" | "gpt", "value": text}]``, with ``<image>`` where a picture stands;
  for each picture without any such mark the entry's first prompt (``<|image|>``, or with a space behind it) is put
  in front of the first turn.
- ``label``: a class, a whole number; ``id``: the record's name in logs.

Prompts are templates of which one is drawn; ``{caption}``, ``{instruction}`` and ``{question}`` are filled in.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from unitok_jax.data import fields
from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.fields import Record

Prompts = Sequence[str]


def caption(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image -> text."""
    turns = _dialogue(_with_image(_draw(prompts, rng)), fields.caption(record, rng))
    return _example(record, turns, Task.UNDERSTANDING, ("image",))


def generate(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Text -> image."""
    prompt = _draw(prompts, rng).replace("{caption}", fields.caption(record, rng))
    return _example(record, _dialogue(prompt, IMAGE), Task.GENERATION, ("image",))


def edit(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image and text -> image."""
    prompt = _draw(prompts, rng).replace("{instruction}", fields.text(record, "instruction"))
    return _example(record, _dialogue(_with_image(prompt), IMAGE), Task.GENERATION, ("image", "target"))


def variation(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image -> image: ``target`` where the record has one, else the picture itself."""
    target = "target" if "target" in record else "image"
    return _example(record, _dialogue(_with_image(_draw(prompts, rng)), IMAGE), Task.GENERATION, ("image", target))


def text(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Plain text; after a ``prompt`` where the record has one."""
    answer = Turn("assistant", fields.text(record, "text"))
    turns = (Turn("user", fields.text(record, "prompt")), answer) if "prompt" in record else (answer,)
    return _example(record, turns, Task.TEXT, ())


def conversation(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Several turns, with any number of pictures on either side."""
    messages = fields.entries(record, "conversations")
    if not messages:
        raise BadExample("missing text", f"{fields.name(record)}: no conversations")
    turns = tuple(fields.turn(record, message) for message in messages)
    images = record.get("images", record.get("image"))
    if images is not None:
        record = {**record, "images": images if isinstance(images, (list, tuple)) else [images]}
        if not any(IMAGE in turn.text for turn in turns):
            turns = (Turn(turns[0].role, prompts[0] * len(record["images"]) + turns[0].text), *turns[1:])
    if any(IMAGE in turn.text for turn in turns if turn.role == "assistant"):
        task = Task.GENERATION
    else:
        task = Task.UNDERSTANDING if any(IMAGE in turn.text for turn in turns) else Task.TEXT
    return _example(record, turns, task, () if task is Task.TEXT else ("images",))


def question(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image and one of the record's questions -> its answer."""
    questions, answers = fields.entries(record, "questions"), fields.entries(record, "answers")
    if not questions or len(questions) != len(answers):
        raise BadExample("missing text", f"{fields.name(record)}: {len(questions)} questions, {len(answers)} answers")
    pick = int(rng.integers(len(questions)))
    asked, answer = (fields.words(record, "questions or answers", each[pick]) for each in (questions, answers))
    prompt = _draw(prompts, rng).replace("{question}", asked)
    return _example(record, _dialogue(_with_image(prompt), answer), Task.UNDERSTANDING, ("image",))


def image(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """A picture alone, with its class where the record has one: what tokenizers train on."""
    return dataclasses.replace(_example(record, (), Task.NONE, ("image",)), label=fields.label(record))


TASKS: dict[str, tuple[Callable[[Record, Prompts, np.random.Generator], Example], Prompts]] = {
    "caption": (caption, ("Describe the image.",)),
    "generate": (generate, ("Generate an image of {caption}.",)),
    "edit": (edit, ("{instruction}",)),
    "variation": (variation, ("Generate another image like this one.",)),
    "text": (text, ()),
    "conversation": (conversation, (IMAGE,)),
    "question": (question, ("{question}",)),
    "image": (image, ()),
}
"""By name: the function, and the prompts that it draws from when the config gives none."""


def to_example(task: str, record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Makes an example of a record.

    Args:
        task: a name of `TASKS`.
        record: see above.
        prompts: templates; empty takes the task's own.
        rng: draws the prompt, the caption and the question.

    Raises:
        BadExample: for a field that is not what it should be, an empty text, a missing or broken picture, or pictures
            that do not match the text.
    """
    make, own = TASKS[task]
    return make(record, prompts or own, rng)


def _example(record: Record, turns: tuple[Turn, ...], task: Task, pictured: Sequence[str]) -> Example:
    codes, grids = fields.codes(record, pictured), fields.grids(record, pictured)
    coded_alone = codes is not None and not any(field in record for field in pictured)
    images = () if coded_alone else fields.images(record, pictured)
    wanted = sum(turn.text.count(IMAGE) for turn in turns) if turns else 1
    for kind, given in (("pictures", images or codes or ()), ("codes", codes), ("grids", grids)):
        if given is not None and len(given) != wanted:
            raise BadExample(
                "image symbols do not match the images", f"{fields.name(record)}: {len(given)} {kind}, {wanted} places"
            )
    drawn = record.get("drawn", (0, 0))
    return Example(fields.name(record), turns, images, task, codes, grids=grids, drawn=drawn)


def _dialogue(request: str, answer: str) -> tuple[Turn, Turn]:
    return Turn("user", request), Turn("assistant", answer)


def _with_image(prompt: str) -> str:
    return prompt if IMAGE in prompt else IMAGE + prompt


def _draw(prompts: Prompts, rng: np.random.Generator) -> str:
    return prompts[int(rng.integers(len(prompts)))]
