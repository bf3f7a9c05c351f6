"""``eqmol examine MODEL [structures.xyz]``: whether a potential can be trusted."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqmol.cli.options import Parser, exit_code, file_path, one_file, set_up_process
from eqmol.errors import InputError
from eqmol.files import expand_paths

if TYPE_CHECKING:
    from eqmol.trust.labels import Frame

#: Frames that are read at most.
MOST = 1000


def main(argv: Sequence[str], program: str = "eqmol examine") -> int:
    """Run the command; return the exit code: 0, 1 if a check fails, 2 after bad input, 130 after Ctrl-C."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Check whether a potential can be trusted: symmetries, forces and stress as slopes of the energy, smoothness, "
        "extensivity, conservation of energy, dimers, and errors against labels where the structures have them. Writes report.html "
        "and report.json.",
        epilog="Exit code 0: no check failed; 1: one did; 2: bad input.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add(
        "structures",
        nargs="*",
        metavar="FILE",
        help="structures that the model is for, best with labels (default: made)",
    )
    add(
        "-o",
        "--output",
        type=file_path,
        default=".",
        metavar="DIR",
        help="folder of the report (default: the current one)",
    )
    add("--card", action="store_true", help="also write card.md, a model card of one page")
    add(
        "--time",
        type=_time,
        default=10.0,
        metavar="PS",
        help="picoseconds of dynamics at constant energy; 0: none (default: 10)",
    )
    return parser


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in picoseconds")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from eqmol.trust.examine import examination
    from eqmol.trust.report import shown

    report = examination(arguments.model, _frames(arguments.structures), arguments.time)
    written = report.write(arguments.output, arguments.card)
    console = Console()
    table = Table(title=f"examination of {arguments.model}")
    for name in ("", "check", "found", "allowed", "unit"):
        table.add_column(name, justify="right" if name in ("found", "allowed") else "left")
    for line in report.lines:
        table.add_row(line.status, line.name, shown(line.value), shown(line.limit), line.unit)
    console.print(table, markup=False)
    for name, value in report.facts.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
    for line in report.lines:
        if line.status != "pass":
            words = f" ({line.words})" if line.words else ""
            console.print(
                f"{line.status}: {line.name}{words}: {line.reason}", soft_wrap=True, highlight=False, markup=False
            )
    console.print(f"report: {', '.join(map(str, written))}", soft_wrap=True, highlight=False, markup=False)
    return 0 if report.passed else 1


def _frames(files: Sequence[str]) -> "list[Frame] | None":
    from itertools import islice

    from eqmol.data.xyz.reader import read_frames
    from eqmol.trust.labels import Frame

    if not files:
        return None
    found = [Frame(*frame) for path in expand_paths(files, "FILE") for frame in islice(read_frames(path), MOST)]
    if not found:
        raise InputError(f"{files[0]} has no structures")
    return found[:MOST]
