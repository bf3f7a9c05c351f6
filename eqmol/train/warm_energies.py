"""Constants of the elements of a run that starts from a model, whose labels may have another level of theory.

Total energies of two levels of theory differ by up to thousands of eV per atom, but nearly all of it is a constant of each
element. So the E0s are replaced, and the network stays: elements with an energy in the data (isolated atoms, or given) take it,
others are moved by least squares of what the model leaves of the labels. Isolated atoms and E0s that were fitted to total
energies differ by the binding energy; where that is the case the constant binding energy of atoms with neighbours
(:class:`eqmol.models.reference.BindingEnergy`) takes up the difference. Contributions of elements to properties, and the means of
intensive ones, are fitted in the same way.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from eqmol.checkpoint.warm_start import WarmStart
from eqmol.data.atomic_energies import KEEP, SAME_ATOM, FreeAtom
from eqmol.data.datamodule import GraphSets
from eqmol.data.loader import Limits, fill
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, collate, edge_vectors, keys
from eqmol.graph.targets import SUMS, Target
from eqmol.models import Potential, Properties
from eqmol.models.reference import BindingEnergy
from eqmol.train.start import BATCH_ATOMS, RESOLVED
from eqmol.units import MEV, quantity

#: Training structures that the old model is compared with.
COMPARED = 200
#: eV per atom. Levels of theory differ by less in their binding energies (local density approximation: below 1); what is more
#: comes from E0s of another kind: isolated atoms on one side, fitted ones on the other.
OTHER_KIND = 1.0
#: eV per atom; a model that is farther off than the strongest bonds knows another level of theory.
OTHER_LEVEL = 10.0


class Labels(NamedTuple):
    """Energies of structures, and what a model's network says of them.

    Attributes:
        counts: [S, rows of E0s] atoms of each structure, see :meth:`Potential.rows`.
        bound: [S, rows of E0s] the same of atoms with neighbours, see :class:`BindingEnergy`.
        rest: [S] labels less what the network says, eV: Σ E0 if the model is perfect.
    """

    counts: NDArray[np.float64]
    bound: NDArray[np.float64]
    rest: NDArray[np.float64]

    @classmethod
    def none(cls, rows: int) -> "Labels":
        """Labels of no structure."""
        return cls(np.zeros((0, rows)), np.zeros((0, rows)), np.zeros(0))

    @classmethod
    def joined(cls, parts: Iterable["Labels"]) -> "Labels":
        """One after another."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def settle(data: GraphSets, warm: WarmStart) -> tuple[dict[str, Any], RenderableType | None]:
    """Choose the constants of the elements of a run that starts from a model.

    Args:
        data: has the kind of labels that the model predicts.
        warm: the model, with all elements of the data.

    Returns:
        Statistics of the run; what was done, and how far off the start is.

    Raises:
        InputError: energies that do not belong to the labels.
    """
    if isinstance(warm.model, Potential):
        return _settle_energies(data, warm.model, warm)
    assert isinstance(warm.model, Properties)
    return _settle_properties(data, warm.model, warm)


