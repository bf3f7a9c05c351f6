"""Specs and random inputs shared by the tests of the contract."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eqmol.ops import RadialWeight, Spec
from eqmol.ops.contract import TensorProduct
from eqmol.ops.registry import candidates
from eqmol.so3.layout import dim
from tests import reference

AXES = torch.cat([torch.eye(3), -torch.eye(3)])


def spec_id(value: object) -> str:
    if isinstance(value, Spec):
        order = f"-order{value.order}" if value.operation == "power" else ""
        order += "" if value.order_max is None else f"-m{value.order_max}"
        degrees = f"{value.degree_in}{value.degree_filter}{value.degree_out}"
        return f"{value.operation}-{value.family}-{value.parity}-{degrees}{order}"
    return str(value)


def runnable(specs: list[Spec]) -> list[tuple[Spec, str]]:
    """Every spec with every algorithm that runs it."""
    return [(spec, name) for spec in specs for name in candidates(spec)]


PAIRS = [
    Spec(operation, family, parity, *degrees)
    for operation in ("convolution", "product")
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for degrees in ((1, 1, 1), (2, 3, 2), (1, 3, 3), (3, 2, 4), (0, 3, 2), (2, 0, 3), (3, 2, 0), (2, 4, 0), (0, 1, 0))
]
RESTRICTED = [
    Spec("convolution", "coupled", parity, *degrees, order_max=order_max)
    for parity in ("o3", "so3")
    for *degrees, order_max in ((2, 5, 3, 0), (3, 5, 2, 1), (3, 6, 3, 2))
]
PAIRS += RESTRICTED
POWERS = [
    Spec("power", family, parity, degree_in, 0, degree_out, order)
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for degree_in, degree_out, order in ((1, 1, 3), (3, 1, 3), (2, 2, 2), (1, 2, 1), (1, 1, 4), (0, 1, 3), (2, 0, 4))
]


@dataclass
class Case:
    """Inputs of one operation and the ways to evaluate it."""

    spec: Spec
    features: list[Tensor]
    weights: list[Tensor]
    vectors: Tensor
    senders: Tensor
    receivers: Tensor
    group: Tensor

    def evaluate(self, op: TensorProduct, features: list[Tensor], weights: list[Tensor], vectors: Tensor) -> Tensor:
        if self.spec.operation == "convolution":
            weight = RadialWeight(*weights)
            num = features[0].shape[0]
            return op(features[0], op.geometry(vectors), weight, self.senders, self.receivers, num)
        if self.spec.operation == "product":
            return op(*features, *weights)
        return op(*features, *weights, self.group)

    def run(self, op: TensorProduct) -> Tensor:
        return self.evaluate(op, self.features, self.weights, self.vectors)

    def reference(self) -> Tensor:
        if self.spec.operation == "convolution":
            num = self.features[0].shape[0]
            weight = RadialWeight(*self.weights)
            args = self.spec, self.features[0], self.vectors, weight, self.senders, self.receivers, num
            return reference.convolution(*args)
        if self.spec.operation == "product":
            return reference.product(self.spec, *self.features, self.weights[0].expand(len(self.features[0]), -1, -1))
        return reference.power(self.spec, self.features[0], self.weights[0], self.group)


def make_case(
    spec: Spec, nodes: int = 4, channels: int = 3, edges: int = 9, dtype: torch.dtype = torch.float64
) -> Case:
    """Random inputs; the first six edges lie exactly along the axes."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    x = normal(nodes, dim(spec.degree_in), channels)
    features = [x, normal(nodes, dim(spec.degree_filter), channels)] if spec.operation == "product" else [x]
    if spec.operation == "convolution":
        # not contiguous, as a rebased matrix is
        weights = [normal(edges, 2), normal(spec.num_weights, 2, channels).transpose(0, 1)]
    elif spec.operation == "product":
        weights = [normal(spec.num_weights, channels)]
    else:
        weights = [normal(3, spec.num_weights, channels)]
    vectors = torch.cat([1.7 * AXES.to(dtype), normal(max(edges - 6, 0), 3)])[:edges]
    receivers = torch.sort(torch.randint(max(nodes, 1), (edges,))).values
    return Case(
        spec, features, weights, vectors, torch.randint(max(nodes, 1), (edges,)), receivers, torch.arange(nodes) % 3
    )
