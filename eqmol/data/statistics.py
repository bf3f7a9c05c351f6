"""What a model must know about its training set: elements, atomic energies, force scale, number of neighbours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.table import Table

from eqmol.data.atomic_energies import FreeAtom, doubt
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES, STRESS

#: eV per atom, eV/Å; what varies by less varies by no more than the convergence of a calculation.
CONVERGED = 1e-6
#: 1/Å; forces smaller than this fraction of the standard deviation of the energies per atom do not set the scale.
NOISE = 0.01
#: Energies vary over about a tenth of an Å, so that their slope per Å, which forces would tell, is so many times larger.
SLOPE = 10.0
#: Labels that vary by less than this fraction of what others do (energies per atom in eV, forces in eV/Å, stress times volume
#: per atom in eV) count in the loss as if they varied by that much.
FLOOR = 1e-3


@dataclass(frozen=True)
class Statistics:
    """Numbers of a training set.

    Args:
        elements: atomic numbers present, ascending.
        e0: energy per element, eV.
        e0_source: per element, where its energy comes from.
        scale: unit of the network's energies, eV, see :meth:`Measured.statistics`.
        scale_source: what it was taken from, in words.
        label_scales: what the loss divides errors by, for the labels there are: standard deviation of (E - Σ E0)/N in eV per
            atom ("energy"), root mean square of the components in eV/Å ("forces") and in eV/Å³ ("stress").
        avg_num_neighbors: mean number of edges that end at an atom.
        binding: median of (E - Σ E0)/N over the frames, eV per atom; None without energies.
        rank_deficiency: how many atomic energies the compositions leave undetermined in the least squares.
        known: the energies that needed no least squares, by atomic number.
        doubt: why the energies are implausible, if they are and that was accepted.
        again: the statistics of the same training set with other energies known.
        before: energies of elements that were in use before, eV, shown beside the new ones; also of elements that the training
            set lacks, which keep them.
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
    known: Mapping[int, FreeAtom]
    doubt: str | None
    again: Callable[[Mapping[int, FreeAtom]], "Statistics"] = field(repr=False)
    before: Mapping[int, float] = field(default_factory=dict)

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
        """Return the atomic energies and where they come from; beside those in use before, if there are any."""
        rows = {z: (e, source) for z, e, source in zip(self.elements, self.e0, self.e0_source, strict=True)}
        kept = {z: (self.known[z].energy, self.known[z].source) for z in self.before if z not in rows}
        before = ("before / eV", "change / eV") if self.before else ()
        table = Table("element", *before, "E0 / eV", "from", title="atomic energies")
        for column in table.columns[1:-1]:
            column.justify = "right"
        table.columns[-1].overflow = "fold"
        for z, (energy, source) in sorted((rows | kept).items()):
            old = (f"{self.before[z]:.6f}", f"{energy - self.before[z]:+.6f}") if z in self.before else ("new", "")
            table.add_row(chemical_symbols[z], *(old if self.before else ()), f"{energy:.6f}", source)
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
        if self.doubt is not None:
            notes.append(f"accepted with data.implausible=warn: {self.doubt}")
        return "; ".join(notes)


def elements_of(graphs: Sequence[AtomGraph]) -> list[int]:
    """Return the atomic numbers that occur, ascending."""
    return sorted({int(number) for graph in graphs for number in graph.atomic_numbers.unique()})


def measure(graphs: Sequence[AtomGraph], known: Mapping[int, FreeAtom], implausible: str = "stop") -> Statistics:
    """Measure a training set.

    Args:
        graphs: training structures, without isolated atoms.
        known: energies of elements that need no fit, see :func:`eqmol.data.atomic_energies.known_energies`.
        implausible: see :class:`Measured`.

    Raises:
        InputError: the energies are implausibly far from the sum of the atomic energies.
    """
    elements = elements_of(graphs)
    counts = np.array(
        [[int((graph.atomic_numbers == z).sum()) for z in elements] for graph in graphs], dtype=np.float64
    )
    num_edges = sum(graph.edge_index.shape[1] for graph in graphs)
    stressed = [graph for graph in graphs if STRESS in graph and bool(graph.stress.isfinite().all())]
    measured = Measured(
        elements,
        counts,
        energies=np.array([float(graph.energy) if ENERGY in graph else np.nan for graph in graphs]),
        forces=torch.cat([graph.forces.flatten() for graph in graphs if FORCES in graph] or [torch.zeros(0)]).numpy(),
        avg_num_neighbors=float(num_edges / counts.sum()),
        sources=[graph.source for graph in graphs],
        implausible=implausible,
        stress=torch.cat([graph.stress.flatten() for graph in stressed] or [torch.zeros(0)]).numpy(),
        volume=float(np.mean([float(graph.cell.det().abs()) / graph.num_nodes for graph in stressed] or [np.nan])),
    )
    return measured.statistics(known)


