"""Predictions for structures in memory, and their errors against labels."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from eqmol.checkpoint import prepare
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.electronic import StateGuard
from eqmol.inference.batches import batches
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Properties
from eqmol.models.predictor import Predictor

Frame = tuple[Atoms, dict[str, Any], str]  #: structure, labels, "path, frame 17"
PREFIX = "eqmol_"
PER_ATOM = ("forces", "charges")


def predict(
    atoms: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] | Predictor,
    *,
    batch_size: int = 16,
    backend: str | Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    verify: bool = True,
    close_contacts: str = "stop",
    electronic_state: str = "stop",
    kernels: str | None = None,
    radial_table: str | None = None,
) -> Any:
    """Predict energies and forces of structures.

    Args:
        atoms: one structure, or several.
        model: a model file or a model.
        batch_size: structures evaluated together; the results do not depend on it.
        backend, device, dtype, verify, kernels: see :func:`eqmol.load`; a backend is tuned and verified on the first batch.
        radial_table, close_contacts, electronic_state: see :class:`eqmol.Calculator`.

    Returns:
        For one structure a dict, for several a list of dicts: ``energy`` (eV), ``energies`` [N] (eV), ``forces`` [N, 3]
        (eV/Å) and, if it is periodic in three directions, ``stress`` [3, 3] (eV/Å³, +dE/dstrain/V); float64 NumPy.

    Raises:
        InputError: see :func:`eqmol.load`; an element that the model has not seen, atoms that are much too close,
            positions or results that are not finite.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} must be a positive integer")
    single = isinstance(atoms, Atoms)
    if not isinstance(atoms, Iterable) or isinstance(atoms, str | bytes | Mapping):
        raise InputError(f"predict takes ase.Atoms or several of them, not {type(atoms).__name__}")
    structures: list[Any] = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    for structure in structures:
        if not isinstance(structure, Atoms):
            raise InputError(f"predict takes ase.Atoms or several of them, not {type(structure).__name__}")
    sources = [""] if single else [f"structure {number}" for number in range(len(structures))]
    frames: list[Frame] = [(structure, {}, source) for structure, source in zip(structures, sources, strict=True)]
    potential = prepare(model, backend, device, dtype, verify, kernels, radial_table)
    states = StateGuard(potential.electronic_state, electronic_state)
    results = [result for _, result in evaluated(potential, frames, batch_size, close_contacts, states)]
    return results[0] if single else results


class Errors:
    """Mean absolute and root mean square errors of what has labels, summed frame by frame.

    Energies are compared per frame and per atom, forces and stress over all their components.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # quantity -> count, Σ|error|, Σ error²

    def add(self, result: Mapping[str, Any], labels: Mapping[str, Any], num_atoms: int) -> None:
        """Add one frame; labels without prediction and predictions without label are left out."""
        for label in labels.keys() & result.keys():
            error = np.ravel(result[label] - labels[label])
            self._add(label, error)
            if label == "energy":
                self._add("energy_per_atom", error / num_atoms)

    def _add(self, quantity: str, error: Any) -> None:
        sums = self._sums.setdefault(quantity, [0, 0.0, 0.0])
        sums[0] += error.size
        sums[1] += float(abs(error).sum())
        sums[2] += float((error**2).sum())

    def rows(self) -> Iterator[tuple[str, str, int, float, float]]:
        """Quantity, unit, number of compared values, MAE and RMSE in that unit."""
        units = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
        for quantity, unit in units.items():
            if quantity in self._sums:
                count, absolute, square = self._sums[quantity]
                yield quantity, unit, int(count), 1000 * absolute / count, 1000 * math.sqrt(square / count)

    def summary(self) -> dict[str, float]:
        """The errors under the names of a training run's ``metrics.json``."""
        names = {"meV": "mev", "meV/atom": "mev_per_atom", "meV/Å": "mev_per_a", "meV/Å³": "mev_per_a3"}
        summary: dict[str, float] = {}
        for quantity, unit, _, mae, rmse in self.rows():
            quantity = quantity.removesuffix("_per_atom")
            summary |= {f"{quantity}_mae_{names[unit]}": mae, f"{quantity}_rmse_{names[unit]}": rmse}
        return summary


def attach(atoms: Atoms, result: Mapping[str, Any], model: Predictor) -> None:
    """Write a model's predictions beside what the structure carries, in place of those of an earlier prediction."""
    targets = model.targets if isinstance(model, Properties) else {}
    per_atom = {*PER_ATOM, *(name for name, target in targets.items() if target.is_atomic)}
    for place in (atoms.info, atoms.arrays):
        for key in [key for key in place if key.startswith(PREFIX)]:
            del place[key]
    for name, value in result.items():
        if name in per_atom:
            atoms.arrays[PREFIX + name] = value
        elif name != "energies":
            atoms.info[PREFIX + name] = full_3x3_to_voigt_6_stress(value) if name == "stress" else value


def evaluated(
    model: Predictor, frames: Iterable[Frame], batch_size: int, close_contacts: str, states: StateGuard
) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """Each frame with its prediction, in order; holds one batch in memory."""
    contacts = guard_of(model, close_contacts)

    def graphs() -> Iterator[tuple[Frame, AtomGraph]]:
        for frame in frames:
            graph = graph_of(model, frame[0], frame[2], contacts=contacts)
            states.check(frame[0], frame[2])
            yield frame, graph

    for batch in batches(graphs(), batch_size):
        results = evaluate_graphs(model, [graph for _, graph in batch])
        yield from zip((frame for frame, _ in batch), results, strict=True)
