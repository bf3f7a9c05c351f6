"""Edges as convolutions with tables take them, and the way back to derivatives by their vectors, in one kernel each.

Shapes: E edges, lm = (degree + 1)² harmonics.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eqmol.ops.contract import KernelMode
from eqmol.ops.kernels import cpp, library
from eqmol.ops.kernels.forms import check_indices
from eqmol.ops.kernels.library import Kernel
from eqmol.ops.kernels.programs import harmonics_program

if TYPE_CHECKING:
    from eqmol.ops.kernels.tabulated import TabulatedEdges

#: Edges of a part.
PART = 4096


class EdgeGeometry:
    """Harmonics of edges and their places among nodes of equal ratio.

    Args:
        kernels: of :func:`geometry_kernels`.
        first, cutoff: Å, of the first node and the last.
        step: between the logarithms of two nodes.
        last: the last row.
        dtype: of the tensors.
    """

    def __init__(
        self, kernels: tuple[Kernel, Kernel], first: float, cutoff: float, step: float, last: int, dtype: torch.dtype
    ) -> None:
        self._kernels, self._last = kernels, last
        self._constants = torch.tensor([1 / first, 1 / step, cutoff, cutoff / first], dtype=dtype)

    def write(self, vectors: Tensor, ends: tuple[Tensor, Tensor], nodes: int, edges: TabulatedEdges) -> bool:
        """Write what edges are, of vectors [E, 3], to the first E of some; False if one is shorter than the first node.

        Args:
            vectors: [E, 3].
            ends: senders and receivers [E].
            nodes: how many there are.
            edges: where to write; its indices may be the ends themselves.

        Raises:
            IndexError: an edge ends at no node.
        """
        vectors, number = vectors.contiguous(), len(vectors)
        refused = vectors.new_empty(-(-number // PART), 2)
        given = {"vectors": vectors, "constants": self._constants}
        given |= {"harmonics": edges.harmonics, "fraction": edges.fraction, "refused": refused}
        indices = ends[0].contiguous(), ends[1].contiguous(), *edges.indices
        self._kernels[0]((number, PART, self._last, nodes), indices, given, vectors, range(len(refused) + 1))
        short, astray = refused.sum(0).tolist()
        if astray:
            check_indices("sender", ends[0], nodes)
            check_indices("receiver", ends[1], nodes)
        return not short

    def slopes(self, vectors: Tensor, by_harmonics: Tensor, by_fraction: Tensor) -> Tensor:
        """Derivatives by the vectors [E, 3], of at least so many by harmonics and fractions."""
        vectors, number = vectors.contiguous(), len(vectors)
        result = torch.empty_like(vectors)
        given = {"vectors": vectors, "constants": self._constants, "by_harmonics": by_harmonics}
        given |= {"by_fraction": by_fraction, "by_vectors": result}
        self._kernels[1]((number, PART, 0, 0), (), given, vectors, range(-(-number // PART) + 1))
        return result


@lru_cache(maxsize=32)
def geometry_kernels(degree: int, dtype: torch.dtype, mode: KernelMode) -> tuple[Kernel, Kernel] | None:
    """The compiled values and derivatives, or None where they cannot be made."""
    if mode == "off":
        return None
    made = []
    for wanted in "gu":
        program = harmonics_program(degree, frozenset(wanted))
        kernel = library.load(*cpp.geometry_source(program, library.SCALARS[dtype], library.width(dtype)), mode)
        if kernel is None:
            return None
        made.append(kernel)
    return made[0], made[1]
