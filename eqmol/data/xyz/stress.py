"""Stress labels in the units and signs of other programs, and whether the energies agree with what they are said to be.

Between two similar frames of the same atoms the energy changes by the work of stress and forces (trapezoidal rule along the
straight line in cells and fractional coordinates),

    E_j - E_i ≈ ½ (V_i σ_i : G_i + V_j σ_j : G_j) - ½ (F_i · u_i + F_j · u_j),

where cell_j = cell_i (1 + G_i), cell_i = cell_j (1 - G_j), and u are the displacements of the atoms beside that of the cell. A
stress in another unit or with another sign is off by a factor, which many pairs of frames tell with certainty.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqmol.data.atomic_energies import Doubt
from eqmol.data.options import check_names, wrong
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES, STRESS
from eqmol.units import GPA

#: eV/Å³ of units of stress.
UNITS = {"eV/A^3": 1.0, "GPa": GPA, "kbar": 0.1 * GPA, "bar": 1e-4 * GPA}
VIRIAL = "eV"
_TINIEST = 1e-300  #: in place of zero below a fraction
_PLAIN = str.maketrans({"^": None, "Å": "A", "³": "3"})
#: eV/Å³ (160 GPa); a stress beyond it in most frames has another unit, unless the energies say so too.
LARGEST = 1.0
#: Å and relative; frames are compared if no atom moves farther and the cell is not strained more,
MOVED, STRAINED = 1.0, 0.3
#: but strained; the work of forces is needed if some atom moves.
STILL = 1e-3
#: Frames that are compared, of which so many follow each other, as those of a trajectory are alike; their squared number times
#: that of their atoms.
MOST, RUN, WORK = 300, 10, 2e6
#: Frames that each is compared with, and pairs that are enough.
NEAREST, ENOUGH = 2, 4
#: A convention fits if it explains this part of the mean square of the energies, with a factor of at most so much.
EXPLAINED, FACTOR = 0.7, 2.0
#: What is declared does not fit if it triples the mean square,
WORSE = -1.0
#: or if it is so many times too small, and the other explains this part in so many pairs.
TINY, WELL_EXPLAINED, MANY = 30.0, 0.8, 20
#: What explains less than the best, by less than this, may be meant as well: a virial in cells of 160 Å³ has the size of GPa.
ALIKE = 0.1
#: Files with so many frames are judged alone.
ALONE = 5


@dataclass(frozen=True)
class Convention:
    """How files write the stress.

    Args:
        key: where.
        unit: of ``UNITS``, or "eV" for a virial, -σV.
        sign: -1 where a positive stress means compressed, or a virial is σV.
    """

    key: str
    unit: str = "eV/A^3"
    sign: int = 1

    @classmethod
    def read(cls, stress_key: Any, stress_unit: Any = None, virial_key: Any = None) -> "Convention":
        """Read the options of these names.

        Raises:
            InputError: a key that is no name, or a unit that is none of a stress, or of a virial where that has a key.
        """
        check_names(stress_key=stress_key)
        if virial_key is not None:
            check_names(virial_key=virial_key)
        units = UNITS if virial_key is None else {VIRIAL: 1.0}
        if stress_unit is None:
            return cls(stress_key) if virial_key is None else cls(virial_key, VIRIAL)
        text = stress_unit.translate(_PLAIN).lower() if isinstance(stress_unit, str) else ""
        names = {name.translate(_PLAIN).lower(): name for name in units}
        if (name := names.get(text.removeprefix("-"))) is None:
            one = (
                f"one of {', '.join(units)}"
                if virial_key is None
                else f"eV, as data.virial_key={virial_key} is a virial"
            )
            raise wrong("stress_unit", stress_unit, f"{one}, with a minus where the sign is the opposite of ASE's")
        return cls(stress_key if virial_key is None else virial_key, name, -1 if text.startswith("-") else 1)

    @property
    def option(self) -> str:
        """Name of the option with the key."""
        return "virial_key" if self.unit == VIRIAL else "stress_key"

    @property
    def words(self) -> str:
        """What the values are, for a person."""
        unit = "a virial in eV" if self.unit == VIRIAL else self.unit.replace("A^3", "Å³")
        return unit if self.sign > 0 else f"{unit} with the opposite sign"

    def stress(self, value: NDArray[np.float64], volume: Any) -> NDArray[np.float64]:
        """Return the stress (eV/Å³, ASE's sign) that files write as ``value`` [..., 3, 3], given volumes [...] in Å³."""
        if self.unit == VIRIAL:
            return -self.sign * value / np.asarray(volume)[..., None, None]
        return self.sign * UNITS[self.unit] * value

    def written(self, stress: NDArray[np.float64], volume: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what files write for a stress: the inverse of :meth:`stress`."""
        if self.unit == VIRIAL:
            return -self.sign * stress * volume[..., None, None]
        return stress / (self.sign * UNITS[self.unit])

    @property
    def name(self) -> str:
        """What :meth:`parse` reads: the key, and what is not as usual in brackets, "stress [-kbar]"."""
        return self.key if self == Convention(self.key) else f"{self.key} [{'-' if self.sign < 0 else ''}{self.unit}]"

    @classmethod
    def parse(cls, name: str) -> "Convention":
        """Read a :attr:`name`."""
        for unit in (*UNITS, VIRIAL):
            for sign, mark in ((1, ""), (-1, "-")):
                if (key := name.removesuffix(f" [{mark}{unit}]")) != name:
                    return cls(key, unit, sign)
        return cls(name)

    def others(self) -> list["Convention"]:
        """Return what else the same values may be."""
        every = [Convention(self.key, unit, sign) for unit in (*UNITS, VIRIAL) for sign in (1, -1)]
        return [other for other in every if other != self]

    def options(self, declared: "Convention") -> str:
        """Return the options that declare it in place of another one."""
        options = {}
        if self.unit == VIRIAL != declared.unit:
            options["virial_key"] = self.key
        elif self.unit != VIRIAL == declared.unit:
            options |= {"virial_key": "null", "stress_key": self.key}
        unit = f"{'-' if self.sign < 0 else ''}{self.unit.translate(_PLAIN)}"  # which needs no quotes
        if unit != VIRIAL or declared.unit == VIRIAL:
            options["stress_unit"] = unit
        return " ".join(f"data.{name}={value}" for name, value in options.items())


class Pairs(NamedTuple):
    """P pairs of similar frames; arrays with two rows are of the first and the second of each.

    Attributes:
        change: [1, P] eV per atom, what the energy changes by beside the work of the forces.
        volume: [2, P] Å³.
        written: [2, P, 3, 3] stress as it is written.
        strain: [2, P, 3, 3] G of both frames.
        atoms: [1, P] their number.
    """

    change: NDArray[np.float64]
    volume: NDArray[np.float64]
    written: NDArray[np.float64]
    strain: NDArray[np.float64]
    atoms: NDArray[np.float64]

    def work(self, convention: Convention) -> NDArray[np.float64]:
        """Return the work of the stress [1, P], eV per atom."""
        stress = convention.stress(self.written, self.volume)
        return (self.volume * (stress * self.strain).sum(axis=(2, 3))).mean(axis=0, keepdims=True) / self.atoms


def doubt(graphs: Sequence[AtomGraph], convention: Convention, source: str) -> Doubt | None:
    """Return why a stress is not what it is said to be, if so.

    Args:
        graphs: with stress in eV/Å³, or NaN.
        convention: by which it was converted.
        source: the files.
    """
    known = [graph for graph in graphs if STRESS in graph and bool(graph.stress.isfinite().all())]
    pairs = find_pairs(known, convention)
    if pairs is not None:
        factor, explained = _fit(pairs, convention)
        if explained >= EXPLAINED and 1 / FACTOR < factor < FACTOR:
            return None
    taken = f"{source}: the stress under '{convention.key}', taken as {convention.words},"
    if pairs is not None and (fitting := _fitting(pairs, convention)):
        found = " and ".join(f"{value:.2g} times taken as {other.words}" for other, value in fitting)
        evidence = (
            f"{taken} contradicts the energies: within {pairs.change.size} pairs of similar frames they change by {factor:.2g} "
            f"times its work, but by {found}"
        )
        return Doubt(evidence, f"set {', or '.join(other.options(convention) for other, _ in fitting)}")
    largest = np.array([float(graph.stress.abs().max()) for graph in known])
    if 2 * (beyond := int((largest > LARGEST).sum())) <= len(known):
        return None
    evidence = (
        f"{taken} has components beyond {LARGEST:g} eV/Å³ ({LARGEST / GPA:.0f} GPa) in {beyond} of {len(known)} frames, "
        f"{np.median(largest):.3g} in the median, as it has in another unit"
    )
    virial = "" if convention.unit == VIRIAL else f", or data.virial_key={convention.key} for a virial in eV"
    return Doubt(evidence, f"set data.stress_unit=GPa or kbar, -GPa or -kbar where positive means compressed{virial}")


def check(files: Mapping[str, Sequence[AtomGraph]], convention: Convention, mode: str) -> list[str]:
    """Refuse a stress that is not what it is said to be, or with the mode ``warn`` return sentences about it.

    Args:
        files: graphs of each.
        convention: by which their stress was converted.
        mode: "stop" or "warn".

    Raises:
        InputError: see :func:`doubt`.
    """
    large = {name: graphs for name, graphs in files.items() if len(graphs) >= ALONE}
    small = {name: graphs for name, graphs in files.items() if len(graphs) < ALONE}
    parts = list(large.items())
    if small:
        name = f"{next(iter(small))}{f' and {len(small) - 1} more' if len(small) > 1 else ''}"
        parts.append((name, [graph for graphs in small.values() for graph in graphs]))
    notes = []
    for name, graphs in parts:
        why = doubt(graphs, convention, name)
        if why is not None and mode == "stop":
            raise InputError(f"{why.evidence}; {why.remedy}, or train nevertheless with data.implausible=warn")
        if why is not None:
            notes.append(f"accepted with data.implausible=warn: {why.evidence}")
    return notes


def _fitting(pairs: Pairs, convention: Convention) -> list[tuple[Convention, float]]:
    """Return the conventions that fit the energies, with their factors, where the declared one certainly does not."""
    is_wrong = _explained(pairs.change, pairs.work(convention)) < WORSE
    if not is_wrong and (pairs.change.size < MANY or abs(_fit(pairs, convention)[0]) < TINY):
        return []
    fits = []
    for other in convention.others():
        value, explained = _fit(pairs, other)
        if 1 / FACTOR < value < FACTOR:
            fits.append((other, value, explained))
    best = max((explained for _, _, explained in fits), default=0.0)
    if best < (EXPLAINED if is_wrong else WELL_EXPLAINED):
        return []
    return [(other, value) for other, value, explained in fits if explained > best - ALIKE]


def _fit(pairs: Pairs, convention: Convention) -> tuple[float, float]:
    """Return the factor between energies and the work of the stress, and what part of the mean square it explains."""
    work = pairs.work(convention)
    factor = float(np.vdot(work, pairs.change)) / max(float(np.vdot(work, work)), _TINIEST)
    return factor, _explained(pairs.change, factor * work)


def _explained(change: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Return what part of the mean square of the changes their agreement with the work explains; negative if they disagree."""
    return 1.0 - float(np.square(change - work).sum()) / max(float(np.square(change).sum()), _TINIEST)


def find_pairs(graphs: Sequence[AtomGraph], convention: Convention) -> Pairs | None:
    """Return pairs of similar frames of the same atoms, each frame with its nearest, of those with energies; None of few."""
    groups: dict[bytes, list[AtomGraph]] = defaultdict(list)
    for graph in graphs:
        if ENERGY in graph and bool(graph.energy.isfinite()):
            groups[graph.atomic_numbers.numpy().tobytes()].append(graph)
    parts: list[Pairs] = []
    left = MOST
    for group in sorted(groups.values(), key=lambda group: len(group), reverse=True):
        if parts and (left < 2 or len(group) < 2):
            break
        chosen = _spread(group, min(left, int(np.sqrt(WORK / group[0].num_nodes))))
        left -= len(chosen)
        parts.append(_pairs_of(chosen, convention))
    pairs = Pairs(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))) if parts else None
    return pairs if pairs is not None and pairs.change.size >= ENOUGH else None


