"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input, told in one line.

    The text names the file, key or field, says what was expected and what to do.
    The command line prints it without a traceback and exits with code 2.
    """