@dataclass(frozen=True)
class Measured:
    """What statistics are taken of: S structures, or S groups of structures of the same composition.

    Attributes:
        elements: atomic numbers present, ascending.
        counts: [S, elements] atoms of each.
        energies: [S] eV, mean over the group; NaN where there is none.
        forces: components, eV/Å, of any shape; NaN does not count.
        avg_num_neighbors: mean number of edges that end at an atom.
        sources: names of the structures or of all together, for messages.
        implausible: ``stop`` refuses energies that cannot be or do not belong to the atomic energies, ``warn`` says so.
        weights: [S] size of each group; None for 1.
        within: [S] variance of the energies of each group, eV²; None for 0.
        stress: components, eV/Å³, of any shape; None for none.
        volume: mean volume per atom where there is a stress, Å³.
    """

    elements: list[int]
    counts: NDArray[np.float64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    avg_num_neighbors: float
    sources: Sequence[str]
    implausible: str = "stop"
    weights: NDArray[np.float64] | None = None
    within: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None
    volume: float = np.nan

    def statistics(self, known: Mapping[int, FreeAtom]) -> Statistics:
        """Return the statistics, given the energies of elements that need no fit.

        For other elements, and for what is left of the total energies, linear least squares in float64 on the compositions.

        The scale is the root mean square of the force components (as eV/Å). Where there are none, or none but noise (below
        ``NOISE`` of what the energies vary), it is the root mean square of (E - Σ E0)/N, or ``SLOPE`` times its standard
        deviation if that is more; 1 where neither varies.

        Raises:
            InputError: the energies are implausibly far from the sum of the atomic energies.
        """
        e0, deficiency = self._atomic_energies(known)
        binding = (self.energies - self.counts @ e0) / self.counts.sum(axis=1)
        labelled = np.isfinite(binding)
        median = float(np.median(binding[labelled])) if labelled.any() else None
        fitted = "least squares" if median is not None else "no energies: 0"
        e0_source = [known[z].source if z in known else fitted for z in self.elements]
        deviation, why = None, None
        if labelled.any():
            deviation = self._deviation(binding)
            why = doubt(self.elements, self.counts, self.energies, e0, e0_source, deviation, self.sources)
        if why is not None and self.implausible == "stop":
            raise InputError(f"{why.evidence}; {why.remedy}, or train nevertheless with data.implausible=warn")
        spread = {ENERGY: deviation, FORCES: _root_mean_square(self.forces), STRESS: _root_mean_square(self.stress)}
        scale, scale_source = _scale(spread[FORCES], spread[ENERGY], _root_mean_square(binding))
        return Statistics(
            elements=self.elements,
            e0=[float(energy) for energy in e0],
            e0_source=e0_source,
            scale=scale,
            scale_source=scale_source,
            label_scales=_label_scales(spread, self.volume),
            avg_num_neighbors=self.avg_num_neighbors,
            binding=median,
            rank_deficiency=deficiency,
            known=known,
            doubt=None if why is None else why.evidence,
            again=self.statistics,
        )

    def _atomic_energies(self, known: Mapping[int, FreeAtom]) -> tuple[NDArray[np.float64], int]:
        """Return the energy of each element (eV) and how many combinations of the fitted ones are undetermined."""
        e0 = np.array([known[z].energy if z in known else 0.0 for z in self.elements])
        fitted = np.array([z not in known for z in self.elements])
        labelled = np.isfinite(self.energies)
        if not fitted.any() or not labelled.any():
            return e0, 0
        counts = self.counts[labelled]
        rest = self.energies[labelled] - counts @ e0
        root = np.ones(len(rest)) if self.weights is None else np.sqrt(self.weights[labelled])
        e0[fitted], _, rank, _ = np.linalg.lstsq(root[:, None] * counts[:, fitted], root * rest, rcond=None)
        return e0, int(fitted.sum() - rank)

    def _deviation(self, binding: NDArray[np.float64]) -> float:
        """Return the standard deviation of (E - Σ E0)/N (eV per atom) over all structures of all groups."""
        known = np.isfinite(binding)
        weight = (np.ones_like(binding) if self.weights is None else self.weights)[known]
        variance = np.square(binding[known] - np.average(binding[known], weights=weight))
        if self.within is not None:
            variance = variance + (self.within / np.square(self.counts.sum(axis=1)))[known]
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
