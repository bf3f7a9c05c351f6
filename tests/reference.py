"""The meaning of every tensor product: dense Clebsch-Gordan contractions, slow and obviously right. float64 in, float64 out."""

from itertools import product as tuples

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import RadialWeight
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import pairing, wigner_3j
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials


def product(spec: Spec, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x [B, lm1, C], y [B, lm2, C or 1], weight [B, W, C] -> [B, lm3, C]."""
    path_weight = torch.einsum("bwc,wp->bpc", weight, torch.tensor(spec.paths))
    result = x.new_zeros(x.shape[0], dim(spec.degree_out), x.shape[2])
    for p, (l1, l2, l3) in enumerate(spec.pair_paths):
        tensor = torch.tensor(wigner_3j(l1, l2, l3) * spec.path_normalization[p])
        left, right = x[:, degree_slice(l1)], y[:, degree_slice(l2)].expand(-1, -1, x.shape[2])
        result[:, degree_slice(l3)] += path_weight[:, p, None] * torch.einsum("uvw,buc,bvc->bwc", tensor, left, right)
    return result


def convolution(spec: Spec, x: Tensor, vectors: Tensor, weight: RadialWeight, senders, receivers, num: int) -> Tensor:
    harmonics = spherical_harmonics(vectors / vectors.norm(dim=-1, keepdim=True), spec.degree_filter)
    messages = product(spec, x[senders], harmonics.unsqueeze(-1), weight.dense())
    result = x.new_zeros(num, *messages.shape[1:])
    for e, receiver in enumerate(receivers.tolist()):
        result[receiver] += messages[e]
    return result


def power(spec: Spec, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """Σ over paths and monomials, one at a time."""
    path_weight = torch.einsum("gwc,wp->gpc", weight, torch.tensor(spec.paths))[group]
    result = x.new_zeros(x.shape[0], dim(spec.degree_out), x.shape[2])
    for p, (factors, l3, index) in enumerate(spec.power_paths):
        polynomial = torch.tensor(couplings(factors, l3)[index] * spec.path_normalization[p])
        values = torch.stack([x[:, list(term)].prod(dim=1) for term in monomials(factors)])
        term = torch.einsum("mt,tbc->bmc", polynomial, values)
        result[:, degree_slice(l3)] += path_weight[:, p, None] * term
    return result


def gaunt_power_dense(degree_in: int, order: int, l3: int) -> np.ndarray:
    """Integral of Y_i1 ... Y_iν Y_l3 over every index tuple, by chained Gaunt tensors: [lm_in] * order + [2 l3 + 1]."""
    band = order * degree_in
    gaunt = np.zeros((dim(band), dim(degree_in), dim(band)))
    for l1, l2, l in tuples(range(band + 1), range(degree_in + 1), range(band + 1)):
        if abs(l1 - l2) <= l <= l1 + l2 and (l1 + l2 + l) % 2 == 0:
            gaunt[degree_slice(l1), degree_slice(l2), degree_slice(l)] = pairing(l1, l2, l)
    result = np.eye(dim(degree_in), dim(band))
    for _ in range(order - 1):
        result = np.tensordot(result, gaunt, axes=(-1, 0))
    return result[..., degree_slice(l3)]
