"""UniToken's drawing loop against the released kind: two caches and two forwards a token, guided, top-k, forced ids."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from benchmarks import options as asked
from benchmarks.contest import race
from benchmarks.decoders import Dims, in_dtype, pair, torch_device, torch_logits
from benchmarks.report import Row, peak_memory, publish
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.inference.decode import decode
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import Decoding, Sampling
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.system import UniToken
from unitok_jax.systems.unitoken.vocabulary import TokenIds, Vocabulary

PROMPT = 24  # ids of the words
TOP_K, GUIDANCE = 2000, 3.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A decoder, and the side of the square of codes that it draws."""

    dims: Dims
    side: int

    @property
    def steps(self) -> int:
        """Ids of a picture: its size, rows that end in a newline, the end."""
        return 2 + self.side * (self.side + 1) + 1


PRESETS = {
    "tiny": Sizes(Dims(9216, 32, 48, 2, 4, 4, 8), 2),
    "cpu": Sizes(Dims(9216, 512, 1408, 4, 8, 8, 64), 16),
    "7b": Sizes(Dims(65536, 4096, 11008, 2, 32, 32, 128), 32),  # two layers of Chameleon-7B; 512 x 512 pixels
}


def run(options: asked.Options) -> None:
    """A row a batch size."""
    torch, sizes = asked.load_torch(options), options.pick(PRESETS)
    made = pair(torch, "chameleon", sizes.dims, options, unroll=sizes.dims.layers)
    params = {"lm": in_dtype(made.params, options)}
    model = made.torch.to(getattr(torch, options.dtype))
    ids = dataclasses.replace(TokenIds(), image_prefix=(16,), image=sizes.dims.vocab_size)
    vocabulary = Vocabulary(ids, sizes.dims.vocab_size, lambda text: [8900] * PROMPT, str)
    system = UniToken(UniTokenConfig(made.config, SiglipConfig(), VAEConfig()), vocabulary)
    drawing = Decoding(
        image=Sampling(top_k=TOP_K), guidance=GUIDANCE, max_steps=sizes.steps, grid=(sizes.side, sizes.side)
    )
    example = Example("prompt", (Turn("user", "a red seven"),), task=Task.GENERATION)
    prompt, bare = system.prompt(example), system.unconditional(example)
    rows = []
    for count in options.extra.batches:
        batch = jax.tree.map(jax.numpy.asarray, dict(prompt_batch([prompt] * count + [bare] * count)))
        keys = sample_keys(np.arange(count))

        def ours(batch: Any = batch, keys: Any = keys) -> np.ndarray:
            return np.asarray(decode(system, params, batch, keys, drawing).ids)

        theirs = functools.partial(
            torch_loop, torch, model, prompt.tokens, bare.tokens, count, ids, sizes, torch_device(options)
        )
        _check(ours(), theirs(), ids, sizes)
        times = race({"ours": ours, "torch": theirs}, options.rounds, warm_up=1)
        rows.append(Row(f"batch {count}", count * sizes.steps, "tokens", times, more=peak_memory(torch, options)))
    publish(
        "decode-unitoken",
        f"UniToken: a picture of {sizes.side} x {sizes.side} codes, guidance {GUIDANCE}",
        options,
        rows,
    )


def torch_loop(
    torch: Any, model: Any, prompt: Any, bare: Any, count: int, ids: TokenIds, sizes: Sizes, device: str
) -> np.ndarray:
    """The released kind of loop on equal prompts; ids [count, steps]."""
    from transformers import DynamicCache

    outside = torch.ones(sizes.dims.vocab_size, dtype=torch.bool, device=device)
    outside[ids.code_offset : ids.code_offset + ids.codes] = False
    with torch.inference_mode():
        fed = [torch.tensor(np.tile(x, (count, 1)), dtype=torch.long, device=device) for x in (prompt, bare)]
        caches, written = [DynamicCache(config=model.config) for _ in fed], []
        for step in range(sizes.steps):
            c, u = (
                torch_logits(model, x, past_key_values=cache, use_cache=True)
                for x, cache in zip(fed, caches, strict=True)
            )
            known = forced(step, ids, sizes.side)
            if known is not None:
                token = torch.full((count, 1), known, device=device)
            else:
                logits = (u + GUIDANCE * (c - u)).masked_fill(outside, -torch.inf)
                least = torch.topk(logits, TOP_K)[0][:, -1:]
                token = torch.multinomial(torch.softmax(logits.masked_fill(logits < least, -torch.inf), -1), 1)
            fed = [token, token]
            written.append(token)
        return torch.cat(written, 1).cpu().numpy()


def forced(step: int, ids: TokenIds, side: int) -> int | None:
    """The id that must come at a step of a picture, if it is not a code."""
    place = step - 2
    if place < 0:
        return ids.grid + side // 2
    if place == side * (side + 1):
        return ids.eoi
    return ids.newline if (place + 1) % (side + 1) == 0 else None


def _check(ours: np.ndarray, theirs: np.ndarray, ids: TokenIds, sizes: Sizes) -> None:
    """Both have drawn a picture of the same form."""
    for found in (ours, theirs):
        for step in range(sizes.steps):
            known, code = forced(step, ids, sizes.side), found[:, step] - ids.code_offset
            right = found[:, step] == known if known is not None else (code >= 0) & (code < ids.codes)
            if not right.all():
                raise RuntimeError(f"step {step}: {found[:, step]} is no part of a picture of {sizes.side}^2 codes")
