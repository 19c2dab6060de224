"""The one exception that means "the user can mend this", and the one that means "start me again"."""

import contextlib
from collections.abc import Generator
from os import PathLike


class UserError(Exception):
    """Bad input, told in one line.

    The text names the file, key or field, says what was expected and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


class Preempted(Exception):
    """The machine is taken away (SIGTERM); the run has been saved, and the same command goes on with it.

    The command line exits with a code of its own, so that whoever supervises the run starts it again.
    """


@contextlib.contextmanager
def writing(path: str | PathLike) -> Generator[None]:
    """Around what writes under `path`: a full disk or a read-only folder becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(
            f"{error.filename or path}: cannot write ({reason}); free or mend it, then run the same command again"
        ) from error
