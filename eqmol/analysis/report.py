"""The report: measured rows, as tables for people and as CSV for programs."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from eqmol.analysis.cost import Cost, fitted_exponent, measure_cost
from eqmol.analysis.powers import Containment
from eqmol.analysis.spaces import Samples, Space, all_maps, measure
from eqmol.files import replacing
from eqmol.ops.registry import candidates
from eqmol.ops.spec import Family, Operation, Parity, Spec

#: Powers of higher degrees have too many couplings for a report that takes a minute.
POWER_DEGREE = 4
_LUO = "Luo et al. 2024, arXiv:2401.10216"
_XIE = "Xie et al. 2025, arXiv:2506.13523"
#: (operation, algorithm) -> exponent of the degree in the asymptotic time, and where it comes from.
THEORY = {
    ("convolution", "cg"): (5, f"L³ paths of L² coefficients, {_XIE}"),
    ("convolution", "escn"): (3, "Passaro and Zitnick 2023, arXiv:2302.03655"),
    ("convolution", "gaunt"): (3, "L² points × L degrees of the filter"),
    ("convolution", "gaunt_fft"): (3, "rotations, series and FFTs of every order"),
    ("convolution", "grid"): (3, "L² points × L degrees of the filter"),
    ("product", "cg"): (5, f"L³ paths of L² coefficients, {_XIE}"),
    ("product", "gaunt"): (3, f"two steps from degree 6, {_XIE}"),
    ("product", "gaunt_fft"): (3, f"changes of basis, {_LUO}"),
    ("product", "grid"): (3, f"two steps from degree 6, {_XIE}"),
    ("power", "cg"): (2, "per order: monomials of L² components"),
    ("power", "gaunt"): (3, f"two steps from degree 8, {_XIE}"),
    ("power", "gaunt_fft"): (3, f"changes of basis, {_LUO}"),
    ("power", "grid"): (3, f"two steps from degree 8, {_XIE}"),
}


@dataclass(frozen=True)
class Row:
    """One algorithm for one operation; ``paths_*`` count paths, ``*_dimension`` maps, cost is per edge or node."""

    operation: str
    family: str
    algorithm: str
    parity: str
    degree: int
    weights: int
    dimension: int
    layered_dimension: int
    full_dimension: int
    paths_reached: int
    paths_missed: int
    paths_forbidden: int
    outside_coupled: float
    error: float
    equals_reference: bool
    operations: float | None = None
    bytes_moved: float | None = None
    bytes_peak: float | None = None
    microseconds: float | None = None
    exponent: float | None = None
    exponent_theory: int | None = None
    exponent_source: str | None = None


@dataclass(frozen=True)
class Timing:
    """Time of forward and backward per edge or node at one degree."""

    operation: str
    family: str
    algorithm: str
    degree: int
    microseconds: float


def make_spec(operation: Operation, family: Family, parity: Parity, degree: int, order: int) -> Spec:
    """The spec that the report measures at a degree: all degrees in, in the filter and out alike; a power returns up to 2."""
    if operation == "power":
        degree = min(degree, POWER_DEGREE)
        return Spec(operation, family, parity, degree, 0, min(degree, 2), order)
    return Spec(operation, family, parity, degree, degree, degree)


def measure_spaces(spec: Spec) -> Iterator[tuple[Space, float]]:
    """The space of every algorithm of a spec, and its part outside the coupled family's (0 for that itself)."""
    samples = Samples.draw(spec)
    coupled = measure(all_maps(spec, spec.parity), "cg", samples)
    for backend in candidates(spec):
        space = measure(spec, backend, samples)
        yield space, space.part_outside(coupled)


def space_row(space: Space, outside: float) -> Row:
    """What is known of an algorithm without its cost."""
    spec = space.spec
    return Row(
        spec.operation,
        spec.family,
        space.backend,
        spec.parity,
        spec.degree_in,
        spec.num_weights,
        space.expressivity,
        space.layered,
        space.full,
        int(space.reached.sum()),
        len(space.missed),
        len(space.forbidden),
        outside,
        max(space.error, space.outside),
        space.right,
    )


def measure_costs(specs: Sequence[Spec], backend: str, channels: int) -> tuple[Cost, list[Timing]]:
    """The cost at the last of several specs of rising degree, and the time at each."""
    costs = [measure_cost(spec, backend, channels) for spec in specs]
    timings = [
        Timing(spec.operation, spec.family, backend, spec.degree_in, 1e6 * cost.seconds)
        for spec, cost in zip(specs, costs, strict=True)
    ]
    return costs[-1], timings


def with_cost(row: Row, cost: Cost, timings: Sequence[Timing], order: int) -> Row:
    """The row, completed; ``order`` is that of a power."""
    slope = None
    theory, source = THEORY.get((row.operation, row.algorithm), (None, None))
    if theory is not None and (row.operation, row.algorithm) == ("power", "cg"):
        theory *= order
    if len(timings) > 1:
        slope = fitted_exponent([t.degree for t in timings], [t.microseconds for t in timings])
    known = {
        "operations": cost.operations,
        "bytes_moved": cost.moved,
        "bytes_peak": cost.peak,
        "microseconds": 1e6 * cost.seconds,
        "exponent": slope,
        "exponent_theory": theory,
        "exponent_source": source,
    }
    return Row(**{**asdict(row), **known})


