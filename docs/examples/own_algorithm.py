"""An algorithm of one's own: all paths of a product in one dense table. To check it, and to train with it:

python own_algorithm.py
python own_algorithm.py train backend=dense model=mace data=sample
"""

import sys

import numpy as np
import torch
from torch import Tensor

import eqmol.ops
from eqmol.cli.main import main
from eqmol.ops import HarmonicConvolution, Product, RadialWeight, Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim


def dense_table(spec: Spec) -> np.ndarray:
    """What each own weight adds to a product, [lm_filter, W, lm_out, lm_in]."""
    table = np.zeros((dim(spec.degree_filter), spec.num_paths, dim(spec.degree_out), dim(spec.degree_in)))
    for p, (l1, l2, l3) in enumerate(spec.pair_paths):
        coupling = wigner_3j(l1, l2, l3).transpose(1, 2, 0) * spec.path_normalization[p]
        table[degree_slice(l2), p, degree_slice(l3), degree_slice(l1)] = coupling
    return np.einsum("wp,jpki->jwki", spec.paths, table)


class DenseConvolution(HarmonicConvolution):
    """message[e, k, c] = Σ_w weight[e, w, c] Σ_i (Σ_j Y_j[e] table[j, w, k, i]) x[sender, i, c]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("table", dense_table(spec))

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        matrices = (geometry @ self.table.flatten(1)).unflatten(1, self.table.shape[1:])  # [E, W, lm_out, lm_in]
        messages = torch.einsum("ewc,ewki,eic->ekc", weight.dense(), matrices, x.index_select(0, senders))
        return x.new_zeros(num_receivers, *messages.shape[1:]).index_add(0, receivers, messages)


class DenseProduct(Product):
    """z[n, k, c] = Σ_w weight[w, c] Σ_ij table[j, w, k, i] x[n, i, c] y[n, j, c]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("table", dense_table(spec))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("jwki,nic,njc,nwc->nkc", self.table, x, y, weight.expand(len(x), -1, -1))


eqmol.ops.register("dense", DenseConvolution, DenseProduct)  # powers as by cg
if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(main())
    print(f"every law holds for {len(eqmol.ops.check('dense'))} specs")
