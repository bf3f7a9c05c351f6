"""What a head must know about the labels of its training set: what atoms contribute at least, a mean, and two sizes.

Per target a plain dict: "kind" and "unit"; "e0", the contribution of each element; "mean"; "scale", the size of what the
network has to find, of sums over atoms for each √atom; and "spread", the same for a whole structure, by which errors in the
loss are divided. What is labelled NaN does not count.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.table import Table

from eqmol.data.options import wrong
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import LABELS
from eqmol.graph.targets import Target, check_beside_energies
from eqmol.units import BOHR

#: Of the labels; what is left of them and is smaller is rounding.
ROUNDING = 1e-10


def own_targets(settings: Mapping[str, Any], required: Sequence[str]) -> tuple[tuple[Target, ...], dict[str, str]]:
    """Return the targets that are trained on and the keys under which files have them: those that are required, and beside
    energies or forces all.

    Raises:
        InputError: a declaration that cannot be, or a target that is not declared.
    """
    if not isinstance(settings, Mapping):
        raise wrong("targets", settings, "declarations, as in {alpha: {kind: tensor, unit: a0³}}")
    found, keys = {}, {}
    for name, node in settings.items():
        key = node.get("key", name) if isinstance(node, Mapping) else name
        if not isinstance(key, str):
            raise InputError(f"data.targets.{name}.key={key!r} must be the name of a label in the files")
        rest = {k: v for k, v in node.items() if k != "key"} if isinstance(node, Mapping) else node
        found[str(name)], keys[str(name)] = Target.read(str(name), rest), key
    for name in required:
        if name not in LABELS and name not in found:
            raise InputError(
                f"the target {name} is not declared: add data.targets={{{name}: {{kind: ..., unit: ...}}}}; declared are "
                f"{', '.join(found) or 'none'}"
            )
    beside = found if learns_energies(required, found) else {}
    check_beside_energies(beside)
    return tuple(found[name] for name in dict.fromkeys((*required, *beside)) if name in found), keys


def learns_energies(required: Sequence[str], targets: Collection[str]) -> bool:
    """Return whether energies or their derivatives are trained on; a target may have the name of one."""
    return any(name in LABELS and name not in targets for name in required)


def measure_target(
    target: Target,
    values: NDArray[np.float64],
    counts: NDArray[np.float64],
    elements: Sequence[int],
    references: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """Measure one target.

    An extensive property is Σ e0 plus a remainder with the root mean square ``scale`` for each √atom; e0 are the references,
    corrected by linear least squares per element. Tensors are the same with a third of the trace; atomic values have one e0 per
    element. Others are ``mean`` plus a remainder of the size ``scale``.

    Args:
        target: kind and unit.
        values: [S, ...] of the structures, of an extent without that of the nuclei; of atomic values one row per atom.
        counts: [S, elements] atoms of each structure; of atomic values one-hot rows.
        elements: atomic numbers, ascending.
        references: known contributions of elements.

    Raises:
        InputError: no structure has a label.
    """
    labelled = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not labelled.any():
        raise InputError(f"no structure of the training set has the target {target.name}")
    values, counts = values[labelled], counts[labelled]
    e0, mean, sizes = np.zeros(len(elements)), 0.0, np.ones(len(values))
    if target.kind in ("extensive", "extent", "tensor", "atomic"):
        scalars = np.trace(values, axis1=1, axis2=2) / 3 if target.kind == "tensor" else values
        e0 = np.array([(references or {}).get(z, 0.0) for z in elements])
        correction, *_ = np.linalg.lstsq(counts, scalars - counts @ e0, rcond=None)
        e0 = e0 + correction
        contributions = counts @ e0
        remainder = values - (contributions[:, None, None] * np.eye(3) if target.kind == "tensor" else contributions)
        sizes = counts.sum(axis=1)
    elif target.kind == "intensive":
        mean = float(values.mean())
        remainder = values - mean
    else:
        remainder = values
        sizes = counts.sum(axis=1) if target.kind == "vector" else sizes
    per_atom = remainder / np.sqrt(sizes).reshape(-1, *[1] * (remainder.ndim - 1))
    return target.plain() | {
        "e0": [float(value) for value in e0],
        "mean": mean,
        "scale": _size(per_atom, values),
        "spread": _size(remainder, values),
    }


def _size(remainder: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Root mean square of what is left of labels, 1 where that is rounding."""
    size = float(np.sqrt(np.mean(remainder**2)))
    return size if size > ROUNDING * float(np.abs(values).max(initial=1.0)) else 1.0


