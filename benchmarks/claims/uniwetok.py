"""UniWeTok's claims: SigLu under distillation, and the Generative-Aware Prior for generation."""

from etils import epath

from benchmarks.claims.claim import Claim, Figure, Figures
from benchmarks.claims.runs import HELD_OUT, Runs, held_out_row, read
from unitok_jax.evaluation.classes import classes

TOWER, TOKENIZER, CLASSES = 300, 300, 300  # steps
SAMPLES = ("--per-class", "30", "--steps", "20", "--guidance", "2", "--batch", "30")


def tokenizer(runs: Runs, words: str = "") -> tuple[str, str]:
    """The teacher, and a tokenizer that some words of the recipe leave something out of."""
    tower = runs.train("tower", "tower.py", TOWER)
    recipe = f"uniwetok_tokenizer.py:{words}" if words else "uniwetok_tokenizer.py"
    at_the_end = {"eval_every": runs.capped(TOKENIZER)}
    return tower, runs.train(words or "whole", recipe, TOKENIZER, init_from__vit=tower, **at_the_end)


def siglu(runs: Runs) -> Figures:
    """Reconstruction and semantics with and without SigLu."""
    found = {}
    for arm, words in {"without SigLu": "no_siglu", "with SigLu": ""}.items():
        tower, run = tokenizer(runs, words)
        out = runs.folder / f"{words or 'whole'}-semantics.json"
        sides = ("--tokenizer", run, "--teacher", tower, "--out", str(out))
        runs.once(f"{words or 'whole'}-semantics", "benchmarks.claims.semantics", *sides)
        found[arm] = {
            "PSNR (dB)": runs.evaluate(run, "reconstruction", "--source", *HELD_OUT)["psnr"],
            "zero-shot": read(out)["zero_shot_top1"],
            "disagreement with the teacher": held_out_row(run)["loss/distill_post"],
        }
    return found


def prior(runs: Runs) -> Figures:
    """Class-conditional generation on the codes of a tokenizer trained with and without the prior."""
    found = {}
    for arm, words in {"without the prior": "no_prior", "with the prior": ""}.items():
        run, name = tokenizer(runs, words)[1], words or "whole"
        generator = runs.train(f"{name}-c2i", "uniwetok_c2i.py", CLASSES, init_from__vae=run)
        drawn = f"{name}-classes"
        words_of = ("--workdir", generator, "--out", str(runs.folder / drawn), "--seed", str(runs.seed * 10_000))
        runs.once(drawn, "unitok_jax.cli.sample_classes", *words_of, *SAMPLES)
        found[arm] = {
            "drawn right": classes(epath.Path(runs.folder), drawn)["class_correct"],
            "PSNR (dB)": runs.evaluate(run, "reconstruction", "--source", *HELD_OUT)["psnr"],
        }
    return found


CLAIMS = (
    Claim(
        key="uniwetok-siglu",
        system="uniwetok",
        title="UniWeTok: SigLu under distillation",
        says="SigLu bounds the encoder's output and stabilises semantic distillation behind the quantizer.",
        where="arXiv 2602.14178, abstract and section 3.2",
        base="without SigLu",
        better="with SigLu",
        figures=(
            Figure("PSNR (dB)", digits=2),
            Figure("zero-shot", chance=0.1),
            Figure("disagreement with the teacher", up=False, chance=1.0),
        ),
        setting=f"One teacher a seed, {TOWER} steps; from it, {TOKENIZER} steps of `uniwetok_tokenizer.py` with "
        "distillation before and behind the quantizer and with the prior; `:no_siglu` leaves the encoder's output as "
        "it is. Zero-shot is the digit named right among ten by what the head pools from the codes and the teacher's "
        "text side; the disagreement is 1 - cosine of the same and the teacher's embedding, on average.",
        measure=siglu,
    ),
    Claim(
        key="uniwetok-prior",
        system="uniwetok",
        title="UniWeTok: the Generative-Aware Prior",
        says="A small network that learns to predict the codes, its gradient reaching the encoder, makes them easier "
        "to generate.",
        where="arXiv 2602.14178, section 3.1 and Table 5",
        base="without the prior",
        better="with the prior",
        figures=(Figure("drawn right", chance=0.1), Figure("PSNR (dB)", digits=2)),
        setting=f"Tokenizers of {TOKENIZER} steps from one teacher a seed, `uniwetok_tokenizer.py` and `:no_prior`; on "
        f"the codes of each, {CLASSES} steps of `uniwetok_c2i.py`, the same for both. Drawn right: of 300 digits "
        "drawn by class, 30 of each, the share in which the judge, which has seen real scans alone, sees the digit "
        "asked for.",
        measure=prior,
    ),
)
