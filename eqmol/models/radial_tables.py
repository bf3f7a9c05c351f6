"""Radial networks on nodes of equal ratio, see :mod:`eqmol.ops.radial_table`.

They change faster the shorter an edge is, as n π r / r_c over r: with nodes of equal distance in the logarithm of the length the
error is about the same everywhere, and a third of the nodes do.

Shapes: n nodes, P pairs of elements (1 where the length alone counts), H hidden features.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from eqmol.nn import BesselBasis, RadialNetwork
from eqmol.ops.kernels.tabulated import packed
from eqmol.ops.radial_table import Places, RadialTable, hermite

#: Å; shorter edges are computed by the network.
FIRST = 0.5
#: Rows of a table whose weights are made at a time.
ROWS = 32
#: Numbers of a table's hidden features, and of its weights: without these, its compiled code is that of given weights.
MAX_SIZE = 1 << 26


class Grid(NamedTuple):
    """Nodes of equal ratio from FIRST to the cutoff.

    Attributes:
        cutoff: Å, of the last node.
        nodes: n.
        num_elements: of the pairs of elements that have tables of their own; 0: all share one.
    """

    cutoff: float
    nodes: int
    num_elements: int

    @property
    def step(self) -> float:
        """Between the logarithms of two nodes."""
        return math.log(self.cutoff / FIRST) / (self.nodes - 1)

    def places(self, lengths: Tensor, ends: tuple[Tensor, Tensor]) -> Places | None:
        """Where edges are, given lengths [E] in Å and elements of both ends; None if one is shorter than the first node."""
        if len(lengths) and not bool(lengths.detach().amin() >= FIRST):
            return None
        place = (lengths * (1 / FIRST)).clamp(max=self.cutoff / FIRST).log() * (1 / self.step)
        row = place.detach().long().clamp(max=self.nodes - 2)
        fraction = place - row
        return Places(row + self.first_rows(ends) if self.num_elements else row, fraction)

    def first_rows(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Of the tables of pairs of elements [E], given both."""
        return (ends[0] * self.num_elements + ends[1]) * (self.nodes - 1)

    def tabulate(self, basis: BesselBasis, network: RadialNetwork, compiled: bool = True) -> RadialTable | None:
        """A network on the nodes, made in float64, in its own precision; None if it would be too large.

        Without ``compiled``, or where they would be too many, it has no weights, which are most of it and only read by compiled
        code.
        """
        coefficients = 6 * self.pairs * self.nodes
        if coefficients * len(network.matrix) > MAX_SIZE:
            return None
        places = torch.arange(self.nodes, dtype=torch.float64, device=network.matrix.device)
        tables = []
        for pair in range(self.pairs):
            place, hidden, matrix = self._evaluate(basis, network, places, pair)
            first = jvp(hidden, place)
            second = jvp(first, place)
            tables.append(hermite(hidden, first, second).detach())
        hidden, matrix, dtype = torch.cat(tables), matrix.detach(), network.matrix.dtype
        weights = None
        if compiled and coefficients * matrix[0].numel() <= MAX_SIZE:
            # few rows at a time: float64 weights of all would need several times the memory of the table
            parts = (packed(torch.einsum("rdh,hwc->rdwc", rows, matrix).to(dtype)) for rows in hidden.split(ROWS))
            weights = torch.cat(list(parts))
        return RadialTable(hidden.to(dtype).contiguous(), matrix.to(dtype).contiguous(), weights)

    def error(
        self, basis: BesselBasis, network: RadialNetwork, table: RadialTable, shortest: Tensor | None = None
    ) -> tuple[float, float]:
        """Largest error of a float64 table's hidden features and slopes between nodes, relative to the root mean square of each.

        Args:
            basis, network: what the table is of.
            table: of float64.
            shortest: Å, of the lengths that training had [elements, elements], 0 where it had none; None: it had all.

        Returns:
            Over lengths that training had, from the shortest on, and over others.
        """
        node = torch.arange(self.nodes - 1, device=table.hidden.device)
        quarters = torch.tensor([0.25, 0.5], dtype=torch.float64, device=node.device)
        fraction = quarters.repeat(len(node)).requires_grad_()
        row = node.repeat_interleave(len(quarters))
        places = row + fraction.detach()
        lengths = FIRST * (self.step * places).exp()
        per_length = 1 / (self.step * lengths).unsqueeze(-1)
        errors = [0.0, 0.0]
        for pair in range(self.pairs):
            found = table.weight(Places(row + pair * (self.nodes - 1), fraction)).hidden
            place, expected, _ = self._evaluate(basis, network, places, pair)
            slopes = jvp(found, fraction) * per_length, jvp(expected, place) * per_length
            seen = lengths >= self._least(shortest, pair)
            for a, b in ((found, expected), slopes):
                own = ((a - b).abs().amax(1) / b.square().mean().sqrt()).detach()
                for kind, where in enumerate((seen, ~seen)):
                    errors[kind] = max(errors[kind], float(torch.where(where, own, 0).max()))
        return errors[0], errors[1]

    def _least(self, shortest: Tensor | None, pair: int) -> float:
        """Length from which on training had those of a pair of elements, Å."""
        if shortest is None:
            return 0.0
        own = shortest.flatten()[pair] if self.num_elements else shortest
        own = own[own > 0]
        return float(own.min()) if own.numel() else math.inf

    @property
    def pairs(self) -> int:
        """P."""
        return max(self.num_elements**2, 1)

    def _evaluate(
        self, basis: BesselBasis, network: RadialNetwork, places: Tensor, pair: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places among the nodes as a leaf, hidden features [n, H] and matrix of a pair of elements, in float64."""
        exact = copy.deepcopy(network).double().requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            place = places.clone().requires_grad_()
            lengths = FIRST * (self.step * place).exp()
            zero = torch.zeros(len(place), dtype=torch.int64, device=place.device)
            ends = zero + pair // max(self.num_elements, 1), zero + pair % max(self.num_elements, 1)
            return place, *exact(basis(lengths, ends), ends)


def jvp(values: Tensor, r: Tensor) -> Tensor:
    """Derivatives of values [n, H], each row a function of one entry of r [n]: a product with a vector, differentiated by it."""
    with torch.enable_grad():
        cotangent = torch.zeros_like(values, requires_grad=True)
        (slopes,) = torch.autograd.grad((values * cotangent).sum(), r, create_graph=True)
        (result,) = torch.autograd.grad(slopes.sum(), cotangent, create_graph=True)
    return result
