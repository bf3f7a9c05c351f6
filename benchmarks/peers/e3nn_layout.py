"""eqmol's conventions in those of e3nn: irreps, layout, and the constants of paths."""

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice


def irreps(degree: int, channels: int) -> o3.Irreps:
    """``channels`` copies of every degree up to ``degree``, of natural parity."""
    return o3.Irreps([(channels, (l, (-1) ** l)) for l in range(degree + 1)])


def flatten(x: Tensor, degree: int) -> Tensor:
    """[N, lm, C] -> [N, blocks of C × (2 l + 1)]."""
    return torch.cat([x[:, degree_slice(l)].transpose(1, 2).flatten(1) for l in range(degree + 1)], dim=1)


def unflatten(z: Tensor, blocks: o3.Irreps, degree: int) -> Tensor:
    """[N, blocks] -> [N, lm, C]; blocks of equal degree are added."""
    out = z.new_zeros(len(z), (degree + 1) ** 2, blocks[0].mul)
    for block, where in zip(blocks, blocks.slices(), strict=True):
        out[:, degree_slice(block.ir.l)] += z[:, where].unflatten(1, (block.mul, block.ir.dim)).transpose(1, 2)
    return out


def path_constants(spec: Spec) -> Tensor:
    """Factor from eqmol's weight of a path to e3nn's without normalisation, [num_paths]: constants, and signs of 3j symbols."""
    signs = [float(np.sign(np.sum(wigner_3j(*path) * o3.wigner_3j(*path).numpy()))) for path in spec.pair_paths]
    return torch.tensor(spec.path_normalization * signs, dtype=torch.float32)
