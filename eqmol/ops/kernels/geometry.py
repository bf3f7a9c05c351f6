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

    def write(self, vectors: Tensor, edges: TabulatedEdges) -> bool:
        """Write what vectors [E, 3] are to the first E of some edges; False if one is shorter than the first node."""
        vectors, number = vectors.contiguous(), len(vectors)
        below = vectors.new_empty(-(-number // PART))
        given = {"vectors": vectors, "constants": self._constants}
        given |= {"harmonics": edges.harmonics, "fraction": edges.fraction, "below": below}
        sizes, row = (number, PART, self._last), edges.indices[2]
        self._kernels[0](sizes, (row,), given, vectors, range(len(below) + 1))
        return not any(below.tolist())

    def slopes(self, vectors: Tensor, by_harmonics: Tensor, by_fraction: Tensor) -> Tensor:
        """Derivatives by the vectors [E, 3], of at least so many by harmonics and fractions."""
        vectors, number = vectors.contiguous(), len(vectors)
        result = torch.empty_like(vectors)
        given = {"vectors": vectors, "constants": self._constants, "by_harmonics": by_harmonics}
        given |= {"by_fraction": by_fraction, "by_vectors": result}
        self._kernels[1]((number, PART, 0), (), given, vectors, range(-(-number // PART) + 1))
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
