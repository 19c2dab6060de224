"""DualToken's claim: one codebook for pixels and semantics against two at two depths."""

from benchmarks.claims.claim import Claim, Figure, Figures
from benchmarks.claims.runs import HELD_OUT, Runs, write
from unitok_jax.data import digits

DEPTH = 8  # codes a position of one codebook: as many as the two have together
ARMS = {"one codebook": ("single,text", {"model__sem__depth": DEPTH}), "two codebooks": ("text", {})}


def measure(runs: Runs) -> Figures:
    """The same tower, its text side and 300 steps of the tokenizer in both arms."""
    tower = runs.train("tower", "dualtoken_tower.py", 300)
    classes = runs.folder / "classes.json"
    write(classes, {"classnames": digits.NUMBERS, "templates": [f"a handwritten {c} {{c}}" for c in digits.COLOURS]})
    found = {}
    for arm, (words, more) in ARMS.items():
        starts = {"init_from__vit": tower, "init_from__text": tower, "init_from__teacher": f"{tower}#vit"}
        tokenizer = runs.train(arm.replace(" ", "-"), f"dualtoken_tokenizer.py:{words}", 300, **starts, **more)
        written = runs.evaluate(tokenizer, "reconstruction", "--source", *HELD_OUT)
        named = runs.evaluate(tokenizer, "zeroshot", "--source", *HELD_OUT, "--classes", str(classes))
        found[arm] = {"PSNR (dB)": written["psnr"], "SSIM": written["ssim"], "zero-shot": named["zero_shot_top1"]}
    return found


CLAIMS = (
    Claim(
        key="dualtoken-codebooks",
        system="dualtoken",
        title="DualToken: two codebooks against one",
        says="Semantic and pixel losses on one codebook conflict, and both reconstruction and semantics get worse; "
        "separate codebooks at a deep and a shallow layer keep both.",
        where="arXiv 2503.14324, abstract and Table 3",
        base="one codebook",
        better="two codebooks",
        figures=(Figure("PSNR (dB)", digits=2), Figure("SSIM"), Figure("zero-shot", chance=0.1)),
        setting="One tower a seed, 300 steps; from it, 300 steps of the tokenizer with the same losses. One codebook: "
        "`dualtoken_tokenizer.py:single`, 8 codes a position at the deep tap for both losses. Two: 4 pixel codes at a "
        "shallow tap and 4 semantic ones at the deep tap, so that both arms have as many codes. Zero-shot is the digit "
        "named right among ten through the semantic codes, by the tower's own text side.",
        measure=measure,
    ),
)