def _settle_energies(data: GraphSets, model: Potential, warm: WarmStart) -> tuple[dict[str, Any], str]:
    """As :func:`settle`; the atomic energies are shown in the tables of the data, whose statistics are taken anew with them."""
    statistics = warm.statistics
    elements = model.elements
    before = {z: e for z, e in zip(elements, statistics["e0"], strict=True) if z not in warm.copied}
    fixed = {z: atom for z, atom in data.known_energies().items() if z in elements}
    if data.e0 == KEEP:
        fixed |= {z: FreeAtom(energy, f"{warm.path} (kept)") for z, energy in before.items()}
    labels = compare(model, data.representatives(COMPARED))
    e0, fitted, undetermined = _fit(labels, elements, before, fixed)
    present = data.statistics()["elements"]
    sources = {z: "kept: without energies" if z in present else "kept: not in the training data" for z in elements}
    sources |= dict.fromkeys(fitted, "least squares of what the model leaves")
    data.take_energies({z: FreeAtom(float(e), sources[z]) for z, e in zip(elements, e0, strict=True)} | fixed, before)
    statistics["e0"] = [float(e) for e in e0]
    if len(labels.rest) == 0:
        return statistics, "without energies in the training data, energies start as the model has them"
    sizes = labels.counts.sum(axis=1)
    left = labels.rest - labels.counts @ e0
    offset = float(np.median(left / sizes))
    words = ""
    if undetermined:
        words = (
            f"; the compositions leave {undetermined} combination(s) of atomic energies undetermined, which stay as near as "
            "possible to the old ones: give isolated atoms if other compositions or dissociation matter"
        )
    if data.e0 == KEEP and abs(offset) > OTHER_LEVEL and data.implausible == "stop":
        raise InputError(
            f"data.e0=keep, but the energies of the training data are {offset:.1f} eV per atom (median) away from those of "
            f"{warm.path}, as of another level of theory or in another unit; use data.e0=fit, or train nevertheless with "
            "data.implausible=warn"
        )
    if data.e0 != KEEP and abs(offset) > OTHER_KIND:
        shift = np.linalg.lstsq(labels.bound, left, rcond=RESOLVED)[0]
        left = left - labels.bound @ shift
        old = statistics["start"].get("binding") or [0.0] * len(elements)
        statistics["start"] |= {"binding": [float(b + s) for b, s in zip(old, shift, strict=True)]}
        shown = ", ".join(f"{chemical_symbols[z]} {s:+.3f}" for z, s in zip(elements, shift, strict=True) if s)
        words += (
            f"; the model is {offset:+.2f} eV per atom off with these E0s, as isolated atoms and fitted E0s differ by the binding "
            f"energy, so the binding of atoms with neighbours changes by {shown} eV"
        )
    error = MEV * float(np.sqrt(np.mean(np.square(left / sizes))))
    return (
        statistics,
        f"energies of {len(left)} training frames start with an RMSE of {quantity(error, 'meV/atom', 4)}{words}",
    )


@torch.no_grad()
def _settle_properties(data: GraphSets, model: Properties, warm: WarmStart) -> tuple[dict[str, Any], Table | None]:
    """As :func:`settle`: contributions of elements and means of what the model leaves of the labels; nothing with ``keep``."""
    statistics, elements = warm.statistics, model.elements
    missing = [name for name in data.required if name not in model.targets]
    if missing:
        raise InputError(
            f"init_from={warm.path} predicts {', '.join(model.targets)}, but {', '.join(missing)} is to be trained on; choose "
            "task.target among the model's"
        )
    if data.e0 == KEEP and not warm.copied:
        return statistics, None
    table = Table("target", "constant", "before", "now", "from", title="constants of the targets")
    for column in table.columns[2:4]:
        column.justify = "right"
    graphs = data.representatives(COMPARED)
    outputs = [model(graph) for graph in graphs]
    statistics["properties"] = {name: dict(entry) for name, entry in statistics["properties"].items()}
    for name, target in model.targets.items():
        entry = statistics["properties"][name]
        pairs = [_left(model, target, *pair) for pair in zip(graphs, outputs, strict=True) if target.field in pair[0]]
        counts, left = (
            (np.concatenate(parts) for parts in zip(*pairs, strict=True)) if pairs else (np.zeros((0, 0)),) * 2
        )
        if target.kind not in (*SUMS, "intensive") or len(left) == 0:
            continue
        if target.kind == "intensive":
            if data.e0 != KEEP:
                before, entry["mean"] = entry["mean"], entry["mean"] + float(left.mean())
                table.add_row(name, "mean", f"{before:.6f}", f"{entry['mean']:.6f}", "mean of what the model leaves")
            continue
        known = {z: e for z, e in zip(elements, entry["e0"], strict=True) if z not in warm.copied}
        fixed = {z: FreeAtom(e, "kept") for z, e in known.items()} if data.e0 == KEEP else {}
        e0, fitted, _ = _fit(Labels(counts, counts, left + counts @ np.array(entry["e0"])), elements, known, fixed)
        entry["e0"] = e0.tolist()
        for z, now in zip(elements, entry["e0"], strict=True):
            source = "least squares of what the model leaves" if z in fitted else "kept"
            table.add_row(name, chemical_symbols[z], f"{known[z]:.6f}" if z in known else "new", f"{now:.6f}", source)
    return statistics, table if table.row_count else None


