"""What is compared: a case (shapes), and a method made ready to run on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqmol.ops.registry import can_run
from eqmol.ops.spec import Family, Operation, Spec

#: Rows of the output that are compared with the reference.
CHECKED_ROWS = 4


@dataclass(frozen=True)
class Case:
    """Shapes of one measurement.

    Attributes:
        name: what the command line selects by, for example ``product-2``.
        operation: which suite it belongs to.
        degree: highest degree of the features and, but for a power, of the filter.
        degree_out, order, channels, nodes, edges: as in :class:`eqmol.ops.spec.Spec`; 0 edges outside convolutions.
    """

    name: str
    operation: Operation
    degree: int
    degree_out: int
    nodes: int
    edges: int = 0
    order: int = 1
    channels: int = 64

    def spec(self, family: Family) -> Spec:
        """The function that eqmol computes for this case."""
        filter_degree = 0 if self.operation == "power" else self.degree
        return Spec(self.operation, family, "o3", self.degree, filter_degree, self.degree_out, self.order)


class Ready(NamedTuple):
    """A method on the inputs of a case.

    Attributes:
        function: forward evaluation.
        inputs: its differentiable arguments, all leaves; the gradients with respect to all of them are timed.
        weights: independent weights per channel of the function, per element for powers.
        check: own output -> (first rows in eqmol's layout, the float64 reference); None where the weights are no match.
        share: fraction of the rows that one call treats; times and memory are divided by it.
    """

    function: Callable[..., Tensor]
    inputs: list[Tensor]
    weights: int
    check: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    share: float = 1.0


def family_of(backend: str) -> Family:
    """The family with which a backend is measured: the largest that it can run."""
    return "coupled" if can_run(backend, "coupled") else "gaunt"


def leaves(*tensors: Tensor) -> list[Tensor]:
    """Contiguous copies that ask for gradients."""
    return [t.detach().clone().contiguous().requires_grad_() for t in tensors]


def normal(seed: int, *shape: int) -> Tensor:
    """Unit normal float32 numbers, the same in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
