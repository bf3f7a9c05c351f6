"""``backend=auto``: the fastest algorithm for each operation of a model, found by measurement.

Every distinct operation is run with the inputs that it gets in the first batch, as it is used: forward, with forces, or with the
second derivatives of training. A choice that convolutions may make differently is judged by the sum of their times and of the
geometries that they need together: those with equal keys share one. On large batches algorithms that are four times slower
than the best on a small excerpt are left out before anything large is run.
"""

import itertools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eqmol.errors import InputError
from eqmol.models.predictor import Predictor
from eqmol.ops import kernels
from eqmol.ops.contract import TensorProduct
from eqmol.ops.registry import ALGORITHMS, RESERVED, can_run, candidates
from eqmol.tuning import cache
from eqmol.tuning.cache import Times
from eqmol.tuning.excerpt import EDGES, excerpt
from eqmol.tuning.measure import Mode, Problem, interleaved, tensors
from eqmol.tuning.operations import Calls, alternative, apply, operations, record

if TYPE_CHECKING:
    from rich.table import Table

SECONDS = 4.0  #: of measuring, all operations together, after the first run of each algorithm
RULED_OUT = 4.0  #: times the best on the excerpt


@dataclass(frozen=True)
class Tuning:
    """What was measured and chosen.

    Attributes:
        choices: operation -> backend.
        costs: operation -> backend -> cost.
        described: operation -> what it computes.
        families: of all operations of the model.
        mode: for what it was measured.
        measured: whether anything was measured now, rather than remembered.
    """

    choices: dict[str, str]
    costs: Mapping[str, Mapping[str, Times]]
    described: dict[str, str]
    families: frozenset[str]
    mode: Mode
    measured: bool

    def table(self) -> "Table":
        """One row per operation: milliseconds of each algorithm, and of its geometry, and the choice; what was not tried below."""
        # most predictions measure nothing
        from rich import box
        from rich.table import Table

        what = {"energy": "energies", "forces": "energies and forces", "training": "a training step"}[self.mode]
        origin = "measured" if self.measured else "remembered"
        table = Table(title=f"backend=auto for {what}: {origin} times in ms (+ geometry)", title_justify="left")
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
        table.caption, table.caption_justify = " ".join(self._notes()), "left"
        table.add_column("operation", overflow="fold")
        table.add_column("computes", no_wrap=True)
        backends = list(dict.fromkeys(backend for costs in self.costs.values() for backend in costs))
        for backend in backends:
            table.add_column(backend, justify="right", no_wrap=True)
        table.add_column("choice", no_wrap=True)
        for name, costs in self.costs.items():
            cells = [_milliseconds(costs.get(backend)) for backend in backends]
            table.add_row(name.removeprefix("backbone."), self.described[name], *cells, self.choices[name])
        return table

    def _notes(self) -> list[str]:
        """Why algorithms are not in the table, or have no times."""
        notes = []
        for family in sorted(self.families):
            others = [name for name in ALGORITHMS if not can_run(name, family)]
            if others:
                notes.append(
                    f"Not tried: {', '.join(others)}, which do not compute the {family} family (see model.family)."
                )
        if any(math.isinf(cost.operation) for costs in self.costs.values() for cost in costs.values()):
            notes.append("–: four times slower than another on a small part of the batch, or impossible.")
        return notes


def _milliseconds(cost: Times | None) -> str:
    if cost is None:
        return ""
    if math.isinf(cost.operation):
        return "–"
    shared = f"\n+ {1e3 * cost.geometry:.3g}" if cost.geometry else ""
    return f"{1e3 * cost.operation:.3g}{shared}"


def tune(model: Predictor, graph: Any, mode: Mode) -> Tuning:
    """Choose algorithms on a batch and put them into the model; its weights, mode and gradients are left alone.

    Args:
        model: on its device.
        graph: a batch of typical size with at least one edge, on the same device. The choice stays for later batches, also
            where they are much smaller or larger.
        mode: what the model will be used for.
    """
    found = {name: op for name, op in operations(model).items() if len(candidates(op.spec)) > 1}
    records = record(model, graph)
    device = next(model.parameters()).device
    compiled = any(kernels.apply(operation, device, model.dtype) for operation in found.values())
    prefix = f"{cache.hardware(device)}; {model.dtype}; {mode}" + ("; compiled" if compiled else "")
    problems = {name: f"{prefix}; {found[name].spec}; {_shapes(records[name])}" for name in found}
    known = cache.read()
    missing: dict[str, str] = {}  # problem -> one operation that poses it
    for name, problem in problems.items():
        if known.get(problem, {}).keys() != set(candidates(found[name].spec)):
            missing.setdefault(problem, name)
    if missing:
        hopeful = _hopeful(model, graph, {name: found[name] for name in missing.values()}, mode)
        for problem, name in missing.items():
            seconds = SECONDS / len(missing)
            costs = _measure(model, found[name], records[name], mode, hopeful[name], seconds)
            ruled_out = {b: Times(math.inf, 0.0, "") for b in candidates(found[name].spec) if b not in costs}
            known[problem] = costs | ruled_out
        # algorithms of the user's may change under their names: they are measured by every process
        cache.write({p: {b: cost for b, cost in costs.items() if b in RESERVED} for p, costs in known.items()})
    tuning = Tuning(
        choices=decide(problems, known),
        costs={name: known[problem] for name, problem in problems.items()},
        described={name: _describe(operation) for name, operation in found.items()},
        families=frozenset(operation.spec.family for operation in operations(model).values()),
        mode=mode,
        measured=bool(missing),
    )
    apply(model, tuning.choices)
    return tuning


