"""What came out of relaxations, read from the file that they were written to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import ase
import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from eqmol.data.oc20.anomalies import anomaly
from eqmol.data.oc20.metrics import ENERGY_THRESHOLD, average_distance_within_threshold, mean_distance
from eqmol.data.xyz.reader import read_frames
from eqmol.inference.extxyz import move_mask
from eqmol.inference.relax import Start
from eqmol.inference.relax_starts import POSITIONS, RELAXED_ENERGY


@dataclass
class Group:
    """Relaxations from several starting positions of one system.

    Args:
        starts: how many.
        relaxed: of these.
        anomalies: how many of these have each of :mod:`eqmol.data.oc20.anomalies`.
        lowest: that of the lowest energy among the relaxed ones without; None without any.
    """

    starts: int = 0
    relaxed: int = 0
    anomalies: Counter[str] = field(default_factory=Counter)
    lowest: ase.Atoms | None = None

    def energy(self) -> float:
        """Return the lowest energy, eV; infinity without any."""
        return np.inf if self.lowest is None else float(self.lowest.info["eqmol_energy"])


@dataclass
class Outcomes:
    """How relaxations ended.

    Args:
        number: of structures.
        steps: of each that is relaxed.
        unfinished: number of those that ran out of steps.
        problems: of each that could not be computed, with its source.
        distances: Å, mean distance of free atoms from the reference, of structures that have one: as they ended (infinity for
            a problem), and as they started.
        energy_errors: eV, of relaxed energies that have a reference.
        groups: value of the key that groups them -> the relaxations of it.
    """

    number: int = 0
    steps: list[int] = field(default_factory=list)
    unfinished: int = 0
    problems: list[str] = field(default_factory=list)
    distances: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    energy_errors: list[float] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, starts: Iterable[Start], group: str | None = None) -> Self:
        """Read the output of :func:`eqmol.inference.relax_files.relax_files`.

        Args:
            path: the output.
            starts: what it was made from.
            group: key in info whose values name the groups.
        """
        outcomes = cls()
        for (atoms, _, _), (start, _) in zip(read_frames(path), starts, strict=True):
            outcomes._add(atoms, start)
            if group is not None:
                outcomes._join(atoms, start, group)
        return outcomes

    def _add(self, atoms: ase.Atoms, start: ase.Atoms) -> None:
        problem = "eqmol_problem" in atoms.info
        self.number += 1
        if problem:
            self.problems.append(str(atoms.info["eqmol_problem"]))
        elif atoms.info["eqmol_converged"]:
            self.steps.append(int(atoms.info["eqmol_steps"]))
        else:
            self.unfinished += 1
        if POSITIONS in start.arrays:
            ended = np.inf if problem else _distance(atoms, start)
            self.distances[0].append(ended)
            self.distances[1].append(_distance(start, start))
        if RELAXED_ENERGY in start.info and not problem:
            self.energy_errors.append(float(atoms.info["eqmol_energy"]) - float(start.info[RELAXED_ENERGY]))

    def _join(self, atoms: ase.Atoms, start: ase.Atoms, key: str) -> None:
        group = self.groups.setdefault(str(atoms.info[key]), Group())
        group.starts += 1
        if "eqmol_problem" not in atoms.info and atoms.info["eqmol_converged"]:
            group.relaxed += 1
            if found := anomaly(start, atoms):
                group.anomalies[found] += 1
            elif atoms.info["eqmol_energy"] < group.energy():
                group.lowest = atoms

    def words(self) -> str:
        """Return them as a sentence."""
        words = f"{len(self.steps)} of {self.number} structures are relaxed"
        if self.steps:
            words += f" after {int(np.median(self.steps))} steps (median; {min(self.steps)} to {max(self.steps)})"
        if self.unfinished:
            words += f", {self.unfinished} ran out of steps"
        return words + (f", {len(self.problems)} could not be computed" if self.problems else "")

    def named(self) -> dict[str, float]:
        """Return the errors against references by the names of the Open Catalyst Project; those without any are absent."""
        named: dict[str, float] = {}
        for name, distances in zip(("", "start_"), self.distances, strict=True):
            if distances:
                named[f"{name}average_distance_within_threshold"] = average_distance_within_threshold(distances)
                known = [distance for distance in distances if np.isfinite(distance)]
                named |= {f"{name}mean_distance": float(np.mean(known))} if known else {}
        if self.energy_errors:
            errors = np.abs(self.energy_errors)
            named["energy_mae"] = float(errors.mean())
            named["energy_within_threshold"] = float((errors < ENERGY_THRESHOLD).mean())
        return named

    def tables(self) -> list[Table]:
        """Return the errors against references (IS2RS and IS2RE), and the groups."""
        tables = []
        if named := self.named():
            table = Table("", "structures", "ADwT", "mean distance\nÅ", "energy_mae\neV", "EwT", title="IS2RS, IS2RE")
            rows = {"relaxed": ("", self.distances[0]), "start": ("start_", self.distances[1])}
            for title, (prefix, distances) in rows.items():
                energies = title == "relaxed" and bool(self.energy_errors)
                if distances or energies:
                    adwt = named.get(f"{prefix}average_distance_within_threshold")
                    mean = named.get(f"{prefix}mean_distance")
                    table.add_row(
                        title,
                        str(len(distances) or len(self.energy_errors)),
                        "" if adwt is None else f"{adwt:.2%}",
                        "" if mean is None else f"{mean:.4f}",
                        f"{named['energy_mae']:.4f}" if energies else "",
                        f"{named['energy_within_threshold']:.2%}" if energies else "",
                    )
            tables.append(table)
        if self.groups:
            table = Table(
                "group", "starts", "relaxed", "anomalies", "lowest energy\neV", "from", title="lowest of each group"
            )
            for name, group in self.groups.items():
                source = "" if group.lowest is None else str(group.lowest.info["eqmol_source"])
                energy = "" if group.lowest is None else f"{group.energy():.4f}"
                anomalies = ", ".join(f"{number} {what}" for what, number in sorted(group.anomalies.items()))
                table.add_row(Text(name), str(group.starts), str(group.relaxed), anomalies or "0", energy, Text(source))
            tables.append(table)
        return tables


def _distance(atoms: ase.Atoms, start: ase.Atoms) -> float:
    """Return the mean distance (Å) of a structure from the reference of its start."""
    free: NDArray[np.bool_] = np.any(move_mask(start).reshape(len(start), -1), axis=1)
    return mean_distance(atoms.positions, start.arrays[POSITIONS], start.cell.array, start.pbc, free)
