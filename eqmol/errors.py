"""The one error that is meant for users."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that says what was received, what is wrong with it and what to do.
    Command-line programs print it without a traceback and exit with a non-zero code.
    """
