"""Pictures a second through tokenizers and towers, against the same modules in torch.

    python -m benchmarks.tokenizer
    python -m benchmarks.tokenizer --device gpu --dtype bfloat16 --preset released --largest

The VQGAN is `transformers`' ChameleonVQVAE (which reads only); the VQ-VAE its copy in Janus, which also writes; the
tower SiglipVisionModel. Each has the same weights on both sides, and what they give is compared before the clock runs.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import options as asked
from benchmarks.contest import fits_in_memory, largest, race
from benchmarks.decoders import same, torch_device
from benchmarks.report import Row, peak_memory, publish
from benchmarks.vision import PRESETS, Match, matches
from unitok_jax.training.flops import count_flops


def run(options: asked.Options) -> None:
    """A row a job."""
    torch, sizes = asked.load_torch(options), options.pick(PRESETS)
    rows = []
    for name, match in matches(torch, sizes, options).items():
        contestants = _contestants(torch, match, sizes.batch, options)
        times = race(contestants, options.rounds)
        flops = count_flops(match.ours.trace(match.params, match.given(sizes.batch)).jaxpr.jaxpr)
        more = {"GFLOP a picture": f"{flops / sizes.batch / 1e9:.2f}"} | peak_memory(torch, options)
        if asked.searches(options):
            more |= {f"largest {who}": _largest(torch, match, who, options) for who in contestants}
        rows.append(Row(name, sizes.batch, "pictures", times, flops, more))
    publish("tokenizer", f"Tokenizers and tower, {sizes.batch} pictures at once", options, rows)


def _contestants(torch: Any, match: Match, count: int, options: asked.Options) -> dict[str, Callable[[], np.ndarray]]:
    """Both sides on the same input, which lies on the device."""
    given = match.given(count)
    theirs, mine = _tensor(torch, given, options), jax.device_put(given)

    def run_theirs() -> np.ndarray:
        with torch.inference_mode():
            return match.theirs(theirs).float().cpu().numpy()

    def run_ours() -> np.ndarray:
        return np.asarray(match.ours(match.params, mine)).astype(np.float32)

    found, expected = run_ours(), run_theirs()
    if match.exact and options.dtype == "float32":
        if (found == expected).mean() < 0.99:
            raise RuntimeError(f"{(found != expected).mean():.1%} of the codes differ from torch's; nothing to compare")
    elif not match.exact:
        same(found, expected, options, "what the two give")
    return {"ours": run_ours, "torch": run_theirs}


def _largest(torch: Any, match: Match, who: str, options: asked.Options) -> int:
    """The most pictures at once that memory allows one side."""
    errors = (jax.errors.JaxRuntimeError, torch.OutOfMemoryError)

    def once(count: int) -> None:
        given = match.given(count)
        if who == "ours":
            jax.block_until_ready(match.ours(match.params, given))
            return
        with torch.inference_mode():
            match.theirs(_tensor(torch, given, options))
            torch.cuda.synchronize()

    return largest(lambda count: fits_in_memory(functools.partial(once, count), errors))


def _tensor(torch: Any, given: np.ndarray, options: asked.Options) -> Any:
    """Our input as torch's: codes as they are, pictures with their channels in front."""
    if given.dtype == np.int32:
        return torch.tensor(given, dtype=torch.long, device=torch_device(options))
    dtype = getattr(torch, options.dtype)
    return torch.tensor(np.moveaxis(given, -1, 1), dtype=dtype, device=torch_device(options))


def add(parser: Any) -> None:
    """Options of this benchmark."""
    parser.add_argument("--largest", action="store_true", help="also search the largest batch (GPU)")


main: Callable[..., int] = functools.partial(asked.main, doc=__doc__, run=run, add=add)

if __name__ == "__main__":
    sys.exit(main(None))