def _spread(graphs: Sequence[AtomGraph], most: int) -> list[AtomGraph]:
    """Return at most so many graphs: runs of ``RUN``, evenly spread."""
    if len(graphs) <= most:
        return list(graphs)
    starts = np.linspace(0, len(graphs) - RUN, max(most // RUN, 1)).astype(int)
    return [graphs[index] for index in np.unique(starts[:, None] + np.arange(min(RUN, most)))]


def _pairs_of(graphs: Sequence[AtomGraph], convention: Convention) -> Pairs:
    """Return the pairs among frames of the same atoms."""
    cells = np.stack([graph.cell[0].numpy() for graph in graphs])
    fractions = np.stack([graph.pos.numpy() for graph in graphs]) @ np.linalg.inv(cells)
    stress = np.stack([graph.stress[0].numpy() for graph in graphs])
    energies = np.array([float(graph.energy) for graph in graphs])
    forces = [graph.forces.numpy() if FORCES in graph else np.full(graph.pos.shape, np.nan) for graph in graphs]
    volumes, number = np.abs(np.linalg.det(cells)), fractions.shape[1]
    found: dict[tuple[int, int], float] = {}  # pair -> work of the forces, eV
    for i in range(len(graphs)):
        strain = np.linalg.inv(cells[i]) @ cells - np.eye(3)
        shift = fractions - fractions[i]
        shift -= np.round(shift)
        shift -= shift.mean(axis=1, keepdims=True)
        moved = np.linalg.norm(shift @ ((cells[i] + cells) / 2), axis=2).max(axis=1)
        strained = np.linalg.norm(strain, axis=(1, 2))
        apart = moved + np.cbrt(volumes / number) * strained
        apart[(moved > MOVED) | (strained > STRAINED) | (strained < STILL)] = np.inf
        for j in np.argsort(apart, kind="stable")[:NEAREST].tolist():
            work = -((forces[i] * (shift[j] @ cells[i])).sum() + (forces[j] * (shift[j] @ cells[j])).sum()) / 2
            if np.isfinite(apart[j]) and (moved[j] < STILL or np.isfinite(work)) and (j, i) not in found:
                found[i, j] = 0.0 if moved[j] < STILL else work
    ends = np.array(list(found), np.int64).reshape(-1, 2).T
    first, second = ends
    there = np.linalg.inv(cells[first]) @ cells[second]
    back = np.linalg.inv(cells[second]) @ cells[first]
    return Pairs(
        change=(energies[second] - energies[first] - np.array(list(found.values())))[None] / number,
        volume=volumes[ends],
        written=convention.written(stress, volumes)[ends],
        strain=np.stack([there - np.eye(3), np.eye(3) - back]),
        atoms=np.full((1, len(found)), float(number)),
    )
