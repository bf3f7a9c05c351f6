"""``eqmol report --degree 4 --parity so3``: what tensor products can express, and what they cost on this machine."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eqmol.cli.options import Parser, exit_code, file_path, integer

FAMILIES = ("coupled", "gaunt")
OPERATIONS = ("convolution", "product", "power")
WIDTH = 110  #: columns of tables in a pipe or a file


def main(argv: Sequence[str], program: str = "eqmol report") -> int:
    """Run the command; return the exit code: 0, 1 if an operation is wrong, 2 after bad input, 130 after Ctrl-C."""
    parser = Parser(
        prog=program,
        description="Measure what every algorithm of every tensor product can express, and what it costs on this machine.",
    )
    add = parser.add_argument
    add(
        "--degree",
        type=integer(1, 8),
        default=4,
        metavar="L",
        help="of features, filter, result; powers to 4 (default: 4)",
    )
    add("--parity", choices=("o3", "so3"), default="o3", help="o3: mirror images alike; so3: all paths (default: o3)")
    add("--family", nargs="+", choices=FAMILIES, default=FAMILIES, help="one or both (default: both)")
    add("--operation", nargs="+", choices=OPERATIONS, default=OPERATIONS, help="one or several (default: all)")
    add("--order", type=integer(2, 4), default=3, metavar="N", help="highest order of the powers (default: 3)")
    add("--channels", type=integer(1, 1024), default=64, metavar="N", help="for the cost (default: 64)")
    add("--no-cost", action="store_true", help="leave time and memory out")
    add(
        "-o",
        "--output",
        type=file_path,
        default=Path("outputs/products"),
        metavar="DIR",
        help="folder for CSV files and the plot (default: outputs/products)",
    )
    return exit_code(lambda: _run(parser.parse_args(argv)), interrupted="interrupted")


def _run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console

    from eqmol.analysis.show import Options, show

    torch.set_num_threads(1)  # as the tables say
    options = Options(
        arguments.degree,
        arguments.parity,
        tuple(dict.fromkeys(arguments.family)),
        tuple(dict.fromkeys(arguments.operation)),
        arguments.order,
        arguments.channels,
        not arguments.no_cost,
    )
    wrong = show(options, arguments.output, Console(width=None if sys.stdout.isatty() else WIDTH))
    if wrong:
        print(f"error: not equal to the reference: {'; '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0
