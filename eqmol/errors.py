"""Errors that are meant for users."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that says what was received, what is wrong with it and what to do.
    Command-line programs print it without a traceback and exit with a non-zero code.
    """


class NoRoomError(InputError):
    """The disk is full; the file that was to be written is as it was before."""


class VerificationError(InputError):
    """An algorithm gives other results than the reference; the message has the numbers and the tolerance."""


def at(source: str) -> str:
    """The beginning of a message about what comes from a source, "" where that is not known."""
    return f"{source}: " if source else ""


#: What is done about what is doubtful.
MODES = ("stop", "warn")


def check_mode(mode: object, name: str) -> str:
    """Return what an option says that is ``stop`` or ``warn``.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"{name}={mode!r} is unknown; choose stop or warn")
    return mode


def printable(text: str, most: int = 200) -> str:
    """Text of a file, fit for a message: one line of at most so many characters, without control characters."""
    short = text[: 2 * most]
    line = " ".join("".join(c if c.isprintable() else " " for c in short).split())
    return line if len(line) <= most and len(short) == len(text) else f"{line[:most]}..."


def reason_of(error: BaseException) -> str:
    """What a library raised, as part of a sentence."""
    return f"{type(error).__name__} {printable(str(error))}".strip()


def short(value: object) -> str:
    """A value as a few words of a message."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "an integer of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
