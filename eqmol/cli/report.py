"""``python -m eqmol.analysis report degree=4 parity=so3``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from eqmol.analysis import report
from eqmol.analysis.cost import NEIGHBORS
from eqmol.analysis.plot import time_against_degree
from eqmol.analysis.powers import chirality, containments
from eqmol.analysis.spaces import Space
from eqmol.cli.options import Option, choice, choices, describe_options, exit_code, flag, integer, path, read_options
from eqmol.errors import InputError
from eqmol.ops.spec import Spec

OPTIONS = {
    "degree": Option(integer(1, 8), 4, "highest degree of features, filter and result; powers to 4 (default: 4)"),
    "parity": Option(choice("o3", "so3"), "o3", "o3: mirror images alike; so3: all paths (default: o3)"),
    "family": Option(choices("coupled", "gaunt"), ("coupled", "gaunt"), "coupled, gaunt or both (default)"),
    "operation": Option(
        choices("convolution", "product", "power"),
        ("convolution", "product", "power"),
        "one or several of convolution,product,power (default: all)",
    ),
    "order": Option(integer(2, 4), 3, "highest order of the powers (default: 3)"),
    "channels": Option(integer(1, 1024), 64, "number of channels for the cost (default: 64)"),
    "cost": Option(flag, True, "false: leave the cost out"),
    "out": Option(path, "outputs/products", "folder for CSV files and the plot (default: outputs/products)"),
}
USAGE = f"""usage: python -m eqmol.analysis report name=value ...

Measure what every algorithm of every tensor product can express, and what it costs on this machine. Options:
{describe_options(OPTIONS)}"""
WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 if an operation is wrong, 2 after bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    return exit_code(lambda: _run(arguments), interrupted="interrupted")


def _run(arguments: list[str]) -> int:
    if arguments[:1] != ["report"]:
        given = repr(arguments[0]) if arguments else "nothing"
        raise InputError(f"the command is report, not {given}: python -m eqmol.analysis report degree=4 parity=so3")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _report(read_options(arguments[1:], OPTIONS))
    finally:
        torch.set_num_threads(threads)


def _report(options: Mapping[str, Any]) -> int:
    folder = Path(options["out"])
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    specs = [
        _spec(options, operation, family, options["degree"])
        for operation in options["operation"]
        for family in options["family"]
    ]
    measured = [found for spec in specs for found in report.measure_spaces(spec)]
    spaces, rows = [space for space, _ in measured], [report.space_row(*found) for found in measured]
    _print(
        console,
        "Expressivity per channel",
        report.space_table(rows),
        "maps: dimension of the space of equivariant maps that the weights span; layered: with a linear layer per\n"
        "degree before and after (Xie et al. 2025, arXiv:2506.13523); of all: dimension of all maps of this parity;\n"
        "outside: largest part of a map that the coupled family lacks; check: error against Clebsch-Gordan paths",
    )
    for line in report.missed_lines(spaces):
        console.print(line, highlight=False)
    console.print()
    _print_interactions(console, spaces)
    report.write_csv([row for space in spaces for row in report.interaction_rows(space)], folder / "interactions.csv")
    if "power" in options["operation"]:
        _report_powers(console, options, folder)
    if options["cost"]:
        rows = _report_cost(console, options, rows, folder)
    report.write_csv(rows, folder / "products.csv")
    if options["cost"]:
        time_against_degree(folder / "degrees.csv", folder / "products.csv", folder / "time_against_degree.png")
    console.print(
        f"CSV files{' and the plot' if options['cost'] else ''} are in {folder}", soft_wrap=True, highlight=False
    )
    wrong = [
        f"{row.operation}, {row.family} by {row.algorithm} ({row.error:.0e})"
        for row in rows
        if not row.equals_reference
    ]
    if wrong:
        print(f"error: not equal to the reference: {'; '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _spec(options: Mapping[str, Any], operation: Any, family: Any, degree: int) -> Spec:
    return report.make_spec(operation, family, options["parity"], degree, options["order"])


def _print_interactions(console: Console, spaces: Sequence[Space]) -> None:
    """One table for all algorithms and families of an operation that let the same degrees meet."""
    groups: dict[str, list[Space]] = {}
    for space in spaces:
        groups.setdefault(f"{space.spec.operation} {space.interactions()}", []).append(space)
    for group in groups.values():
        operation = group[0].spec.operation
        what = "that a factor reaches" if operation == "power" else "of degree l1 with l2"
        _print(
            console,
            f"Interactability of the {operation}: degrees out {what}",
            report.interaction_table(group[0]),
            report.names_of(group),
        )


def _print(console: Console, title: str, table: Table, note: str = "") -> None:
    console.print(f"[bold]{title}[/bold]", highlight=False)
    console.print(table)
    if note:
        console.print(f"{note}\n", style="dim", highlight=False, soft_wrap=True)


def _report_powers(console: Console, options: Mapping[str, Any], folder: Path) -> None:
    degree = min(options["degree"], report.POWER_DEGREE)
    found = containments(degree, options["parity"], options["order"])
    report.write_csv(found, folder / "powers.csv")
    title = "Power: dimension of the gaunt family's maps, and of MACE's symmetric contraction, which contains them"
    _print(console, title, report.power_table(found))
    shares = chirality(degree, options["order"])
    _print(console, "Chirality under so3: share that changes sign in the mirror", report.chirality_table(shares))


def _report_cost(
    console: Console, options: Mapping[str, Any], rows: Sequence[report.Row], folder: Path
) -> list[report.Row]:
    timings, complete = [], []
    for row in rows:
        specs = dict.fromkeys(_spec(options, row.operation, row.family, d) for d in range(1, options["degree"] + 1))
        cost, curve = report.measure_costs(list(specs), row.algorithm, options["channels"])
        timings += curve
        complete.append(report.with_cost(row, cost, curve, options["order"]))
    _print(
        console,
        f"Cost of forward and backward per edge (convolution, {NEIGHBORS} per node) or node: {options['channels']} channels, "
        "float32, one thread",
        report.cost_table(complete),
        "exponent: slope of time against degree + 1, log-log; theory: asymptotic, sources in products.csv",
    )
    report.write_csv(timings, folder / "degrees.csv")
    return complete


if __name__ == "__main__":
    raise SystemExit(main())
