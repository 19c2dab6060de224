"""The `unitok` command: reads its arguments, calls one function, shows what it gave."""

import os
import sys
from collections.abc import Sequence

from unitok_jax.cli.arguments import parse
from unitok_jax.errors import Preempted, UserError
from unitok_jax.parallel.cpu_flags import set_cpu_flags

# What a shell learns from the exit code; anything else is a fault of ours and keeps its traceback.
DONE, FAILED, MISTAKEN, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130
# The extras that bring what fsspec says is missing when a path lies in a bucket.
BUCKETS = {"gcsfs": "gcs", "s3fs": "s3"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments after ``unitok``; by default the process's own.

    Returns:
        The exit code: 0 done, 1 the system refused (disk, permissions), 2 a mistake told in one line,
        75 saved and stopped because the machine is taken away (start it again), 130 interrupted.
    """
    set_cpu_flags()
    try:
        command, args = parse(sys.argv[1:] if argv is None else argv)
        command(args)
        sys.stdout.flush()
    except UserError as error:
        return _told(error, MISTAKEN)
    except Preempted as notice:
        return _told(notice, PREEMPTED)
    except BrokenPipeError:  # whoever read us, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _told(error, FAILED)
    except ImportError as error:
        client = next((name for name in BUCKETS if name in str(error)), None)
        if client is None:
            raise
        return _told(f"a bucket needs {client}: pip install 'unitok-jax[{BUCKETS[client]}]'", MISTAKEN)
    except KeyboardInterrupt:
        return _told("interrupted", INTERRUPTED)
    return DONE


def _told(error: object, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
