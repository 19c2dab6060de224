"""Drawing a picture's tokens: our decode loop against a loop of cached forwards in torch.

    python -m benchmarks.decode                          UniToken: two cached forwards a token, as released
    python -m benchmarks.decode --system tar             Tar's autoregressive de-tokenizer, guidance 4
    python -m benchmarks.decode --system uniwetok        UniWeTok with 1, 4 and 16 tokens a step (ours alone)
    python -m benchmarks.decode --device gpu --dtype bfloat16 --preset 7b

Times hold everything from the prompt to the last token.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import options as asked

SYSTEMS = ("unitoken", "tar", "uniwetok")


def run(options: asked.Options) -> None:
    """The table of one system."""
    importlib.import_module(f"benchmarks.decode_{options.extra.system}").run(options)


def add(parser: Any) -> None:
    """Options of this benchmark."""
    parser.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0], help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="pictures at once (default: 1 8)")


main: Callable[..., int] = functools.partial(asked.main, doc=__doc__, run=run, add=add)

if __name__ == "__main__":
    sys.exit(main(None))
