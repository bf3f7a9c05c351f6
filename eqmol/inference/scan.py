"""Energies along a coordinate, for structures that are points of scans."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from eqmol import plots
from eqmol.errors import InputError, short
from eqmol.graph.keys import ENERGY
from eqmol.inference.structures import Frame

#: Number of atoms -> what they measure, and its unit.
MEASURES = {2: ("distance", "Å"), 3: ("angle", "°"), 4: ("dihedral angle", "°")}


class Profile:
    """Collects the energies of scans, for a figure.

    Args:
        coordinate: a key of ``info`` whose value is a number, or two to four indices of atoms joined by commas, which give a
            distance (Å), an angle or a dihedral angle (degrees, from -180 to 180).

    Raises:
        InputError: indices that are too many, or the same.
    """

    def __init__(self, coordinate: str) -> None:
        parts = coordinate.split(",")
        self._atoms = [int(part) for part in parts] if all(part.strip().isdecimal() for part in parts) else []
        if self._atoms and (len(self._atoms) not in MEASURES or len(set(self._atoms)) < len(self._atoms)):
            raise InputError(
                f"--scan {coordinate} must be a key of the structures, or two to four different atoms, like --scan 5,13,14,18"
            )
        self.label = coordinate
        if self._atoms:
            name, unit = MEASURES[len(self._atoms)]
            self.label = f"{name} {'-'.join(map(str, self._atoms))} ({unit})"
        self._coordinate = coordinate
        self._points: dict[str, list[tuple[float, float, float]]] = {}

    def add(self, frame: Frame, result: Mapping[str, Any]) -> None:
        """Take up one structure with its prediction.

        Raises:
            InputError: it has no such coordinate.
        """
        atoms, labels, source = frame
        file = source.rpartition(", frame ")[0] or source
        point = (self._value(atoms, source), float(labels.get(ENERGY, np.nan)), float(result["energy"]))
        self._points.setdefault(file, []).append(point)

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Return the scans by file, "a.xyz 2" where one has several: coordinate, reference and prediction [3, points].

        A scan ends where the coordinate steps back against the way of most steps. Energies (eV) are relative to the point at
        which the reference is lowest, or the prediction, where there is no reference; references are NaN where there are none.
        """
        curves = {}
        for file, points in self._points.items():
            table = np.array(points).T
            steps = np.diff(table[0])
            back = np.flatnonzero(np.sign(steps) == -np.sign(np.sign(steps).sum())) + 1
            pieces = [table[:, a:b] for a, b in pairwise([0, *back.tolist(), table.shape[1]])]
            for number, piece in enumerate(pieces, 1):
                energies = piece[1] if np.isfinite(piece[1]).all() else piece[2]
                lowest = int(energies.argmin())
                name = f"{Path(file).name} {number}" if len(pieces) > 1 else Path(file).name
                curves[name] = np.stack((piece[0], *(row - row[lowest] for row in piece[1:])))
        return curves

    def draw(self, path: Path) -> None:
        """Write the figure."""
        plots.profile(self.curves(), path, self.label)

    def _value(self, atoms: ase.Atoms, source: str) -> float:
        if not self._atoms:
            given = atoms.info.get(self._coordinate)
            if isinstance(given, bool) or not isinstance(given, int | float | np.integer | np.floating):
                raise InputError(
                    f"{source} has no number {self._coordinate!r} for --scan; it has {short(sorted(atoms.info))}"
                )
            return float(given)
        if max(self._atoms) >= len(atoms):
            raise InputError(f"{source} has {len(atoms)} atoms, and none of the index {max(self._atoms)} of --scan")
        mic = bool(atoms.pbc.any())
        measure: Any = {2: atoms.get_distance, 3: atoms.get_angle, 4: atoms.get_dihedral}[len(self._atoms)]
        value = float(measure(*self._atoms, mic=mic))
        return (value + 180.0) % 360.0 - 180.0 if len(self._atoms) == 4 else value
