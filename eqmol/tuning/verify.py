"""Verification at first use: a model's algorithms against the reference, on a few structures of the first batch.

The check costs one small evaluation by each, once per process and model.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqmol.errors import VerificationError
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.ops import kernels
from eqmol.ops.contract import EdgeProduct, TensorProduct
from eqmol.tuning.excerpt import excerpt
from eqmol.tuning.measure import needing_gradients, tensors
from eqmol.tuning.operations import (
    Calls,
    backend_of,
    evaluate,
    frozen,
    is_reference,
    operations,
    record,
    reference,
    replace,
)
from eqmol.units import DEBYE

#: Largest difference relative to the largest value. Rounding stays below a hundredth of it in float32, and far below in float64.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-4}
CHARGE = 0.1  #: e, the size of charges in molecules, and of dipole moments of arms of 1 Å
#: Of what is compared of a potential: energies per atom, forces, and stress times volume.
UNITS = {"energies": "eV", "forces": "eV/Å", "virial": "eV"}
_verified: set[Hashable] = set()


@dataclass(frozen=True)
class Difference:
    """How far a result is from what it should be.

    Attributes:
        quantity: what is compared, such as "forces".
        largest: the largest absolute difference.
        tolerance: how large it may be.
        unit: of both; may be empty.
    """

    quantity: str
    largest: float
    tolerance: float
    unit: str = ""

    @property
    def acceptable(self) -> bool:
        """Whether it is rounding; NaN is not."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.quantity} by up to {self.largest:.2g}{unit} (tolerance {self.tolerance:.2g}{unit})"


def verify(model: Predictor, graph: Any) -> list[Difference]:
    """Compare a model with itself computed by the reference algorithms; neither its mode nor its gradients are touched.

    Args:
        model: in any mode.
        graph: a batch on the model's device, of which a few structures are taken.

    Returns:
        The differences; none if there is nothing to compare: every algorithm is the reference and none is compiled, the batch
        has no edges, this model was verified before, or the reference's results are not finite.

    Raises:
        VerificationError: a difference is above its tolerance.
    """
    device = next(model.parameters()).device
    suspects = {name: op for name, op in operations(model).items() if not is_reference(op, device, model.dtype)}
    identity = _identity(model, suspects)
    if not suspects or graph.num_edges == 0 or identity in _verified:
        return []
    few, copy, judge = excerpt(graph), frozen(model), frozen(model)
    judge.backbone.tabulate(None)
    replace(judge, {name: reference(operation, model) for name, operation in suspects.items()})
    differences = _compare(copy, judge, few)
    if model.training:
        differences += _compare_slopes(copy, judge, few, [n for n, op in suspects.items() if _is_compiled(model, op)])
    if not all(difference.acceptable for difference in differences):
        raise VerificationError(
            f"backend {_names(suspects)} disagrees with the reference on {few.num_nodes} atoms and {few.num_edges} edges: "
            f"{', '.join(map(str, differences))}; {_blame(copy, judge, few, list(suspects))}. Its results would be wrong; "
            f"use {_remedy(model, suspects)}, or switch this check off by verify=off (train.py), --verify off (predict.py) or "
            f"verify=False"
        )
    if differences:
        _verified.add(identity)
    return differences


def _compare(model: Predictor, judge: Predictor, graph: Any) -> list[Difference]:
    """Differences of all results; of a potential those of energies, forces and, for periodic structures, virials.

    The scale of a quantity is its largest value, but at least what the unit of the network's output makes of it, or how much a
    property varies: in a perfect crystal all forces vanish, in methane the dipole moment. There is nothing to compare with where
    the judge's own results are not finite, which those who use them say.
    """
    tolerance = TOLERANCES[model.dtype]
    with torch.inference_mode(False):
        if not isinstance(judge, Potential):
            results, expected = model(graph), judge(graph)
            least = {name: entry["spread"] for name, entry in judge.recipe.get("statistics", {}).items()}
            least = {"dipole": least.get("mu", CHARGE / DEBYE), "charges": CHARGE} | least
            scales = {name: max(float(value.abs().max()), least.get(name, 0.0)) for name, value in expected.items()}
        else:
            stress = judge.conservative and bool(graph.pbc.all(-1).any())
            results, expected = (m(graph, forces=True, stress=stress) for m in (model, judge))
            e0 = judge.reference.e0.index_select(0, judge.rows(graph))
            unit = float(judge.reference.scale)
            floors = {"energies": unit, "forces": unit, "virial": unit * graph.num_nodes / len(graph.cell)}
            sizes = {
                name: (expected[name] - (e0 if name == "energies" else 0.0)) for name in floors.keys() & expected.keys()
            }
            scales = {name: max(float(sizes[name].abs().max()), floors[name]) for name in floors if name in sizes}
    if not all(bool(expected[name].isfinite().all()) for name in scales):
        return []
    errors = {name: float((results[name] - expected[name]).abs().max()) for name in scales}
    return [Difference(name, errors[name], tolerance * scale, UNITS.get(name, "")) for name, scale in scales.items()]


