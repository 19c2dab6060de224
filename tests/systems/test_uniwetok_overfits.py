"""Every trainer of UniWeTok learns a handful of real digits by heart, through the real train step."""

import numpy as np
import pytest

from unitok_jax.data import digits, packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.training.config import read_config
from unitok_jax.training.setup import prepare

pytestmark = pytest.mark.slow

SIDE, COUNT = 16, 4
VAE = dict(channels=32, multipliers=(1, 1, 2), res_blocks=1, z_channels=16, bit_groups=2, attn_blocks=1, heads=2)
TOWER = dict(width=16, ffn=16, layers=1, heads=2, image_size=SIDE, patch_size=8)
MLP = dict(kind="mlp", width=32, depth=1, modulations=1)
BLOCKS = dict(kind="transformer", width=64, depth=1, modulations=1, head_dim=32)
SCANS = [next(i for i in range(1797) if digits.digit(i) == digit) for digit in range(COUNT)]
COLOURS = digits.COLOUR_NAMES[:COUNT]


def pictures() -> list[np.ndarray]:
    """Real scans, in colours."""
    return [digits.render(scan, colour, SIDE) for scan, colour in zip(SCANS, COLOURS, strict=True)]


def learn(stage: str, parts: str, model: dict, options: dict, examples: list[Example], steps: int) -> list[dict]:
    """Trains the stage's `parts` from random on one batch, over and over; the metrics of every step."""
    config = dict(
        system="uniwetok", stage=stage, steps=steps, seed=0, stage_options=options,
        model={"image_size": SIDE, "vae": VAE, **model}, data=dict(batch_size=len(examples)),
        optimizer=dict(lr=3e-3, betas=(0.9, 0.99), clip=1.0), fresh=tuple(parts.split()),
    )  # fmt: skip
    setup = prepare(read_config(config)[0])
    rows = [setup.stage.layout(example, np.random.default_rng(0)) for example in examples]
    batch = packing.pack([[row] for row in rows], setup.stage.spec, codes=False)
    state, step, seen = setup.first_state(), setup.train_step(), []
    for _ in range(steps):
        state, metrics = step(state, batch)
        seen.append({name: float(np.asarray(m.compute())) for name, m in metrics.items() if name.startswith("loss/")})
    return seen


def fell(seen: list[dict], name: str) -> float:
    """The last five steps' mean as a share of the first two's."""
    return np.mean([row[name] for row in seen[-5:]]) / np.mean([row[name] for row in seen[:2]])


def test_the_tokenizer_rebuilds_them():
    prior = dict(width=32, layers=1, heads=2, channels=16, grid=(4, 4), classes=0, head=MLP)
    options = dict(
        perceptual=0.0, entropy=0.02, prior=dict(network=prior, weight=0.1),
        distill=dict(teacher=TOWER, pool=dict(width=16, heads=2), weight=0.1),
    )  # fmt: skip
    examples = [Example(str(i), (), (picture,)) for i, picture in enumerate(pictures())]
    seen = learn("tokenizer", "vae vit pools prior", {}, options, examples, steps=100)
    assert fell(seen, "loss/l1") < 0.35
    assert fell(seen, "loss/distill_post") < 0.5 and fell(seen, "loss/prior") < 0.9


def test_the_generator_learns_their_bits():
    generator = dict(
        width=64, layers=1, heads=2, channels=16, grid=(4, 4), classes=COUNT, class_tokens=2, parallel_num=4,
        order="patch", head={**BLOCKS, "repeat": 4},
    )  # fmt: skip
    options = dict(perturb=0.0, class_dropout=0.0, random_crops=0.0, flip=False)
    examples = [Example(str(i), (), (picture,), label=i) for i, picture in enumerate(pictures())]
    seen = learn("c2i", "vae generator", {"generator": generator}, options, examples, steps=120)
    assert fell(seen, "loss/velocity") < 0.4


def test_the_language_model_learns_words_and_pictures():
    lm = dict(vocab_size=2048, width=64, ffn=128, layers=1, heads=2, kv_heads=1, head_dim=32, qk_norm="rmsnorm")
    model = dict(lm=lm, flow={**BLOCKS, "squash": True, "repeat": 4}, parallel_num=4)
    options = dict(row_length=64, images=1, perturb=0.0, condition_dropout=0.0, text_weight=0.3)
    examples = []
    for number, (scan, colour, picture) in enumerate(zip(SCANS, COLOURS, pictures(), strict=True)):
        said = digits.caption(digits.digit(scan), colour)
        drawn = Turn("user", said), Turn("assistant", IMAGE)
        told = Turn("user", f"{IMAGE}what?"), Turn("assistant", said)
        turns, task = (drawn, Task.GENERATION) if number % 2 else (told, Task.UNDERSTANDING)
        examples.append(Example(str(number), turns, (picture,), task))
    seen = learn("lm", "lm projector flow vae", model, options, examples, steps=120)
    assert fell(seen, "loss/understanding") < 0.1
    assert fell(seen, "loss/picture") < 0.4