def measure_targets(
    targets: Sequence[Target], graphs: Sequence[AtomGraph], elements: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Measure targets that graphs carry; elements are those of the graphs, ascending."""
    if not targets:
        return {}
    sizes = [graph.num_nodes for graph in graphs]
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    numbers = np.concatenate([graph.atomic_numbers.numpy() for graph in graphs])
    measured = {}
    for target in targets:
        values = target_values(target, graphs)
        if target.kind == "extent":
            positions = np.concatenate([graph.pos.numpy() for graph in graphs])
            values = values - nuclear_extent(numbers, positions, offsets)
        cuts = np.arange(len(numbers) + 1) if target.is_atomic else offsets
        measured[target.name] = measure_target(target, values, composition(numbers, cuts, elements), elements)
    return measured


def target_values(target: Target, graphs: Sequence[AtomGraph]) -> NDArray[np.float64]:
    """Labels of all graphs [S, ...], of atomic targets of all atoms."""
    return np.concatenate([graph[target.field].numpy() for graph in graphs])


def composition(numbers: NDArray[np.int64], offsets: NDArray[np.int64], elements: Sequence[int]) -> NDArray[np.float64]:
    """How many atoms of each element every structure has, [S, elements].

    Args:
        numbers: [N] atomic numbers of all structures.
        offsets: [S + 1], first atom of each structure.
        elements: atomic numbers, ascending.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.zeros((len(offsets) - 1, len(elements)))
    np.add.at(counts, (owner, np.searchsorted(elements, numbers)), 1)
    return counts


def nuclear_extent(
    numbers: NDArray[np.int64], positions: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Second moment Σ Z |r - R|² (a0²) of the nuclear charges about their centre R, [S]; arguments as of :func:`composition`."""
    first, charge = offsets[:-1], numbers.astype(np.float64)
    total = np.add.reduceat(charge, first)
    centre = np.add.reduceat(charge[:, None] * positions, first) / total[:, None]
    arms = positions - np.repeat(centre, np.diff(offsets), axis=0)
    return np.add.reduceat(charge * np.square(arms).sum(axis=1), first) / BOHR**2


def target_tables(
    targets: Sequence[Target],
    values: Mapping[str, NDArray[np.float64]],
    measured: Mapping[str, Mapping[str, Any]],
    elements: Sequence[int],
) -> list[Table]:
    """What a person should see of targets before training: their labels, and contributions of elements where there are any.

    Args:
        targets: what is trained on.
        values: labels [S, ...] by name.
        measured: see :func:`measure_targets`.
        elements: those of the contributions.
    """
    names = ("target", "kind", "unit", "labelled", "mean", "standard deviation", "least", "largest")
    shown = _table("targets of the training set", names, words=3)
    for target in targets:
        known = values[target.name]
        known = known[np.isfinite(known.reshape(len(known), -1)).all(axis=1)]
        row = (known.mean(), known.std(), known.min(), known.max())
        labelled = f"{len(known)}/{len(values[target.name])}"
        shown.add_row(target.name, target.kind, target.unit, labelled, *(f"{value:.4f}" for value in row))
    sums = [name for name, entry in measured.items() if any(entry["e0"])]
    if not sums:
        return [shown]
    columns = ("element", *(f"{name} / {measured[name]['unit']}" for name in sums))
    references = _table("atom references", columns, words=1)
    for row_number, number in enumerate(elements):
        references.add_row(chemical_symbols[number], *(f"{measured[name]['e0'][row_number]:.4f}" for name in sums))
    return [shown, references]


def _table(title: str, columns: Sequence[str], words: int) -> Table:
    """A table whose first columns are text and whose others are numbers."""
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < words else "right")
    return table
