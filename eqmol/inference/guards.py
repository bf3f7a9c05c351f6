"""What a prediction must not exceed to be believed."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ase
import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqmol.errors import InputError, check_mode
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import Posterior

#: Times as far from the training set as the farthest atom of the validation set. In models trained on 3BPA at 300 K, sound runs at
#: 600 K reach 2.6 times, and frames of 1200 K 3.2.
FAR = 4.0
#: Of the sum of covalent radii: atoms that are nearer at the start are bonded, and later others that are nearer than the second
#: have a new bond. Of a bond's length at the start: it is broken.
BONDED, FORMED, BROKEN = 1.25, 1.15, 1.5


def usual_uncertainty(model: Predictor) -> float | None:
    """The std of a force (eV/Å) at :data:`FAR` times the farthest distance of the validation set; None without uncertainty."""
    posterior = Posterior.read(model)
    if posterior is None or posterior.factors.forces is None:
        return None
    return FAR * posterior.factors.farthest * posterior.factors.forces


class Bonds:
    """The bonds of a molecule, and what became of them; none of periodic structures, whose bonds come and go.

    Args:
        start: atoms that are nearer than :data:`BONDED` times the sum of their covalent radii (Cordero et al., Dalton Trans. 2832
            (2008)) are bonded.
    """

    def __init__(self, start: ase.Atoms) -> None:
        self._start = start.positions.copy()
        self.pairs = np.zeros((0, 2), dtype=int) if start.pbc.any() else _near(start, BONDED)
        self.lengths = _lengths(self._start, self.pairs)
        self._periodic = bool(start.pbc.any())

    def changes(self, atoms: ase.Atoms) -> tuple[str, ...]:
        """Bonds that are longer than :data:`BROKEN` times their length at the start, and pairs that were not bonded there and are
        nearer than :data:`FORMED` times the sum of their covalent radii, in words.
        """
        if self._periodic:
            return ()
        broken = self.pairs[_lengths(atoms.positions, self.pairs) > BROKEN * self.lengths]
        known = set(map(tuple, self.pairs.tolist()))
        formed = [pair for pair in _near(atoms, FORMED).tolist() if tuple(pair) not in known]
        return (*self._words(atoms, broken, "broken"), *self._words(atoms, formed, "new"))

    def _words(self, atoms: ase.Atoms, pairs: Any, what: str) -> Iterator[str]:
        for i, j in pairs:
            before, now = (np.linalg.norm(places[i] - places[j]) for places in (self._start, atoms.positions))
            yield f"{atoms.symbols[i]}{i}-{atoms.symbols[j]}{j} {what} ({before:.2f} to {now:.2f} Å)"


def _near(atoms: ase.Atoms, factor: float) -> NDArray[np.int64]:
    """Pairs [B, 2], i < j, of atoms of a molecule that are nearer than so many times the sum of their covalent radii."""
    from scipy.spatial import cKDTree  # a tenth of a second, which most programs need not wait

    radii = covalent_radii[atoms.numbers]
    pairs = cKDTree(atoms.positions).query_pairs(2 * factor * radii.max(), output_type="ndarray")
    near: NDArray[np.int64] = pairs[_lengths(atoms.positions, pairs) < factor * radii[pairs].sum(axis=1)]
    return near[np.lexsort(near.T[::-1])]


def _lengths(positions: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    return found


class Limits:
    """The guard of results: of the largest force and of the largest std of a force.

    Args:
        force: eV/Å; None for no limit, as of the next.
        uncertainty: eV/Å, of ``forces_std``.
        mode: "stop" refuses results beyond, "warn" says so once for each limit.

    Raises:
        InputError: a limit that is none, or an unknown mode.
    """

    def __init__(self, force: float | None, uncertainty: float | None, mode: str = "stop") -> None:
        self.mode = check_mode(mode, "limits")
        given = {"largest_force": force, "largest_uncertainty": uncertainty}
        for name, limit in given.items():
            if limit is not None and (
                isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < np.inf
            ):
                raise InputError(f"{name}={limit!r} must be a positive number of eV/Å, or None")
        self._limits = {name: limit for name, limit in given.items() if limit is not None}
        self._said: set[str] = set()

    def check(self, result: Mapping[str, Any], atoms: ase.Atoms) -> None:
        """Refuse a result beyond a limit, or warn of it; names the atom.

        Raises:
            InputError: in the mode "stop".
        """
        for name, limit in self._limits.items():
            key, what = ("forces", "force") if name == "largest_force" else ("forces_std", "std of the force")
            values = np.asarray(result[key])
            size = values if values.ndim == 1 else np.linalg.norm(values, axis=1)
            worst = int(size.argmax())
            if size[worst] <= limit:
                continue
            sentence = f"the {what} on atom {worst} ({atoms.symbols[worst]}) is {size[worst]:.3g} eV/Å, more than {name}={limit:g}"
            if self.mode == "stop":
                raise InputError(sentence)
            if name not in self._said:
                self._said.add(name)
                warnings.warn(f"{sentence} (said once)", stacklevel=2)
