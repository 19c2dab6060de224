"""Tar's claims: a codebook of words against a drawn one, and one model for both tasks against one for each."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.claims.claim import Claim, Figure, Figures
from benchmarks.claims.runs import Runs, write_lines
from unitok_jax.data import digits
from unitok_jax.evaluation.drawing import pairs

STEPS = 300  # of every run but the language models
LM_STEPS = 400  # of a joint one; half of them of one that learns one task
WIDTH = {"model__ta_tok__decoder__channels": 128}  # of a code: the language model's, as in the paper's 1.5B
CODEBOOKS = {"random codebook": "random", "text-aligned codebook": "aligned"}
READING, DRAWING = ("caption_exact", "answer_digit"), ("generation_correct", "generation_correct_unseen_pairs")
CHANCE = 1 / 80


def prepared(runs: Runs, name: str) -> dict[str, str]:
    """The tokenizer with the codebook `name`, its de-tokenizer, and the language model of words that Tar's begins with.

    The random codebook is the words of a language model that learnt nothing: all else is the same.
    """
    tower = runs.train("tower", "tar_tower.py", STEPS)
    vq = runs.train("vq", "tar_vq.py", STEPS)
    words = runs.folder / "words.jsonl"
    write_lines(words, records())
    models = {"aligned": runs.train("words-aligned", f"tar_words.py:{words}", STEPS)}
    if name == "random":
        models[name] = runs.train("words-random", f"tar_words.py:{words}", 1, optimizer__lr=0.0)
    exported = str(Path(models[name]) / "exported")
    runs.once(f"{name}-words", "unitok_jax.cli", "export", "--workdir", models[name], "--out", exported)
    starts = {"init_from__vit": tower, "init_from__ta_tok": exported}
    ta_tok = runs.train(f"{name}-tokenizer", "tar_tokenizer.py:words", STEPS, **starts)
    ar = runs.train(f"{name}-ar", "tar_ar.py", STEPS, init_from__ta_tok=ta_tok, init_from__vq=vq, **WIDTH)
    return {"ta_tok": ta_tok, "ar": ar, "vq": ar, "lm": models["aligned"]}


def learnt(runs: Runs, codebook: str, task: str = "") -> Mapping[str, float]:
    """What a language model reads and draws right, on the codes of one codebook."""
    parts = {f"init_from__{part}": run for part, run in prepared(runs, codebook).items()}
    words, steps = (f"words,{task}", LM_STEPS // 2) if task else ("words", LM_STEPS)
    run = runs.train(f"{codebook}-{task or 'joint'}", f"tar_lm.py:{words}", steps, **parts)
    return runs.evaluate(run, "digits")


def records() -> list[dict[str, str]]:
    """What the language model of words learns: what the captions of the training pictures say, without a picture."""
    found = []
    for digit, colour in pairs(seen=True):
        said = digits.caption(digit, colour)
        found += [{"prompt": f"{said} {digits.DIGIT_QUESTION}", "text": digits.NUMBERS[digit]}]
        found += [{"prompt": f"{said} {digits.COLOUR_QUESTION}", "text": colour}]
        found += [{"prompt": f"{colour} {digits.NUMBERS[digit]}", "text": said}]
    return found


def codebooks(runs: Runs) -> Figures:
    """Reading, drawing and the use of the codes with either codebook."""
    wanted = (*READING, *DRAWING, "codebook_perplexity")
    return {arm: _chosen(learnt(runs, name), wanted) for arm, name in CODEBOOKS.items()}


def tasks(runs: Runs) -> Figures:
    """Reading and drawing of one model for both, and of one for each with as many examples of its task."""
    reads, draws = learnt(runs, "aligned", "reading"), learnt(runs, "aligned", "drawing")
    together = learnt(runs, "aligned")
    apart = _chosen(reads, READING) | _chosen(draws, DRAWING)
    return {"separate models": apart, "one joint model": _chosen(together, (*READING, *DRAWING))}


def _chosen(figures: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: figures[name] for name in names}


FIGURES = tuple(
    Figure(name, chance=0.1 if name == "answer_digit" else CHANCE, digits=3) for name in (*READING, *DRAWING)
)
SHARED = (
    f"{STEPS} steps each of teacher, VQ-VAE, tokenizer, AR de-tokenizer and a language model of words alone, from "
    "which Tar's begins with the effective codebook as its rows of codes. "
)
CLAIMS = (
    Claim(
        key="tar-codebook",
        system="tar",
        title="Tar: a text-aligned codebook",
        says="A codebook that begins with a language model's words, only a linear map of which learns, serves reading "
        "and drawing better than a randomly initialised one.",
        where="arXiv 2506.18898, section 3.1 and the ablations of section 4",
        base="random codebook",
        better="text-aligned codebook",
        figures=(*FIGURES, Figure("codebook_perplexity", digits=1)),
        setting=SHARED
        + f"The language model learns {LM_STEPS} steps of `tar_lm.py:words`. Text-aligned: 256 of the 376 text rows of "
        "the language model of words, which has seen the few words of captions and questions alone, so that most rows "
        "are as drawn. Random: rows of one that has learnt nothing. The perplexity is that of the codes of the "
        "held-out digits at the scale that is used least evenly.",
        measure=codebooks,
    ),
    Claim(
        key="tar-joint",
        system="tar",
        title="Tar: joint against separate training",
        says="With one text-aligned representation, reading and drawing learnt together help each other.",
        where="arXiv 2506.18898, section 4, joint against separate training",
        base="separate models",
        better="one joint model",
        figures=FIGURES,
        setting=SHARED
        + f"Joint: {LM_STEPS} steps, half of the examples each; separate: {LM_STEPS // 2} steps of `tar_lm.py:words,"
        "reading` and as many of `:words,drawing`, so that every task has as many examples in both arms.",
        measure=tasks,
    ),
)
