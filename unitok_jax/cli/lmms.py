"""Our models behind lmms-eval, which has the questions, the prompts and the scores of POPE, MME, SEED, GQA, MMMU, ...

    pip install 'unitok-jax[lmms]'
    python -m lmms_eval --model unitok_jax --model_args workdir=runs/mine,provenance=made_by.json --tasks pope,mme \
        --batch_size 16 --output_path results

lmms-eval (0.7) finds `manifest` by the entry point ``lmms_eval.models`` and imports this file; nothing else does.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lmms_eval.api.model import lmms
from PIL import Image

from unitok_jax.cli.evaluate import run_of
from unitok_jax.conversion.loading import load_run, using
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.errors import UserError
from unitok_jax.evaluation import files
from unitok_jax.evaluation.provenance import provenance as made_by
from unitok_jax.inference.pipeline import words_of
from unitok_jax.sampling.settings import Decoding, Sampling

MARKER = "<image>"  # stands for a picture in lmms-eval's questions


def manifest() -> Any:
    """What lmms-eval registers: the name ``unitok_jax``, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="unitok_jax", simple_class_path=f"{__name__}.UnitokJax", aliases=("unitok",))


class UnitokJax(lmms):
    """A run or an import, as lmms-eval asks it.

    Args:
        workdir: see `conversion.loading.load_run`; `mesh` too.
        batch_size: questions answered at once.
        provenance: a file that gets what a reader must know to get the same answers: hashes, versions, device.
        device, max_batch_size: lmms-eval's, without effect here: JAX knows its devices, and batches have one size.
    """

    is_simple = True

    def __init__(
        self,
        workdir: str,
        mesh: str | None = None,
        batch_size: int | str = 1,
        provenance: str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        self.device = "cpu"  # where lmms-eval counts the requests of its processes
        self._pipeline, self._config = load_run(workdir, mesh)
        self._pipeline.settings = dataclasses.replace(self._pipeline.settings, batch_size=int(batch_size))
        if provenance:
            told = made_by(self._pipeline, run_of(workdir, self._config), split="lmms-eval's", resolution=None, seed=0)
            files.write_json(provenance, told)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers each request, whose ``args`` are (question, how to decode, its pictures, document, task, split).

        Raises:
            UserError: for anything but pictures beside the words, or a decode by beams.
        """
        by_decoding: dict[Decoding, list[int]] = {}
        for number, request in enumerate(requests):
            by_decoding.setdefault(self._decoding(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        with using(self._pipeline, self._config):
            for decoding, members in by_decoding.items():
                examples = [self._example(requests[number]) for number in members]
                for number, answer in zip(members, self._pipeline.answer(examples, decoding), strict=True):
                    texts[number] = _cut(words_of(answer.text), requests[number].args[1].get("until") or ())
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: no task named above asks for likelihoods."""
        raise UserError("lmms-eval asks for likelihoods; the model answers in words alone (tasks of generate_until)")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there: no task named above has rounds."""
        raise UserError(
            "lmms-eval asks in several rounds; the model answers single questions (tasks of generate_until)"
        )

    def _decoding(self, how: Mapping[str, Any]) -> Decoding:
        read = self._pipeline.settings.read
        if (how.get("num_beams") or 1) != 1:
            raise UserError(f"lmms-eval asks for {how['num_beams']} beams; --gen_kwargs num_beams=1")
        warm = how.get("do_sample", True) and (how.get("temperature") or 0)
        text = Sampling(temperature=float(warm), top_p=float(how.get("top_p") or 1) if warm else 1.0)
        return dataclasses.replace(read, text=text, max_steps=int(how.get("max_new_tokens") or read.max_steps))

    def _example(self, request: Any) -> Example:
        question, _, pictures_of, document, task, split = request.args
        images = [_picture(each, task) for each in pictures_of(self.task_dict[task][split][document])]
        asked = self._pipeline.settings.prompt("question").replace("{question}", _placed(question, len(images)))
        text = asked if IMAGE in asked else IMAGE * len(images) + asked
        return Example(f"{task} {document}", (Turn("user", text),), tuple(images), Task.UNDERSTANDING)


def _placed(question: str, images: int) -> str:
    """The question with symbols where its markers stand, if there is one a picture; else without any."""
    question = question.replace(IMAGE, "")
    return question.replace(MARKER, IMAGE if question.count(MARKER) == images else "")


def _picture(given: Any, task: str) -> np.ndarray:
    if not isinstance(given, Image.Image):
        raise UserError(f"{task}: gives a {type(given).__name__} beside the words; the model looks at pictures alone")
    return np.asarray(given.convert("RGB"))


def _cut(text: str, until: str | Sequence[str]) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text.strip()
