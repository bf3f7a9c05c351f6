"""What a model must know about its training set: elements, atomic energies, force scale, number of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.table import Table

from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES, STRESS

#: eV per atom; no bond is that strong, so labels and atomic energies come from different methods.
IMPLAUSIBLE = 100.0
#: eV per atom, eV/Å; what varies by less varies by no more than the convergence of a calculation.
CONVERGED = 1e-6
#: 1/Å; forces smaller than this fraction of the standard deviation of the energies per atom do not set the scale.
NOISE = 0.01
#: Energies vary over about a tenth of an Å, so that their slope per Å, which forces would tell, is so many times larger.
SLOPE = 10.0
#: Labels that vary by less than this fraction of what others do (energies per atom in eV, forces in eV/Å, stress times volume
#: per atom in eV) count in the loss as if they varied by that much.
FLOOR = 1e-3
#: eV; two energies of the same isolated atom that differ by more contradict each other.
SAME_ATOM = 1e-3
#: ``config_type`` of isolated atoms, without its underscores and capitals.
ISOLATED_ATOM = "isolatedatom"


@dataclass(frozen=True)
class Statistics:
    """Numbers of a training set.

    Args:
        elements: atomic numbers present, ascending.
        e0: energy per element, eV.
        e0_source: per element, where its energy comes from.
        scale: unit of the network's energies, eV, see :func:`summarise`.
        scale_source: what it was taken from, in words.
        label_scales: what the loss divides errors by, for the labels there are: standard deviation of (E - Σ E0)/N in eV per
            atom ("energy"), root mean square of the components in eV/Å ("forces") and in eV/Å³ ("stress").
        avg_num_neighbors: mean number of edges that end at an atom.
        binding: median of (E - Σ E0)/N over the frames, eV per atom; None without energies.
        rank_deficiency: how many atomic energies the compositions leave undetermined in the least squares.
    """

    elements: list[int]
    e0: list[float]
    e0_source: list[str]
    scale: float
    scale_source: str
    label_scales: dict[str, float]
    avg_num_neighbors: float
    binding: float | None
    rank_deficiency: int

    def plain(self) -> dict[str, Any]:
        """Return what goes into the configuration and the checkpoint: plain numbers."""
        return {
            "elements": self.elements,
            "e0": self.e0,
            "scale": self.scale,
            "label_scales": self.label_scales,
            "avg_num_neighbors": self.avg_num_neighbors,
        }

    def table(self) -> Table:
        """Return the atomic energies and where they come from."""
        table = Table("element", "E0 / eV", "from", title="atomic energies")
        table.columns[1].justify = "right"
        table.columns[2].overflow = "fold"
        for number, energy, source in zip(self.elements, self.e0, self.e0_source, strict=True):
            table.add_row(chemical_symbols[number], f"{energy:.6f}", source)
        return table

    def notes(self) -> str:
        """Return the other numbers in words, and what is doubtful about the atomic energies."""
        notes = [f"{self.scale_source}, {self.avg_num_neighbors:.2f} neighbours per atom"]
        if self.binding is not None:
            notes.append(f"median of (E - Σ E0)/N {self.binding:.3f} eV")
        if self.rank_deficiency > 0:
            notes.append(
                f"the compositions leave {self.rank_deficiency} combination(s) of atomic energies undetermined, of which "
                "least squares takes those of least norm: give isolated atoms if other compositions or dissociation matter"
            )
        return "; ".join(notes)


@dataclass(frozen=True)
class FreeAtom:
    """Energy (eV) of an isolated atom and the frame that it was read from."""

    energy: float
    source: str


def is_isolated(graph: AtomGraph) -> bool:
    """Return whether a frame is an isolated atom: one atom without neighbours, or named so by its ``config_type``.

    Raises:
        InputError: a frame named so that has several atoms.
    """
    named = graph.config_type.lower().replace("_", "") == ISOLATED_ATOM
    if named and graph.num_nodes != 1:
        raise InputError(f"{graph.source}: config_type {graph.config_type} is for one atom, not {graph.num_nodes}")
    return named or (graph.num_nodes == 1 and graph.edge_index.shape[1] == 0)


def free_atoms(graphs: Sequence[AtomGraph]) -> dict[int, FreeAtom]:
    """Return the energies of isolated atoms by atomic number.

    Args:
        graphs: isolated atoms; frames without an energy are skipped.

    Raises:
        InputError: two frames of one element disagree.
    """
    atoms: dict[int, FreeAtom] = {}
    for graph in graphs:
        if ENERGY not in graph or not bool(graph.energy.isfinite()):
            continue
        number, atom = int(graph.atomic_numbers[0]), FreeAtom(float(graph.energy), graph.source)
        known = atoms.setdefault(number, atom)
        if abs(known.energy - atom.energy) > SAME_ATOM:
            raise InputError(
                f"{atom.source}: the isolated atom {chemical_symbols[number]} has the energy {atom.energy} eV, but "
                f"{known.energy} eV in {known.source}; keep one of them"
            )
    return atoms


def measure(graphs: Sequence[AtomGraph], isolated: dict[int, FreeAtom]) -> Statistics:
    """Measure a training set.

    Args:
        graphs: training structures, without isolated atoms.
        isolated: see :func:`free_atoms`.

    Raises:
        InputError: the energies are implausibly far from the sum of the atomic energies.
    """
    elements = sorted({int(number) for graph in graphs for number in graph.atomic_numbers.unique()})
    counts = np.array(
        [[int((graph.atomic_numbers == z).sum()) for z in elements] for graph in graphs], dtype=np.float64
    )
    energies = np.array([float(graph.energy) if ENERGY in graph else np.nan for graph in graphs])
    num_edges = sum(graph.edge_index.shape[1] for graph in graphs)
    stressed = [graph for graph in graphs if STRESS in graph and bool(graph.stress.isfinite().all())]
    return summarise(
        elements,
        counts,
        energies,
        isolated,
        forces=torch.cat([graph.forces.flatten() for graph in graphs if FORCES in graph] or [torch.zeros(0)]).numpy(),
        stress=torch.cat([graph.stress.flatten() for graph in stressed] or [torch.zeros(0)]).numpy(),
        volume=float(np.mean([float(graph.cell.det().abs()) / graph.num_nodes for graph in stressed] or [np.nan])),
        avg_num_neighbors=float(num_edges / counts.sum()),
        source=graphs[0].source,
    )


def summarise(
    elements: list[int],
    counts: NDArray[np.float64],
    energies: NDArray[np.float64],
    isolated: dict[int, FreeAtom],
    *,
    forces: NDArray[np.float64],
    avg_num_neighbors: float,
    source: str,
    weights: NDArray[np.float64] | None = None,
    within: NDArray[np.float64] | None = None,
    stress: NDArray[np.float64] | None = None,
    volume: float = np.nan,
) -> Statistics:
    """Return the statistics of S structures, or of S groups of structures of the same composition.

    Atomic energies are those of ``isolated``; for other elements, and for what is left of the total energies, linear
    least squares in float64 on the compositions.

    The scale is the root mean square of the force components (as eV/Å). Where there are none, or none but noise (below
    ``NOISE`` of what the energies vary), it is the root mean square of (E - Σ E0)/N, or ``SLOPE`` times its standard
    deviation if that is more; 1 where neither varies.

    Args:
        elements: atomic numbers present, ascending.
        counts: [S, elements] atoms of each.
        energies: [S] eV, mean over the group; NaN where there is none.
        isolated: see :func:`free_atoms`.
        forces: components, eV/Å, of any shape; NaN does not count.
        avg_num_neighbors: mean number of edges that end at an atom.
        source: where the structures come from, for messages.
        weights: [S] size of each group; None for 1.
        within: [S] variance of the energies of each group, eV²; None for 0.
        stress: components, eV/Å³, of any shape; None for none.
        volume: mean volume per atom where there is a stress, Å³.

    Raises:
        InputError: the energies are implausibly far from the sum of the atomic energies.
    """
    e0, deficiency = _atomic_energies(elements, counts, energies, isolated, weights)
    binding = (energies - counts @ e0) / counts.sum(axis=1)
    known = np.isfinite(binding)
    median = float(np.median(binding[known])) if known.any() else None
    _check_plausible(source, elements, median, isolated)
    deviation = _deviation(binding, counts.sum(axis=1), weights, within) if known.any() else None
    spread = {ENERGY: deviation, FORCES: _root_mean_square(forces), STRESS: _root_mean_square(stress)}
    scale, scale_source = _scale(spread[FORCES], spread[ENERGY], _root_mean_square(binding))
    fitted = "least squares" if median is not None else "no energies: 0"
    return Statistics(
        elements=elements,
        e0=[float(energy) for energy in e0],
        e0_source=[isolated[z].source if z in isolated else fitted for z in elements],
        scale=scale,
        scale_source=scale_source,
        label_scales=_label_scales(spread, volume),
        avg_num_neighbors=avg_num_neighbors,
        binding=median,
        rank_deficiency=deficiency,
    )


def _atomic_energies(
    elements: list[int],
    counts: NDArray[np.float64],
    energies: NDArray[np.float64],
    isolated: dict[int, FreeAtom],
    weights: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], int]:
    """Return the energy of each element (eV) and how many combinations of the fitted ones are undetermined."""
    e0 = np.array([isolated[z].energy if z in isolated else 0.0 for z in elements])
    fitted = np.array([z not in isolated for z in elements])
    labelled = np.isfinite(energies)
    if not fitted.any() or not labelled.any():
        return e0, 0
    rest = energies[labelled] - counts[labelled] @ e0
    root = np.ones(len(rest)) if weights is None else np.sqrt(weights[labelled])
    solution, _, rank, _ = np.linalg.lstsq(root[:, None] * counts[labelled][:, fitted], root * rest, rcond=None)
    e0[fitted] = solution
    return e0, int(fitted.sum() - rank)


def _check_plausible(source: str, elements: list[int], median: float | None, isolated: dict[int, FreeAtom]) -> None:
    """Refuse isolated atoms of another method than the total energies."""
    if median is None or abs(median) <= IMPLAUSIBLE:
        return
    given = [
        f"{chemical_symbols[z]} {isolated[z].energy:.2f} eV in {isolated[z].source}" for z in elements if z in isolated
    ]
    raise InputError(
        f"{source}: the total energies are {median:.1f} eV per atom away from the sum of the atomic energies "
        f"({'; '.join(given) or 'least squares'}), as when one of them counts all electrons and the other the valence "
        "electrons, or when units differ; give isolated atoms of the same method, or none"
    )


def _deviation(
    binding: NDArray[np.float64],
    sizes: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    within: NDArray[np.float64] | None,
) -> float:
    """Return the standard deviation of (E - Σ E0)/N (eV per atom) over all structures of all groups."""
    known = np.isfinite(binding)
    weight = (np.ones_like(binding) if weights is None else weights)[known]
    variance = np.square(binding[known] - np.average(binding[known], weights=weight))
    if within is not None:
        variance = variance + (within / np.square(sizes))[known]
    return float(np.sqrt(np.average(variance, weights=weight)))


def _scale(force: float | None, deviation: float | None, binding: float | None) -> tuple[float, str]:
    """Return the unit of the network's energies (eV), and what it was taken from, in words.

    Args:
        force: root mean square of the forces, eV/Å.
        deviation: standard deviation of (E - Σ E0)/N, eV.
        binding: its root mean square, eV.
    """
    if force is not None and force > max(CONVERGED, NOISE * (deviation or 0.0)):
        return force, f"force scale {force:.4g} eV/Å"
    unused = "no forces" if force is None else f"force scale {force:.2g} eV/Å is only noise"
    energy = max(binding or 0.0, SLOPE * (deviation or 0.0))
    if energy > CONVERGED:
        return energy, f"energy scale {energy:.4g} eV, as energies per atom vary by {deviation:.2g} eV ({unused})"
    return 1.0, f"energy scale 1 eV, as energies do not vary ({unused})"


def _label_scales(spread: dict[str, float | None], volume: float) -> dict[str, float]:
    """Return how much each label varies, at least ``FLOOR`` of what the others do; 1 for all where nothing varies.

    Args:
        spread: of each label in its unit; None without labels.
        volume: per atom, Å³, which makes a stress comparable to an energy per atom.
    """
    size = {ENERGY: 1.0, FORCES: 1.0, STRESS: volume}
    varies = {name: value for name, value in spread.items() if value is not None}
    largest = max((value * size[name] for name, value in varies.items()), default=0.0)
    if largest <= CONVERGED:
        return dict.fromkeys(varies, 1.0)
    return {name: max(value, FLOOR * largest / size[name]) for name, value in varies.items()}


def _root_mean_square(values: NDArray[np.float64] | None) -> float | None:
    """Return the root mean square of the numbers that are known, if any."""
    known = np.zeros(0) if values is None else values[np.isfinite(values)]
    return float(np.sqrt(np.mean(np.square(known)))) if len(known) > 0 else None
