"""Raw records to examples, one function a task.

A record's fields, whatever its source:

- ``image``, ``images``, ``target``: pictures (arrays, encoded bytes or paths relative to ``folder``); ``target`` is
  what an edit or a variation must give.
- ``codes``: precomputed codes, one array or a list of them, in the order of the pictures above.
- ``caption``: a string or a list of which one is drawn; ``instruction``: what an edit must do.
- ``prompt``, ``text``: plain text, with or without a request before it.
- ``questions``, ``answers``: lists of the same length.
- ``conversations``: ``[{"from": "human" | "gpt", "value": text}]``, with ``<image>`` where a picture stands;
  for each picture without any such mark the entry's first prompt (``<|image|>``, or with a space behind it) is put
  in front of the first turn.
- ``label``: a class; ``id``: the record's name in logs.

Prompts are templates of which one is drawn; ``{caption}``, ``{instruction}`` and ``{question}`` are filled in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unitok_jax.data import pictures
from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn

Record = Mapping[str, Any]
Prompts = Sequence[str]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def caption(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image -> text."""
    turns = _dialogue(_with_image(_draw(prompts, rng)), _caption(record, rng))
    return _example(record, turns, Task.UNDERSTANDING, ("image",))


def generate(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Text -> image."""
    prompt = _draw(prompts, rng).replace("{caption}", _caption(record, rng))
    return _example(record, _dialogue(prompt, IMAGE), Task.GENERATION, ("image",))


def edit(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image and text -> image."""
    prompt = _draw(prompts, rng).replace("{instruction}", _text(record, "instruction"))
    return _example(record, _dialogue(_with_image(prompt), IMAGE), Task.GENERATION, ("image", "target"))


def variation(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Image -> image: ``target`` where the record has one, else the picture itself."""
    target = "target" if "target" in record else "image"
    return _example(record, _dialogue(_with_image(_draw(prompts, rng)), IMAGE), Task.GENERATION, ("image", target))


def text(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Plain text; after a ``prompt`` where the record has one."""
    answer = Turn("assistant", _text(record, "text"))
    turns = (Turn("user", _text(record, "prompt")), answer) if "prompt" in record else (answer,)
    return _example(record, turns, Task.TEXT, ())


def conversation(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """Several turns, with any number of pictures on either side."""
    messages = record.get("conversations")
    if not isinstance(messages, (list, tuple)) or not messages:
        raise BadExample("missing text", f"{_name(record)}: no conversations")
    turns = tuple(_turn(record, message) for message in messages)
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
    questions, answers = record.get("questions") or (), record.get("answers") or ()
    if not questions or len(questions) != len(answers):
        raise BadExample("missing text", f"{_name(record)}: {len(questions)} questions, {len(answers)} answers")
    pick = int(rng.integers(len(questions)))
    prompt = _draw(prompts, rng).replace("{question}", str(questions[pick]))
    return _example(record, _dialogue(_with_image(prompt), str(answers[pick])), Task.UNDERSTANDING, ("image",))


def image(record: Record, prompts: Prompts, rng: np.random.Generator) -> Example:
    """A picture alone, with its class where the record has one: what tokenizers train on."""
    return _example(record, (), Task.NONE, ("image",))


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
        BadExample: for an empty text, a missing or broken picture, or pictures that do not match the text.
    """
    make, own = TASKS[task]
    return make(record, prompts or own, rng)


def _example(record: Record, turns: tuple[Turn, ...], task: Task, fields: Sequence[str]) -> Example:
    codes = _codes(record, fields)
    images = () if codes is not None and not any(f in record for f in fields) else _images(record, fields)
    wanted = sum(turn.text.count(IMAGE) for turn in turns) if turns else 1
    for kind, given in (("pictures", images or codes or ()), ("codes", codes)):
        if given is not None and len(given) != wanted:
            raise BadExample(
                "image symbols do not match the images", f"{_name(record)}: {len(given)} {kind}, {wanted} places"
            )
    label = record.get("label")
    return Example(_name(record), turns, images, task, codes, None if label is None else int(label))


def _images(record: Record, fields: Sequence[str]) -> tuple[np.ndarray, ...]:
    values: list[Any] = []
    for field in fields:
        value = record.get(field)
        if value is None:
            raise BadExample("image missing", f"{_name(record)}: no {field}")
        values.extend(value if isinstance(value, (list, tuple)) else (value,))
    try:
        return tuple(pictures.decode(value, record.get("folder")) for value in values)
    except BadExample as error:
        raise BadExample(error.reason, f"{_name(record)}: {error.detail}") from None


def _codes(record: Record, fields: Sequence[str]) -> tuple[np.ndarray, ...] | None:
    """The codes of the pictures in `fields`: a record that has a target has its codes last."""
    codes = record.get("codes")
    if codes is None or not fields:
        return None
    codes = tuple(codes) if isinstance(codes, (list, tuple)) else (codes,)
    return codes[:1] * len(fields) if set(fields) == {"image"} else codes


def _caption(record: Record, rng: np.random.Generator) -> str:
    captions = record.get("caption")
    if isinstance(captions, (list, tuple)) and captions:
        captions = captions[int(rng.integers(len(captions)))]
    return _text({**record, "caption": captions}, "caption")


def _text(record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadExample("missing text", f"{_name(record)}: {'empty' if field in record else 'no'} {field}")
    return value.strip()


def _turn(record: Record, message: Any) -> Turn:
    role = ROLES.get(message.get("from", message.get("role"))) if isinstance(message, Mapping) else None
    value = message.get("value", message.get("content")) if role else None
    if not isinstance(value, str) or not value.strip():
        raise BadExample("missing text", f"{_name(record)}: a turn without a known speaker or without text")
    return Turn(role, value.replace("<image>", IMAGE).strip())


def _dialogue(request: str, answer: str) -> tuple[Turn, Turn]:
    return Turn("user", request), Turn("assistant", answer)


def _with_image(prompt: str) -> str:
    return prompt if IMAGE in prompt else IMAGE + prompt


def _draw(prompts: Prompts, rng: np.random.Generator) -> str:
    return prompts[int(rng.integers(len(prompts)))]


def _name(record: Record) -> str:
    return str(record.get("id", "?"))
