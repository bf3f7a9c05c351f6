"""Predictions for structures in memory, and their errors against labels."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.electronic import StateGuard
from eqmol.inference.batches import batches
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.inference.std import std_of
from eqmol.models.predictor import Predictor

Frame = tuple[Atoms, dict[str, Any], str]  #: structure, labels, "path, frame 17"
PREFIX = "eqmol_"
PER_ATOM = ("forces", "charges", "forces_std")


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
    uncertainty: str = "auto",
    head: str | None = None,
) -> Any:
    """Predict energies and forces of structures, or what else a model predicts.

    Args:
        atoms: one structure, or several.
        model: a model file or a model.
        batch_size: structures evaluated together; the results do not depend on it.
        backend, device, dtype, verify, kernels: see :func:`eqmol.load`; a backend is tuned and verified on the first batch.
        radial_table, close_contacts, electronic_state, uncertainty: see :class:`eqmol.Calculator`.

    Returns:
        For one structure a dict, for several a list of dicts: ``energy`` (eV), ``energies`` [N] (eV), ``forces`` [N, 3]
        (eV/Å) and, if it is periodic in three directions, ``stress`` [3, 3] (eV/Å³, +dE/dstrain/V), and properties by their
        names, see :func:`eqmol.inference.evaluate.evaluate_graphs`; float64 NumPy.

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
    potential = for_prediction(model, backend, device, dtype, verify, kernels, radial_table, head)
    states = StateGuard(potential.electronic_state, electronic_state)
    results = [result for _, result in evaluated(potential, frames, batch_size, close_contacts, states, uncertainty)]
    return results[0] if single else results


def attach(atoms: Atoms, result: Mapping[str, Any], model: Predictor) -> None:
    """Write a model's predictions beside what the structure carries, in place of those of an earlier prediction."""
    per_atom = {*PER_ATOM, *(name for name, target in model.targets.items() if target.is_atomic)}
    for place in (atoms.info, atoms.arrays):
        for key in [key for key in place if key.startswith(PREFIX)]:
            del place[key]
    for name, value in result.items():
        if name in per_atom:
            atoms.arrays[PREFIX + name] = value
        elif name not in ("energies", "energies_std"):
            atoms.info[PREFIX + name] = full_3x3_to_voigt_6_stress(value) if name == "stress" else value


def evaluated(
    model: Predictor,
    frames: Iterable[Frame],
    batch_size: int,
    close_contacts: str,
    states: StateGuard,
    uncertainty: str = "auto",
) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """Each frame with its prediction, in order; holds one batch in memory."""
    contacts = guard_of(model, close_contacts)
    std = std_of(model, uncertainty)

    def graphs() -> Iterator[tuple[Frame, AtomGraph]]:
        for frame in frames:
            graph = graph_of(model, frame[0], frame[2], contacts=contacts)
            states.check(frame[0], frame[2])
            yield frame, graph

    for batch in batches(graphs(), batch_size):
        results = evaluate_graphs(model, [graph for _, graph in batch], std)
        yield from zip((frame for frame, _ in batch), results, strict=True)