def _left(
    model: Properties, target: Target, graph: AtomGraph, output: Mapping[str, torch.Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the atoms of each element [n, elements] and what the model leaves of the labels [n] of a structure or its atoms; of
    tensors a third of the trace; nothing without a label.
    """
    kinds = torch.eye(len(model.elements), dtype=torch.float64)[model.species(graph)]
    left = graph[target.field] - output[target.name]
    left = left.diagonal(dim1=1, dim2=2).mean(1) if target.kind == "tensor" else left
    known = left.reshape(len(left), -1).isfinite().all(dim=1)
    counts = kinds if target.is_atomic else kinds.sum(0, keepdim=True)
    return counts[known].numpy(), left[known].numpy()


def show(data: GraphSets, statistics: Mapping[str, Any], source: str) -> None:
    """Show the atomic energies of given statistics, where they are not those of the data.

    Raises:
        InputError: the total energies are implausible with them.
    """
    if "heads" in statistics:  # each shows its own
        return
    known = dict(zip(statistics.get("elements", ()), statistics.get("e0", ()), strict=False))
    measured = data.statistics()
    own = dict(zip(measured["elements"], measured.get("e0", ()), strict=False))
    if known and own and any(abs(known.get(z, energy) - energy) > SAME_ATOM for z, energy in own.items()):
        kept = {z: FreeAtom(energy, source) for z, energy in (own | known).items()}
        data.take_energies(kept, {})


@torch.no_grad()
def compare(model: Potential, graphs: Sequence[AtomGraph]) -> Labels:
    """Compare a model, in evaluation mode, with the energies of structures; those without one do not count."""
    device = model.reference.e0.device
    labelled = [graph for graph in graphs if keys.ENERGY in graph and bool(graph.energy.isfinite())]
    sizes = np.array([graph.num_nodes for graph in labelled], np.int64)
    parts = [Labels.none(len(model.reference.e0))]
    for part in fill(range(len(labelled)), len(labelled), Limits(sizes, max_atoms=BATCH_ATOMS)):
        batch = collate([labelled[i] for i in part]).to(device)
        parts.append(labels_of(model, batch, model(batch, forces=False)["energy"]))
    return Labels.joined(parts)


@torch.no_grad()
def labels_of(model: Potential, batch: Any, energies: Tensor) -> Labels:
    """Compare energies [G] that a model predicts of a batch with its labels; those without one do not count."""
    rows, number = model.rows(batch), len(model.reference.e0)
    lengths = torch.linalg.vector_norm(edge_vectors(batch), dim=-1)
    one = BindingEnergy([1.0] * number, model.cutoff).to(lengths.device)
    kinds = torch.eye(number, dtype=torch.float64, device=lengths.device)[rows]
    near = one(lengths, rows, batch.edge_index[1])
    empty = kinds.new_zeros(len(energies), number)
    counts, bound = (empty.index_add(0, batch.batch, x) for x in (kinds, kinds * near[:, None]))
    rest = batch.energy - (energies - counts @ model.reference.e0)
    known = rest.isfinite()
    return Labels(*(tensor[known].cpu().numpy() for tensor in (counts, bound, rest)))


def _fit(
    labels: Labels, elements: Sequence[int], before: Mapping[int, float], fixed: Mapping[int, FreeAtom]
) -> tuple[NDArray[np.float64], list[int], int]:
    """Return the energy of each element (eV), the elements whose energy was fitted, and how many combinations of them are
    undetermined.

    First the new elements alone take what is left, then all that are not fixed: where compositions leave combinations
    undetermined, old elements stay as near as possible to what they had.
    """
    e0 = np.array([fixed[z].energy if z in fixed else before.get(z, 0.0) for z in elements])
    present = labels.counts.sum(axis=0) > 0
    fitted = [i for i, z in enumerate(elements) if z not in fixed and present[i]]
    new = [i for i in fitted if elements[i] not in before]
    for columns in filter(None, (new, fitted)):
        left = labels.rest - labels.counts @ e0
        e0[columns] += np.linalg.lstsq(labels.counts[:, columns], left, rcond=None)[0]
    rank = int(np.linalg.matrix_rank(labels.counts[:, fitted])) if fitted else 0
    return e0, [elements[i] for i in fitted], len(fitted) - rank
