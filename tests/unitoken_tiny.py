"""A UniToken of a few thousand parameters for tests, its recipes' data, and a run of one."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from unitok_jax import cli

RECIPES = Path(__file__).parents[1] / "configs" / "unitoken"
MODEL = {
    "image_size": 16,
    "vqgan": dict(
        channels=8, multipliers=(1, 1, 1), res_blocks=1, z_channels=8, embed_dim=4, codebook_size=256, groups=2
    ),
    "vit": dict(width=16, ffn=32, layers=1, heads=2, image_size=16, patch_size=8),
    "lm": dict(vocab_size=704, width=16, ffn=32, layers=2, heads=2, kv_heads=1, head_dim=8, qk_norm="layernorm"),
}


def write_sets(folder: Path) -> None:
    """Every set of the mixtures with a few records, in the form that mixtures.py gives it."""
    mixtures = importlib.import_module("configs.unitoken.mixtures")
    rng = np.random.default_rng(0)
    for i, size in enumerate(((20, 40, 3), (50, 18, 3), (24, 24, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    for number, each in enumerate((*mixtures.STAGE1, *mixtures.STAGE2)):
        lines = [_record(each.form, (number + i) % 3, i) for i in range(3)]
        (folder / f"{each.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _record(form: str, picture: int, number: int) -> dict:
    record = {"image": f"{picture}.png"}
    if form == "pairs":
        return {**record, "caption": "a red seven"}
    question = "what is it?" if number else "<image>\nwhat colour is it?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a seven"}]
    return {**record, "conversations": turns}


def train(folder: Path, name: str, *words: str) -> tuple[Path, list[dict]]:
    """Trains a tiny recipe on files in `folder` through the command line: the workdir and the logged rows."""
    sys.path.insert(0, str(RECIPES.parents[1]))
    write_sets(folder)
    workdir = folder / "run"
    spec = f"{RECIPES / name}.py:{','.join(('tiny', f'data={folder}', *words))}"
    assert cli.main(["train", "--config", spec, "--workdir", str(workdir)]) == 0
    lines = [json.loads(line) for path in sorted(workdir.glob("metrics/*.jsonl")) for line in path.open()]
    return workdir, lines
