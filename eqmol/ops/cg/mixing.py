"""Mixing of channels and degrees by the 3j symbols: the reference.

Shapes: E edges, C and C' channels, W own weights, of which S belong to a pair of degrees (l1, l3).
"""

from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import HarmonicConvolution, Mixing, RadialWeight
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.directions import harmonics_of
from eqmol.so3.layout import degree_slice, dim


class CGMixing(Mixing):
    """Every own weight couples a pair of degrees by a small matrix of the edge, its 3j symbols with the harmonics."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        #: degrees (l1, l3), and their own weights, which lie side by side
        self.pairs: list[tuple[int, int, slice]] = []
        degrees = [own[:2] for own in spec.own_weights]
        for l1, l3 in sorted(set(degrees)):
            first = degrees.index((l1, l3))
            self.pairs.append((l1, l3, slice(first, first + degrees.count((l1, l3)))))
        for number, (l1, l3, own) in enumerate(self.pairs):
            self.add_table(f"couple{number}", _couple(spec, l1, l3, own))
        orders = [spec.own_factors.index((m, l1)) for l1, _, _, m in spec.own_weights]
        self.add_table("factor", np.array(orders))
        self.add_table("degree_in", np.array([l1 for l1, *_ in spec.own_weights]))

    @property
    def geometry_key(self) -> Hashable:
        return HarmonicConvolution, self.spec.degree_filter

    def geometry(self, vectors: Tensor) -> Tensor:
        """Harmonics [E, lm]."""
        return harmonics_of(vectors, self.spec.degree_filter)

    def message(self, x: Tensor, geometry: Tensor, factors: RadialWeight | None, weight: Tensor) -> Tensor:
        result: list[list[Tensor]] = [[] for _ in range(self.spec.degree_out + 1)]
        if factors is not None:
            own = factors.dense()
            is_shared = own.shape[1] == self.spec.degree_in + 1
            own = own.index_select(1, self.get_buffer("degree_in" if is_shared else "factor"))
        for number, (l1, l3, rows) in enumerate(self.pairs):
            table = self.get_buffer(f"couple{number}")
            matrices = (geometry @ table.flatten(1)).unflatten(1, table.shape[1:])
            coupled = torch.einsum("esab,eac->esbc", matrices, x[:, degree_slice(l1)])
            if factors is not None:
                coupled = coupled * own[:, rows].unsqueeze(2)
            result[l3].append(torch.einsum("esbc,scd->ebd", coupled, weight[rows]))
        return torch.cat([torch.stack(parts).sum(0) for parts in result], dim=1)


def _couple(spec: Spec, l1: int, l3: int, own: slice) -> np.ndarray:
    """Harmonics -> matrices of the own weights of a pair of degrees, [lm_filter, S, 2 l1 + 1, 2 l3 + 1]."""
    table = np.zeros((dim(spec.degree_filter), own.stop - own.start, 2 * l1 + 1, 2 * l3 + 1))
    for p, (a, l2, c) in enumerate(spec.pair_paths):
        if (a, c) == (l1, l3):
            bare = wigner_3j(l1, l2, l3).transpose(1, 0, 2) * spec.path_normalization[p]
            table[degree_slice(l2)] += spec.paths[own, p][:, None, None] * bare[:, None]
    return table