def _compare_slopes(model: Predictor, judge: Predictor, graph: Any, names: list[str]) -> list[Difference]:
    """Relative differences of what compiled operations give the training on forces, on the inputs of the reference."""
    records = record(judge, graph) if names else {}
    differences = []
    for name in names:
        found, expected = (_second_slopes(operations(m)[name], records[name]) for m in (model, judge))
        errors = [_relative(a, b) for a, b in zip(found, expected, strict=True) if bool(b.isfinite().all())]
        largest = math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)
        differences.append(Difference(f"derivatives of {name}", largest, TOLERANCES[model.dtype]))
    return differences


def _blame(model: Predictor, judge: Predictor, graph: Any, suspects: list[str]) -> str:
    """Say which operations differ on the inputs that they get in the reference."""
    records = record(judge, graph)
    guilty = []
    for name in suspects:
        operation = operations(model)[name]
        expected = _values(reference(operation, model), records[name])
        found = _values(operation, records[name])
        errors = [_relative(a, b) for a, b in zip(found, expected, strict=True)]
        if errors and not max(errors) <= TOLERANCES[model.dtype]:
            guilty.append(f"{name} ({type(operation).__name__}, relative error {max(errors):.2g})")
    return f"the difference comes from {', '.join(guilty)}" if guilty else "no single operation differs that much"


def _values(operation: TensorProduct, entry: Calls) -> list[Tensor]:
    """Results of the recorded calls and the derivatives of a fixed mixture of them."""
    with torch.inference_mode(False), torch.enable_grad():
        vectors = None if entry.vectors is None else entry.vectors.detach().requires_grad_()
        geometry = operation.geometry(vectors) if isinstance(operation, EdgeProduct) and vectors is not None else None
        outputs = tensors(evaluate(operation, entry, geometry))
        mixture = _mixture(outputs)
        leaves = [leaf for leaf in tensors((entry.calls, vectors)) if leaf.requires_grad]
        if not leaves or not mixture.requires_grad:
            return [output.detach() for output in outputs]
        slopes = torch.autograd.grad(mixture, leaves, materialize_grads=True)
    return [value.detach() for value in (*outputs, *slopes)]


def _second_slopes(operation: TensorProduct, entry: Calls) -> list[Tensor]:
    """Derivatives with respect to all inputs of a mixture of the results and of their derivatives along the positions, if any."""
    with torch.inference_mode(False), torch.enable_grad():
        vectors = None if entry.vectors is None else entry.vectors.detach().requires_grad_()
        geometry = operation.geometry(vectors) if isinstance(operation, EdgeProduct) and vectors is not None else None
        every = [leaf for leaf in tensors((entry.calls, vectors)) if leaf.is_floating_point()]
        moving = [leaf for leaf in every if leaf.requires_grad]
        with needing_gradients([leaf for leaf in every if not leaf.requires_grad]):
            mixture = _mixture(tensors(evaluate(operation, entry, geometry)))
            if moving:  # not in a model of properties
                first = torch.autograd.grad(mixture, moving, create_graph=True, materialize_grads=True)
                mixture = mixture + _mixture(first)
            slopes = torch.autograd.grad(mixture, every, materialize_grads=True)
    return [slope.detach() for slope in slopes]


def _mixture(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([(v * torch.linspace(0.5, 1.5, v.numel()).to(v).view_as(v)).sum() for v in values]).sum()


def _relative(value: Tensor, expected: Tensor) -> float:
    if value.numel() == 0:
        return 0.0
    difference, size = float((value - expected).abs().max()), float(expected.abs().max())
    return difference if math.isnan(difference) else difference / max(size, torch.finfo(value.dtype).tiny)


def _remedy(model: Predictor, suspects: Mapping[str, TensorProduct]) -> str:
    ways = ["backend=cg"] if any(backend_of(operation) != "cg" for operation in suspects.values()) else []
    ways += ["EQMOL_KERNELS=off"] if any(_is_compiled(model, operation) for operation in suspects.values()) else []
    return " and ".join(ways)


def _is_compiled(model: Predictor, operation: TensorProduct) -> bool:
    return kernels.apply(operation, next(model.parameters()).device, model.dtype)


def _names(suspects: Mapping[str, TensorProduct]) -> str:
    return ", ".join(dict.fromkeys(backend_of(operation) for operation in suspects.values()))


def _identity(model: Predictor, suspects: Mapping[str, TensorProduct]) -> Hashable:
    """What the model computes and how."""
    how = tuple((name, type(op), _is_compiled(model, op)) for name, op in suspects.items())
    total = sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())
    place = model.dtype, next(model.parameters()).device
    return repr(model.recipe), how, model.backbone.table_nodes, place, total