# --- tables


def _table(columns: Iterable[str], words: int) -> Table:
    """A table whose first ``words`` columns are text."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < words else "right", no_wrap=True)
    return table


def space_table(rows: Sequence[Row]) -> Table:
    """Expressivity and correctness."""
    columns = ("weights", "maps", "layered", "of all", "paths", "missed", "outside", "check")
    table = _table(("operation", "family", "algorithm", *columns), 3)
    for r in rows:
        numbers = (r.weights, r.dimension, r.layered_dimension, r.full_dimension, r.paths_reached, r.paths_missed)
        check = f"{'ok' if r.equals_reference else 'NO'} {r.error:.0e}"
        cells = (r.operation, r.family, r.algorithm, *map(str, numbers), f"{r.outside_coupled:.0e}", check)
        table.add_row(*cells, style=None if r.equals_reference else "bold red")
    return table


def interaction_table(space: Space) -> Table:
    """Which degrees in give which degrees out."""
    spec, found = space.spec, space.interactions()
    if spec.operation == "power":
        table = _table(("factor", *map(str, range(spec.degree_in + 1))), 99)
        table.add_row("out", *(_join(found.get((l,), [])) for l in range(spec.degree_in + 1)))
        return table
    table = _table(("l1 \\ l2", *map(str, range(spec.degree_filter + 1))), 99)
    for l1 in range(spec.degree_in + 1):
        table.add_row(str(l1), *(_join(found.get((l1, l2), [])) for l2 in range(spec.degree_filter + 1)))
    return table


def _join(degrees: Sequence[int]) -> str:
    return " ".join(map(str, degrees)) or "-"


def power_table(found: Sequence[Containment]) -> Table:
    """The gaunt family's power in the coupled one."""
    table = _table(("order", "degree in", "degrees out", "coupled", "gaunt", "fewer by", "outside"), 0)
    for c in found:
        ratio = f"{c.coupled / c.gaunt:.1f}x" if c.gaunt else "-"
        numbers = (c.order, c.degree_in, f"0 to {c.degree_out}", c.coupled, c.gaunt, ratio, f"{c.outside:.0e}")
        table.add_row(*map(str, numbers))
    return table


def chirality_table(shares: Mapping[str, float]) -> Table:
    """What changes sign in the mirror."""
    table = _table(("made of differently mixed fields a, b, c", "share"), 1)
    for name, share in shares.items():
        table.add_row(name, f"{share:.2f}" if share > 1e-9 else f"{share:.0e}")
    return table


def cost_table(rows: Sequence[Row]) -> Table:
    """Cost beside theory."""
    columns = ("10³ operations", "KiB moved", "KiB peak", "µs", "exponent", "theory")
    table = _table(("operation", "family", "algorithm", *columns), 3)
    for r in rows:
        if r.operations is None or r.bytes_moved is None or r.bytes_peak is None:
            continue
        sizes = (f"{r.operations / 1e3:.0f}", f"{r.bytes_moved / 1024:.0f}", f"{r.bytes_peak / 1024:.0f}")
        slope = "-" if r.exponent is None else f"{r.exponent:.1f}"
        table.add_row(
            r.operation, r.family, r.algorithm, *sizes, f"{r.microseconds:.1f}", slope, str(r.exponent_theory or "-")
        )
    return table


def missed_lines(spaces: Sequence[Space]) -> Iterator[str]:
    """Sentences that name the paths that are missed, or reached against the parity."""
    groups: dict[tuple[str, str], list[Space]] = {}
    for space in spaces:
        for word, paths in (("misses", space.missed), ("has forbidden", space.forbidden)):
            if paths:
                names = ", ".join(_name(space.spec, path) for path in paths[:5])
                more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
                groups.setdefault((space.spec.operation, f"{word} {names}{more}"), []).append(space)
    for (operation, sentence), group in groups.items():
        yield f"{operation} of {names_of(group)} {sentence}"


def names_of(spaces: Sequence[Space]) -> str:
    """Families, each with its algorithms."""
    families: dict[str, list[str]] = {}
    for space in spaces:
        families.setdefault(space.spec.family, []).append(space.backend)
    return ", ".join(f"{family} ({', '.join(backends)})" for family, backends in families.items())


def _name(spec: Spec, path: tuple[Any, ...]) -> str:
    if spec.operation == "power":
        factors, l3, index = path
        return f"{'⊗'.join(map(str, factors))}→{l3}" + (f" (no. {index + 1})" if index else "")
    return f"{path[0]}⊗{path[1]}→{path[2]}"


# --- files


def write_csv(rows: Sequence[Any], path: Path) -> None:
    """Write dataclasses of one class, a line each."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


@dataclass(frozen=True)
class Interaction:
    """Degrees that meet; l2 is empty for the factors of a power."""

    operation: str
    family: str
    algorithm: str
    l1: int
    l2: int | None
    degrees_out: str


def interaction_rows(space: Space) -> Iterator[Interaction]:
    """The interactions of a space, for CSV."""
    for key, out in space.interactions().items():
        l2 = key[1] if len(key) > 1 else None
        yield Interaction(space.spec.operation, space.spec.family, space.backend, key[0], l2, _join(out))
