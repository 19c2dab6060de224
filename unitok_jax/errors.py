"""The one exception that means "the user can mend this"."""

import contextlib
from collections.abc import Iterator
from os import PathLike


class UserError(Exception):
    """Bad input, told in one line.

    The text names the file, key or field, says what was expected and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


@contextlib.contextmanager
def writing(path: str | PathLike) -> Iterator[None]:
    """Around what writes under `path`: a full disk or a read-only folder becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(
            f"{error.filename or path}: cannot write ({reason}); free or mend it, then run the same command again"
        ) from error
