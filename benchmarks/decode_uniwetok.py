"""UniWeTok drawing one picture with 1, 4 and 16 tokens a step: what parallel tokens save."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options as asked
from benchmarks.contest import race
from benchmarks.decoders import in_dtype
from benchmarks.report import Row, publish
from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.inference.decode import decode
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import base

PARALLEL = (1, 4, 16)
TOKEN = 32  # pixels a side, of the default tokenizer
NOISE_STEPS, GUIDANCE = 20, 2.0
LM = {"vocab_size": 2048, "qk_norm": "rmsnorm", "rope_theta": 1e4, "norm_eps": 1e-6}
# image side in pixels (a token is 32 x 32 of them), LM, flow head
PRESETS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        128,
        dict(width=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8, unroll=2),
        dict(width=32, depth=2, modulations=1, head_dim=8),
    ),
    "cpu": (
        256,
        dict(width=512, ffn=1408, layers=4, heads=8, kv_heads=4, head_dim=64, unroll=4),
        dict(width=256, depth=2, modulations=1, head_dim=64),
    ),
    "8b": (  # two layers of Qwen3-8B, the released head
        512,
        dict(width=4096, ffn=12288, layers=2, heads=32, kv_heads=8, head_dim=128, unroll=2),
        dict(width=4096, depth=6, modulations=2, head_dim=128),
    ),
}


def run(options: asked.Options) -> None:
    """A row a number of tokens a step."""
    side, lm, flow = options.pick(PRESETS)
    count = options.extra.batches[0]
    tokens = (side // TOKEN) ** 2
    contestants = {parallel: _drawing(parallel, side, lm, flow, count, options) for parallel in PARALLEL}
    times = race(contestants, options.rounds, warm_up=1)
    rows = []
    for parallel, taken in times.items():
        more = {"steps": _steps(tokens, parallel), "P = 1 / this": f"{times[1].median / taken.median:.2f}"}
        rows.append(Row(f"P = {parallel}", count * tokens, "tokens", {"ours": taken}, more=more))
    title = f"UniWeTok: {tokens} tokens, {NOISE_STEPS} noise steps, guidance {GUIDANCE}, batch {count}"
    publish("decode-uniwetok", title, options, rows)


def _steps(tokens: int, parallel: int) -> int:
    return 2 + tokens // parallel  # two steps say the size


def _drawing(parallel: int, side: int, lm: dict, flow: dict, count: int, options: asked.Options) -> Any:
    model = dict(
        image_size=side,
        parallel_num=parallel,
        lm={**LM, **lm, "dtype": options.dtype},
        flow=dict(kind="transformer", squash=True, **flow),
    )
    system = base.build("uniwetok", model)
    params = jax.jit(lambda key: in_dtype(system.init(key, ("lm", "projector", "flow")), options))(jax.random.key(0))
    grid = (side // TOKEN, side // TOKEN)
    drawing = Decoding(
        guidance=GUIDANCE, grid=grid, noise_steps=NOISE_STEPS, max_steps=_steps(grid[0] * grid[1], parallel)
    )
    example = Example("prompt", (Turn("user", "a red seven"),), task=Task.GENERATION)
    prompt, bare = system.prompt(example), system.unconditional(example)
    batch = jax.tree.map(jnp.asarray, dict(prompt_batch([prompt] * count + [bare] * count)))
    keys = sample_keys(np.arange(count))

    def draw() -> None:
        ids = np.asarray(decode(system, params, batch, keys, drawing).ids)
        for one in ids:
            if not system.read(one)[1]:
                raise RuntimeError(f"P = {parallel}: no whole picture after {drawing.max_steps} steps")

    return draw
