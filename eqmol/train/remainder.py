"""What a run leaves of the constants of the elements in energies, taken away when it ends.

Forces are learnt first, and say nothing of a constant per atom. A run that is short ends before the energies have said it, and all
its energies are off by much the same. What the saved model leaves of the energies of training structures is then fitted by
least squares, and the binding energies of atoms with neighbours (:class:`eqmol.models.reference.BindingEnergy`) take it up:
forces stay, and so do free atoms. The best model of a run is chosen as if that had been done.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqmol import checkpoint
from eqmol.data.atomic_energies import KEEP
from eqmol.data.datamodule import GraphSets
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.models.reference import BindingEnergy
from eqmol.train.start import RESOLVED
from eqmol.train.warm_energies import COMPARED, Labels, compare
from eqmol.units import MEV, quantity

Array = NDArray[np.float64]
#: Part of the error of energies that must go, or the constants stay as they were learnt.
WORTH = 0.1


class Remainder(NamedTuple):
    """What a model leaves of energies, and what of it is constants of the elements.

    Attributes:
        left: [S] per atom, eV.
        shift: [rows of E0s] constants of atoms with neighbours, eV.
        others: [S] what is left per atom with constants of a fit to all other structures, eV.
    """

    left: Array
    shift: Array
    others: Array

    @classmethod
    def of(cls, composition: Array, left: Array) -> "Remainder":
        """Fit; see :func:`per_atom`."""
        return cls(left, *fit(composition, left))

    @property
    def is_worth_it(self) -> bool:
        """Whether the constants make energies better by a tenth or more, each judged by a fit without it."""
        return rms(self.others) < (1.0 - WORTH) * rms(self.left)


def take_up(path: Path, model: Predictor, data: GraphSets) -> str | None:
    """Correct the binding energies of the saved model where that is worth it.

    Args:
        path: of its file, which is then written anew.
        model: read from there; changed.
        data: whose training structures are fitted; with ``e0=keep`` nothing is.

    Returns:
        What was done, if anything.
    """
    if not isinstance(model, Potential) or data.e0 == KEEP:
        return None
    found = Remainder.of(*per_atom(model, compare(model, data.representatives(COMPARED))))
    if not found.is_worth_it:
        return None
    e0, shift = model.reference.e0.cpu().numpy(), found.shift
    old = np.zeros_like(e0) if model.binding is None else model.binding.binding.cpu().numpy()
    binding = old + shift
    model.binding = BindingEnergy(binding.tolist(), model.cutoff).to(model.reference.e0.device)
    number = len(model.elements)
    rows = binding.reshape(-1, number).tolist()
    model.recipe["binding"] = rows if model.readout_heads else rows[0]
    checkpoint.save(model, path, metrics=checkpoint.read_header(path).document["metrics"])
    shifts = shift.reshape(-1, number)
    names = model.readout_heads or ("",)
    shown = (
        f"{chemical_symbols[z]} {change:+.3f}{' of ' + name if name else ''}"
        for name, changes in zip(names, shifts, strict=True)
        for z, change in zip(model.elements, changes, strict=True)
        if change
    )
    return (
        f"energies were off by constants of the elements, which the run was too short to learn; the energies of atoms with "
        f"neighbours change by {', '.join(shown)} eV (least squares): RMSE of {len(found.left)} training structures "
        f"{quantity(MEV * rms(found.left), 'meV/atom', 4)} before, {quantity(MEV * rms(found.others), 'meV/atom', 4)} now"
    )


def per_atom(model: Potential, labels: Labels) -> tuple[Array, Array]:
    """Parts [S, rows of E0s] of atoms with neighbours, by element, and what a model leaves of energies per atom [S], eV."""
    sizes = labels.counts.sum(axis=1)
    return labels.bound / sizes[:, None], (labels.rest - labels.counts @ model.reference.e0.cpu().numpy()) / sizes


def rms(values: Array) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) > 0 else 0.0


def fit(composition: Array, values: Array) -> tuple[Array, Array]:
    """Contributions [elements] of elements to values [S] by least squares, and what is left of each value without it in the fit:
    all of one that alone has an element.

    Args:
        composition: [S, elements]; combinations of elements that it does not tell apart stay zero.
        values: [S].
    """
    u, s, vt = np.linalg.svd(composition, full_matrices=False)
    u, s, vt = (part[..., s > RESOLVED * s.max(initial=0.0)] for part in (u, s, vt.T))
    left = values - u @ (u.T @ values)
    free = 1.0 - np.square(u).sum(axis=1)
    return vt @ ((u.T @ values) / s), np.divide(left, free, out=values.copy(), where=free > 1e-9)
