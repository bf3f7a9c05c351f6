"""What :mod:`eqmol.analysis.report` measured, shown on the screen and written as CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from rich.console import Console
from rich.table import Table

from eqmol.analysis import report
from eqmol.analysis.cost import NEIGHBORS
from eqmol.analysis.plot import time_against_degree
from eqmol.analysis.powers import chirality, containments
from eqmol.analysis.spaces import Space
from eqmol.errors import InputError
from eqmol.ops.spec import Family, Operation, Parity, Spec


class Options(NamedTuple):
    """What is measured.

    Attributes:
        degree: highest degree of features, filter and result; powers to 4.
        parity: of all specs.
        families, operations: one or several.
        order: highest order of powers.
        channels: for the cost.
        cost: measure time and memory, too.
    """

    degree: int
    parity: Parity
    families: Sequence[Family]
    operations: Sequence[Operation]
    order: int
    channels: int
    cost: bool


def show(options: Options, folder: Path, console: Console) -> list[str]:
    """Measure, print and write CSV files and a plot into a folder.

    Returns:
        The algorithms that differ from the reference; none if all is right.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder}: {error.strerror}; give another") from None
    specs = [
        _spec(options, operation, family, options.degree)
        for operation in options.operations
        for family in options.families
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
    if "power" in options.operations:
        _report_powers(console, options, folder)
    if options.cost:
        rows = _report_cost(console, options, rows, folder)
    report.write_csv(rows, folder / "products.csv")
    if options.cost:
        time_against_degree(folder / "degrees.csv", folder / "products.csv", folder / "time_against_degree.png")
    console.print(
        f"CSV files{' and the plot' if options.cost else ''} are in {folder}", soft_wrap=True, highlight=False
    )
    return [
        f"{row.operation}, {row.family} by {row.algorithm} ({row.error:.0e})"
        for row in rows
        if not row.equals_reference
    ]


def _spec(options: Options, operation: str, family: str, degree: int) -> Spec:
    return report.make_spec(cast(Operation, operation), cast(Family, family), options.parity, degree, options.order)


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


def _report_powers(console: Console, options: Options, folder: Path) -> None:
    degree = min(options.degree, report.POWER_DEGREE)
    found = containments(degree, options.parity, options.order)
    report.write_csv(found, folder / "powers.csv")
    title = "Power: dimension of the gaunt family's maps, and of MACE's symmetric contraction, which contains them"
    _print(console, title, report.power_table(found))
    shares = chirality(degree, options.order)
    _print(console, "Chirality under so3: share that changes sign in the mirror", report.chirality_table(shares))


def _report_cost(console: Console, options: Options, rows: Sequence[report.Row], folder: Path) -> list[report.Row]:
    timings, complete = [], []
    for row in rows:
        specs = dict.fromkeys(_spec(options, row.operation, row.family, d) for d in range(1, options.degree + 1))
        cost, curve = report.measure_costs(list(specs), row.algorithm, options.channels)
        timings += curve
        complete.append(report.with_cost(row, cost, curve, options.order))
    _print(
        console,
        f"Cost of forward and backward per edge (convolution, {NEIGHBORS} per node) or node: {options.channels} channels, "
        "float32, one thread",
        report.cost_table(complete),
        "exponent: slope of time against degree + 1, log-log; theory: asymptotic, sources in products.csv;\n"
        "EQMOL_KERNELS=off measures the algorithms, which otherwise run the same compiled terms where they can",
    )
    report.write_csv(timings, folder / "degrees.csv")
    return complete
