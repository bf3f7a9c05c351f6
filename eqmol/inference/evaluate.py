"""From structures to predictions as NumPy arrays, for any predictor."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import ase
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.errors import InputError, at
from eqmol.graph import AtomGraph, NeighborList, check_numbers, collate, from_atoms
from eqmol.graph.contacts import SHORTEST, CloseContacts
from eqmol.graph.geometric import Batch
from eqmol.graph.targets import MOLECULAR, Target
from eqmol.inference.std import Std
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.threads import alone


def close_contacts(model: Predictor, mode: str = "stop") -> CloseContacts:
    """The guard for structures that a model predicts.

    Args:
        model: gives the shortest distances of its training set, where it knows them.
        mode: see :class:`eqmol.graph.contacts.CloseContacts`.
    """
    repulsion = model.repulsion if isinstance(model, Potential) else None
    meant = repulsion is not None and not repulsion.beside_data
    return CloseContacts(model.elements, model.aux.get(SHORTEST), meant, mode)


def graph_of(
    model: Predictor,
    atoms: ase.Atoms,
    source: str = "",
    neighbors: NeighborList | None = None,
    contacts: CloseContacts | None = None,
) -> AtomGraph:
    """The graph of a structure for a model.

    Args:
        model: gives cutoff and elements.
        atoms: without labels.
        source: where the structure comes from, for messages.
        neighbors: a list to reuse.
        contacts: of :func:`close_contacts`; None accepts all distances.

    Raises:
        InputError: an element that the model has not seen, or a structure that has no graph.
    """
    _check_elements(model, atoms, source)
    with alone():  # what is there to do is too little for torch's threads
        return from_atoms(atoms, model.cutoff, source=source, neighbors=neighbors, contacts=contacts)


def evaluate_graphs(model: Predictor, graphs: Sequence[AtomGraph], std: Std | None = None) -> list[dict[str, Any]]:
    """Predict a batch of graphs.

    Args:
        model: in evaluation mode.
        graphs: at least one.
        std: of :func:`eqmol.inference.std.std_of`; None for predictions without.

    Returns:
        For each structure, of a potential: ``energy`` (eV, float), ``energies`` [N] (eV), ``forces`` [N, 3] (eV/Å) and, if it
        is periodic in three directions, ``stress`` [3, 3] (eV/Å³); and each property (float, in the unit of its target), atomic
        ones as [N], vectors as [3], tensors as [3, 3], and of dipole moments also ``charges`` [N] (e); of a potential without
        those of molecules if it is periodic; with ``std`` also ``energy_std`` (eV, float), ``energies_std`` [N] (eV) and
        ``forces_std`` (eV/Å, of each component), [N] or, if exact, [N, 3]. Float64 NumPy.

    Raises:
        InputError: a result that is not finite.
    """
    device = next(model.parameters()).device
    batch = collate(graphs) if len(graphs) > 1 else graphs[0]  # a step of dynamics is spared the copying
    if batch.pos.device != device:
        batch = batch.to(device)
    # whoever has tables divides the work itself
    with alone() if model.backbone.table_nodes is not None and device.type == "cpu" else nullcontext():
        output = _output(model, batch, std)
    values = {name: tensor.cpu().double().numpy() for name, tensor in output.items()}
    results, begin = [], 0
    for number, graph in enumerate(graphs):
        atoms = slice(begin, begin := begin + len(graph.pos))
        energies = _energies(values, number, atoms, graph) if isinstance(model, Potential) else {}
        results.append(energies | _properties(values, model.targets, number, atoms, graph))
    return results


def _output(model: Predictor, batch: AtomGraph | Batch, std: Std | None) -> dict[str, Tensor]:
    """What a model predicts, and with ``std`` how sure it is."""
    output: dict[str, Tensor]
    if not isinstance(model, Potential):
        return model(batch)
    stress = model.conservative and bool(batch.pbc.all(-1).any())
    if std is None:
        output = model(batch, forces=True, stress=stress)
    else:
        output = model(batch, forces=True, stress=stress, last_layer=True)
        output |= std(model, batch, output.pop("last_layer"))
    return output


def _energies(values: Mapping[str, NDArray[np.float64]], number: int, atoms: slice, graph: AtomGraph) -> dict[str, Any]:
    """What a potential says of one structure of a batch."""
    result = {
        "energy": float(values["energy"][number]),
        "energies": values["energies"][atoms],
        "forces": values["forces"][atoms],
    }
    if "stress" in values and bool(graph.pbc.all()):
        result["stress"] = values["stress"][number]
    if "energy_std" in values:
        result["energy_std"] = float(values["energy_std"][number])
    result |= {name: values[name][atoms] for name in ("energies_std", "forces_std") if name in values}
    _check_result(result, graph)
    return result


def _properties(
    values: Mapping[str, NDArray[np.float64]],
    targets: Mapping[str, Target],
    number: int,
    atoms: slice,
    graph: AtomGraph,
) -> dict[str, Any]:
    """The properties of one structure of a batch."""
    periodic = bool(graph.pbc.any())
    result: dict[str, Any] = {}
    for name, target in targets.items():
        if periodic and target.kind in MOLECULAR:
            continue
        value = values[name][atoms if target.is_atomic else number]
        if not np.isfinite(value).all():
            raise InputError(f"{at(graph.source)}{name} is not finite; the structure is unlike what the model knows")
        result[name] = value if value.ndim else float(value)
    for name in ("dipole", "charges"):  # of which a dipole moment is made
        if name in values and name not in targets and not periodic:
            result[name] = values[name][atoms if name == "charges" else number]
    return result


def _check_elements(model: Predictor, atoms: ase.Atoms, source: str) -> None:
    numbers = check_numbers(atoms.numbers, source)
    unseen = set(np.flatnonzero(np.bincount(numbers)).tolist()) - set(model.elements)
    if unseen:
        index = int(np.isin(numbers, list(unseen)).argmax())
        raise model.unknown_element(f"{at(source)}atom {index} ({ase.data.chemical_symbols[numbers[index]]})")


def _check_result(result: Mapping[str, Any], graph: AtomGraph) -> None:
    finite: NDArray[np.bool_] = np.isfinite(result["forces"]).all(axis=1) & np.isfinite(result["energies"])
    if finite.all() and np.isfinite(result["energy"]):
        return
    culprit = "the energy"
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        symbol = ase.data.chemical_symbols[int(graph.atomic_numbers[index])]
        culprit = f"the energy or force of atom {index} ({symbol})"
    raise InputError(
        f"{at(graph.source)}{culprit} is not finite; atoms are too close to each other, or "
        f"the structure is far outside the training data"
    )


def second_derivatives(model: Potential, graph: AtomGraph, indices: Sequence[int]) -> NDArray[np.float64]:
    """Rows of the Hessian, one backward pass each.

    Args:
        model: in float64, of conservative forces; it is set to training mode.
        graph: of one structure.
        indices: atoms whose rows are wanted.

    Returns:
        [3 rows, N, 3], eV/Å².
    """
    model.training = True  # forces with a graph of their own; the parts stay as they are for prediction
    graph = graph.to(next(model.parameters()).device)
    graph.pos.requires_grad_()
    forces = model(graph)["forces"][list(indices)].flatten()
    found = np.empty((len(forces), *graph.pos.shape))
    for row, force in zip(found, forces, strict=True):
        (gradient,) = torch.autograd.grad(force, graph.pos, retain_graph=True, materialize_grads=True)
        row[:] = -gradient.cpu().numpy()
    if model.dispersion is not None:
        structure = (graph.atomic_numbers, graph.pos.detach(), graph.cell[0], graph.pbc[0])
        whole = model.dispersion.hessian(*(part.cpu().numpy() for part in structure))
        found += whole.reshape(len(graph.pos), 3, *graph.pos.shape)[list(indices)].reshape(found.shape)
    return found
