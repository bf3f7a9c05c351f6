"""Constants that give an untrained model outputs of the size of its labels.

Networks whose parameters are standard normal return numbers of order one for inputs of order one. Inputs are not: at short bonds
Bessel functions are large, few neighbours act together, and powers raise both. So what a MACE-style model raises to powers is
measured on some training structures and divided by its size, layer by layer; then energies and forces are brought to the size of
the labels (compare Mishkin and Matas 2016, arXiv:1511.06422). The constants are arguments of the model, and stay with it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.data.loader import Limits, fill
from eqmol.graph import AtomGraph, collate, edge_vectors, keys
from eqmol.models import MACE, Potential
from eqmol.models.mace import MACELayer
from eqmol.models.predictor import Predictor
from eqmol.models.reference import BindingEnergy
from eqmol.tuning import use_kernels

#: Size of the first outputs beside that of the labels: errors begin little above those of no network at all.
BEGIN = 0.5
#: What one gain for energies and forces leaves of the smaller of them, if it can.
LEAST = 0.3
#: Significant digits of factors and of energies: so few that every algorithm and every number of processes finds the same.
FACTOR_DIGITS, ENERGY_DIGITS = 2, 4
#: Atoms that are evaluated together, unless one structure has more.
BATCH_ATOMS = 250
#: Compositions that vary by less than this part of themselves do not tell elements apart.
RESOLVED = 0.01
#: eV per atom, eV/Å; what varies by less varies by no more than the convergence of a calculation.
CONVERGED = 1e-6


def measure(model: Predictor, graphs: Sequence[AtomGraph]) -> dict[str, Any]:
    """Measure the constants of a model that was built without them.

    Args:
        model: untrained, on the CPU; it is changed.
        graphs: training structures with their labels.

    Returns:
        "message_size" of a :class:`eqmol.models.MACE`; "gain", "force_gain" and "binding" of a :class:`Potential`.
    """
    model.eval()
    use_kernels(model, "off")  # a few structures, before the run has said what it compiles
    sizes = np.array([graph.num_nodes for graph in graphs], np.int64)
    parts = fill(range(len(graphs)), len(graphs), Limits(sizes, max_atoms=BATCH_ATOMS))
    batches = [collate([graphs[i] for i in part]) for part in parts]
    constants: dict[str, Any] = {}
    if isinstance(model.backbone, MACE):
        constants["message_size"] = _message_sizes(model, model.backbone, batches)
    if isinstance(model, Potential):
        constants |= _outputs(model, batches, collate(list(graphs)))
    return constants


@torch.no_grad()
def _message_sizes(model: Predictor, backbone: MACE, batches: Sequence[Any]) -> list[float]:
    """Size of what enters the power of each layer, over the atoms with neighbours, when that of earlier layers is one.

    It is (mean |x|^2ν)^(1/2ν), ν the order of the power: what is raised to ν then has the mean square 1, also where few
    close neighbours stand out.
    """
    found = []
    for layer in backbone.layers:
        assert isinstance(layer, MACELayer)
        seen: list[Tensor] = []
        with layer.power.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0])):
            for batch in batches:
                backbone(edge_vectors(batch).to(model.dtype), model.species(batch), *batch.edge_index)
                seen[-1] = seen[-1][batch.edge_index[1].unique()].flatten()
        x = torch.cat(seen).double().abs()
        largest = float(x.max()) if len(x) > 0 else 0.0
        moment = 2 * layer.power.spec.order
        size = largest * float((x / largest).pow(moment).mean()) ** (1 / moment) if largest > 0 else 1.0
        found.append(_rounded(size, FACTOR_DIGITS))
        layer.message_scale /= found[-1]
    return found


def _outputs(model: Potential, batches: Sequence[Any], whole: Any) -> dict[str, Any]:
    """Gains from forces and from the spread of energies; then binding energies from what is left of the energies.

    One gain for energies and conservative forces cannot make both as large as their labels: see :func:`_gain`.
    """
    natoms, rows, number = whole.ptr.diff(), model.rows(whole), len(model.reference.e0)

    def per_atom(values: Tensor) -> NDArray[np.float64]:
        """Means [G, ...] over the atoms of each structure."""
        sums = values.new_zeros(len(natoms), *values.shape[1:]).index_add(0, whole.batch, values)
        return (sums.movedim(0, -1) / natoms).movedim(-1, 0).numpy()

    lengths = torch.linalg.vector_norm(edge_vectors(whole), dim=-1)
    bound = BindingEnergy([1.0] * number, model.cutoff)(lengths, rows, whole.edge_index[1])
    share = bound.new_zeros(len(bound), number).scatter(1, rows.unsqueeze(1), bound.unsqueeze(1))
    free = model.reference.e0.index_select(0, rows)
    energies = (whole.energy / natoms if keys.ENERGY in whole else torch.full(natoms.shape, torch.nan)).numpy()
    known = np.isfinite(energies)
    composition, energies = per_atom(share)[known], energies[known] - per_atom(free)[known]

    repulsion, model.repulsion = model.repulsion, None
    outputs = [model(batch) for batch in batches]
    model.repulsion = repulsion
    network = per_atom(torch.cat([output["energies"] for output in outputs]) - free)[known]
    from_energies = _ratio(_left(energies, composition), _left(network, composition))
    from_forces: list[float] = []
    if keys.FORCES in whole:
        counted = (
            whole.forces.isfinite() & ~(whole.fixed if keys.FIXED in whole else torch.zeros_like(bound).bool())[:, None]
        )
        predicted = torch.cat([output["forces"] for output in outputs])
        from_forces = _ratio(whole.forces[counted].numpy(), predicted[counted].numpy())
    model.gain = _gain(from_energies + from_forces if model.conservative else from_energies)
    force_gain = 1.0 if model.conservative else _gain(from_forces)

    sites = torch.cat([model(batch, forces=False)["energies"] for batch in batches]) - free
    total = share.sum(0)
    everywhere = sites.sum() / total.sum().clamp(min=CONVERGED)  # for elements that the sample lacks
    mean = torch.where(total > 0, share.T @ sites / total.clamp(min=CONVERGED), everywhere)
    left = energies - per_atom(sites)[known] + composition @ mean.numpy()
    fitted = [_rounded(value, ENERGY_DIGITS) for value in (_fit(left, composition) - mean.numpy()).tolist()]
    size = len(model.elements)
    binding = [fitted[i : i + size] for i in range(0, number, size)] if model.readout_heads else fitted
    return {"gain": model.gain, "force_gain": force_gain, "binding": binding}


def _left(values: NDArray[np.float64], composition: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a linear function of the composition leaves of values."""
    return values - composition @ _fit(values, composition)


def _fit(values: NDArray[np.float64], composition: NDArray[np.float64]) -> NDArray[np.float64]:
    """Contribution of each element, by least squares."""
    return np.linalg.lstsq(composition, values, rcond=RESOLVED)[0].astype(np.float64)


def _ratio(labels: NDArray[np.float64], predictions: NDArray[np.float64]) -> list[float]:
    """Factor that brings predictions to ``BEGIN`` of the labels, by root mean squares; nothing where one of them does not vary."""
    sizes = [float(np.sqrt(np.mean(np.square(values)))) if len(values) > 0 else 0.0 for values in (labels, predictions)]
    return [BEGIN * sizes[0] / sizes[1]] if min(sizes) > CONVERGED else []


def _gain(factors: list[float]) -> float:
    """Geometric mean of the factors that bring each output to ``BEGIN``, raised where it leaves one below ``LEAST``; 1 of nothing.

    It is raised no further than where outputs are as much too large as too small.
    """
    if not factors:
        return 1.0
    mean = float(np.exp(np.mean(np.log(factors))))
    return _rounded(min(max(mean, max(factors) * LEAST / BEGIN), mean / BEGIN), FACTOR_DIGITS)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}")
