"""Errors that are meant for users."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that says what was received, what is wrong with it and what to do.
    Command-line programs print it without a traceback and exit with a non-zero code.
    """


class VerificationError(InputError):
    """An algorithm gives other results than the reference; the message has the numbers and the tolerance."""
