"""``--part K/N`` of the commands that share structures out among processes or the jobs of an array."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqmol.inference.parts import Part


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--part",
        type=_part,
        metavar="K/N",
        help="do each N-th structure from the K-th on; whichever of the N parts, in processes or jobs of an array, ends last "
        "writes OUT, in the order of the input. A part that is there already is not done again",
    )


def _part(text: str) -> tuple[int, int]:
    """The type of an argument like 3/10."""
    index, _, total = text.partition("/")
    if not (index.isdecimal() and total.isdecimal() and 1 <= int(index) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; give one like 3/10, counted from 1")
    return int(index), int(total)


def open_part(arguments: argparse.Namespace, inputs: Sequence[Path], options: Mapping[str, Any]) -> "Part | None":
    """The part that the arguments name, None without one; see :class:`eqmol.inference.parts.Part` for ``options``."""
    if arguments.part is None:
        return None
    from eqmol.inference.parts import Part

    index, total = arguments.part
    options = {"dtype": arguments.dtype, "head": arguments.head, **options}
    return Part(arguments.output, index, total, arguments.model, inputs, options)


def joined(part: "Part") -> str:
    """Join the parts if all are there, and say what became of them."""
    number = part.join()
    if number is None:
        return f"{part.missing()} of {part.total} parts are missing"
    return f"{number} structures -> {part.output}"