def decide(problems: Mapping[str, str], costs: Mapping[str, Mapping[str, Times]]) -> dict[str, str]:
    """The backends with the lowest total time.

    Args:
        problems: operation -> its problem; operations with the same problem get the same backend.
        costs: problem -> backend -> cost.

    Returns:
        Operation -> backend.
    """
    counts = {problem: list(problems.values()).count(problem) for problem in problems.values()}
    best = {p: min(costs[p], key=lambda b, p=p: costs[p][b].operation) for p in counts}  # type: ignore[misc]
    sharing = [problem for problem in counts if any(cost.geometry for cost in costs[problem].values())]

    def total(backends: tuple[str, ...]) -> float:
        chosen = [(problem, costs[problem][backend]) for problem, backend in zip(sharing, backends, strict=True)]
        geometries: dict[str, float] = {}
        for _, cost in chosen:
            geometries[cost.key] = min(cost.geometry, geometries.get(cost.key, math.inf))
        return sum(counts[problem] * cost.operation for problem, cost in chosen) + sum(geometries.values())

    together = min(itertools.product(*(costs[problem] for problem in sharing)), key=total)
    best |= dict(zip(sharing, together, strict=True))
    return {name: best[problem] for name, problem in problems.items()}


def _hopeful(
    model: Predictor, graph: Any, posed: Mapping[str, TensorProduct], mode: Mode
) -> dict[str, tuple[str, ...]]:
    """Operation -> the backends that are worth a run on the whole batch."""
    every = {name: candidates(operation.spec) for name, operation in posed.items()}
    if graph.num_edges <= 2 * EDGES:
        return every
    records = record(model, excerpt(graph))
    hopeful: dict[str, tuple[str, ...]] = {}
    for name, operation in posed.items():
        costs = _measure(model, operation, records[name], mode, every[name], seconds=0.0)
        sums = {backend: cost.operation + cost.geometry for backend, cost in costs.items()}
        hopeful[name] = tuple(b for b, seconds in sums.items() if seconds <= RULED_OUT * min(sums.values()))
    return hopeful


def _measure(
    model: Predictor, operation: TensorProduct, entry: Calls, mode: Mode, backends: tuple[str, ...], seconds: float
) -> dict[str, Times]:
    """Backend -> cost of an operation with the inputs of a record."""
    device = next(model.parameters()).device
    tried: dict[str, Problem] = {}
    for backend in backends:
        with suppress(InputError):  # a power of high degree has too many couplings for cg
            tried[backend] = Problem(alternative(operation, backend, model), entry, mode)
    times = interleaved({backend: problem.run for backend, problem in tried.items()}, device, seconds)
    geometries = {b: problem.run_geometry for b, problem in tried.items() if problem.inner is not None}
    shared = interleaved(geometries, device, seconds / 4) if geometries else {}
    keys = {backend: problem.geometry_key for backend, problem in tried.items()}
    return {b: Times(times[b], shared.get(b, 0.0), keys[b]) for b in tried}


def _shapes(entry: Calls) -> str:
    """Shapes of all inputs, numbers of atoms and edges rounded up to powers of two."""

    def rounded(tensor: Tensor) -> str:
        first, *others = tensor.shape or (1,)
        return f"{[1 << max(first - 1, 0).bit_length(), *others]}{'*' if tensor.requires_grad else ''}"

    return "; ".join(" ".join([method, *map(rounded, tensors((args, kwargs)))]) for method, args, kwargs in entry.calls)


def _describe(operation: TensorProduct) -> str:
    """In a few words, e.g. "1 ⊗ 3 → 3", by degree."""
    spec = operation.spec
    factors = {"power": f"{spec.degree_in}^{spec.order}"}.get(
        spec.operation, f"{spec.degree_in} ⊗ {spec.degree_filter}"
    )
    return f"{factors} → {spec.degree_out}"
