"""Whether energies, forces and lengths have the units that they are taken for, from pairs of similar frames.

Between two similar frames of the same atoms the energy changes by the work of the forces (trapezoidal rule along the straight
line), and the forces change by the displacements times the stiffness of bonds:

    E_j - E_i ≈ -½ (F_i + F_j) · u,    |F_j - F_i| ≈ k |u|.

The first tells the ratio of the units of energies and forces, and the sign of the forces; the second the unit of forces alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.units import Bohr, Hartree, kcal, kJ, mol
from numpy.typing import NDArray

from eqmol.data.checks.finding import Finding, Sets
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES

#: Frames that are compared, of which so many follow each other, as those of a trajectory are alike.
MOST, RUN = 240, 12
#: Frames that each is compared with; pairs that are enough; Å, of the root mean square displacement.
NEAREST, ENOUGH, MOVED = 3, 16, 0.5
#: Atoms from which on a stiffness is one of several bonds.
SEVERAL = 4
#: Energies and work belong together if their correlation is at least the first, and have nothing to do with each other below
#: the second.
CORRELATED, UNRELATED = 0.7, 0.2
#: What energies change by over the work of forces. The work over long ways is too large by up to a third, as bonds become
#: stiffer when they are short.
BETWEEN = (0.45, 1.5)
#: eV/Å²; stiffness of molecules and of crystals, in the median of all pairs. Bonds have 5 to 60, crystals of noble gases 0.1.
MOLECULES, CRYSTALS = (0.5, 130.0), (0.05, 300.0)
NOBLE = (2, 10, 18, 36, 54, 86)
#: What energies change by over the work of forces, and the unit of the forces in eV/Å, by what is wrong.
MISTAKES = {
    "energies in Hartree": (1 / Hartree, 1.0),
    "energies in kcal/mol": (mol / kcal, 1.0),
    "energies in kJ/mol": (mol / kJ, 1.0),
    "energies in meV": (1e3, 1.0),
    "forces in Hartree/Bohr": (Hartree / Bohr, Hartree / Bohr),
    "forces in kcal/mol/Å": (kcal / mol, kcal / mol),
    "forces in kJ/mol/Å": (kJ / mol, kJ / mol),
    "forces in meV/Å": (1e-3, 1e-3),
    "forces in eV/Bohr, or energies in Hartree and forces in Hartree/Bohr": (1 / Bohr, 1 / Bohr),
    "coordinates in Bohr": (Bohr, 1.0),
}
#: Mistakes whose factors differ by less are both named.
ALIKE = 1.4


class Pairs(NamedTuple):
    """P pairs of similar frames.

    Attributes:
        change: [P] eV, what the energy changes by; NaN where it is not known.
        work: [P] eV, what the forces say that it changes by.
        moved: [P] Å, root mean square displacement of the atoms.
        stiffness: [P] eV/Å², root mean square change of the forces over that.
        atoms: [P] their number.
    """

    change: NDArray[np.float64]
    work: NDArray[np.float64]
    moved: NDArray[np.float64]
    stiffness: NDArray[np.float64]
    atoms: NDArray[np.float64]


def units(sets: Sets) -> list[Finding]:
    """Findings about units and signs of energies and forces."""
    found = []
    for name, graphs in sets.items():
        bonded = [graph for graph in graphs if not np.isin(graph.atomic_numbers.numpy(), NOBLE).any()]
        pairs = find_pairs(bonded)
        known = np.isfinite(pairs.change)
        if (words := _work(pairs.change[known], pairs.work[known], pairs)) or (words := _stiffness(pairs, bonded)):
            found.append(Finding("units", f"'{name}': {words}", True, len(graphs)))
    return found


def _work(change: NDArray[np.float64], work: NDArray[np.float64], pairs: Pairs) -> str:
    """What is wrong with energies beside forces, "" if nothing is."""
    if len(change) < ENOUGH or np.ptp(change) == 0 or np.ptp(work) == 0:
        return ""
    correlation = float(np.corrcoef(change, work)[0, 1])
    within = f"within {len(change)} pairs of similar frames"
    if abs(correlation) < UNRELATED:
        return (
            f"the energies have nothing to do with the forces (correlation {correlation:.2f} with their work {within}); are "
            "they of the same frames, and the atoms in the same order?"
        )
    large = np.abs(work) >= np.median(np.abs(work))
    ratio = float(np.median(change[large] / work[large]))
    if abs(correlation) < CORRELATED or BETWEEN[0] < ratio < BETWEEN[1]:
        return ""
    evidence = f"{within} the energies change by {ratio:.3g} times the work of the forces"
    if -1 / BETWEEN[0] < ratio < 0:
        return f"{evidence}, as when the forces have the opposite sign: gradients are minus the forces"
    stiffness = float(np.median(pairs.stiffness))
    fits = {
        words: abs(np.log(abs(ratio) / factor))
        for words, (factor, unit) in MISTAKES.items()
        if MOLECULES[0] < stiffness * unit < MOLECULES[1]
    }
    best = min(fits.values(), default=np.inf)
    if best > np.log(1 / BETWEEN[0]):
        return f"{evidence}; energies and forces have different units or come from different calculations"
    named = " or ".join(words for words, far in fits.items() if far < best + np.log(ALIKE))
    return f"{evidence}, as with {named}; convert them to eV, Å and eV/Å"


def _stiffness(pairs: Pairs, graphs: Sequence[AtomGraph]) -> str:
    """What is wrong with forces by themselves, "" if nothing is."""
    if len(pairs.stiffness) < ENOUGH or float(np.median(pairs.atoms)) < SEVERAL:
        return ""
    least, most = CRYSTALS if any(bool(graph.pbc.any()) for graph in graphs) else MOLECULES
    stiffness = float(np.median(pairs.stiffness))
    if least < stiffness < most or stiffness == 0:
        return ""
    size, unit = ("small", "Hartree/Bohr") if stiffness < least else ("large", "kcal/mol/Å or kJ/mol/Å")
    return (
        f"the forces are too {size} for their displacements ({stiffness:.3g} eV/Å² within {len(pairs.stiffness)} pairs of similar "
        f"frames, where bonds have 5 to 60), as with forces in {unit}; convert them to eV/Å"
    )


def find_pairs(graphs: Sequence[AtomGraph]) -> Pairs:
    """Return pairs of similar frames of the same atoms with forces, each frame with its nearest."""
    groups: dict[bytes, list[AtomGraph]] = defaultdict(list)
    for graph in graphs:
        if FORCES in graph and graph.num_nodes > 1 and bool(graph.forces.isfinite().all()):
            same = (graph.atomic_numbers, graph.pbc, graph.cell if bool(graph.pbc.any()) else graph.pbc)
            groups[b"|".join(part.numpy().tobytes() for part in same)].append(graph)
    found, left = [np.zeros((5, 0))], MOST
    for group in sorted(groups.values(), key=len, reverse=True):
        if left < 2 or len(group) < 2:
            break
        chosen = _spread(group, left)
        left -= len(chosen)
        found.append(_pairs_of(chosen))
    return Pairs(*np.concatenate(found, axis=1))


def _spread(graphs: Sequence[AtomGraph], most: int) -> list[AtomGraph]:
    """Return at most so many graphs: runs of ``RUN``, evenly spread."""
    if len(graphs) <= most:
        return list(graphs)
    starts = np.linspace(0, len(graphs) - RUN, max(most // RUN, 1)).astype(int)
    return [graphs[index] for index in np.unique(starts[:, None] + np.arange(min(RUN, most)))]


def _pairs_of(graphs: Sequence[AtomGraph]) -> NDArray[np.float64]:
    """Return the fields of :class:`Pairs` [5, P] of frames of the same atoms."""
    positions = np.stack([graph.pos.numpy() for graph in graphs])
    forces = np.stack([graph.forces.numpy() for graph in graphs])
    energies = np.array([float(graph.energy) if ENERGY in graph else np.nan for graph in graphs])
    periodic = bool(graphs[0].pbc.any())
    if not periodic:
        positions = positions - positions.mean(axis=1, keepdims=True)
    rows = []
    for i in range(len(graphs) - 1):
        others = slice(i + 1, None)
        if periodic:
            there, force = _nearest_images(positions[i], positions[others], graphs[0]), forces[others]
        else:
            turned = _rotations(positions[i], positions[others])
            there, force = positions[others] @ turned, forces[others] @ turned
        shift, change = there - positions[i], force - forces[i]
        moved = np.sqrt(np.square(shift).sum(axis=2).mean(axis=1))
        work = -((force + forces[i]) / 2 * shift).sum(axis=(1, 2))
        stiff = np.sqrt(np.square(change).sum(axis=2).mean(axis=1)) / np.maximum(moved, 1e-12)
        near = (moved < MOVED) & (moved > 1e-6)
        index = np.arange(i + 1, len(graphs))
        rows.append(
            np.stack([np.full(len(index), i), index, energies[others] - energies[i], work, moved, stiff])[:, near]
        )
    first, second, *values = np.concatenate(rows, axis=1)
    order = np.argsort(values[2], kind="stable")
    taken = np.zeros(len(graphs), int)
    kept = []
    for pair in order.tolist():  # nearest first
        ends = [int(first[pair]), int(second[pair])]
        if taken[ends].min() < NEAREST:
            taken[ends] += 1
            kept.append(pair)
    chosen = np.stack(values)[:, kept]
    return np.concatenate([chosen, np.full((1, len(kept)), float(graphs[0].num_nodes))])


def _rotations(fixed: NDArray[np.float64], moving: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations [P, 3, 3] that bring structures [P, N, 3] (as rows, from the right) closest to one [N, 3].

    Kabsch, Acta Cryst. A32, 922 (1976).
    """
    left, _, right = np.linalg.svd(moving.transpose(0, 2, 1) @ fixed)
    sign = np.sign(np.linalg.det(left @ right))
    left[:, :, 2] *= sign[:, None]
    return left @ right


def _nearest_images(fixed: NDArray[np.float64], moving: NDArray[np.float64], graph: AtomGraph) -> NDArray[np.float64]:
    """Return positions [P, N, 3], each atom moved by whole cells to be near its own in ``fixed`` [N, 3]."""
    periodic = graph.pbc[0].numpy()
    vectors = graph.cell[0].numpy()[periodic]
    shift = moving - fixed
    shift = shift - np.round(shift @ np.linalg.pinv(vectors)) @ vectors
    return fixed + shift
