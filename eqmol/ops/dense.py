"""The meaning of every tensor product: dense contractions with Clebsch-Gordan tensors, slow and obviously right.

What algorithms are compared with, see :mod:`eqmol.ops.laws`. float64 in, float64 out.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels, W own weights.
"""

import torch
from torch import Tensor

from eqmol.ops.contract import RadialWeight, unit
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials


def product(spec: Spec, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x [N, lm_in, C], y [N, lm_filter, C or 1], weight [N, W, C] -> [N, lm_out, K · C]."""
    path_weight = torch.einsum("bwc,wp->bpc", weight, torch.tensor(spec.paths))
    result = x.new_zeros(x.shape[0], dim(spec.degree_out), spec.num_blocks, x.shape[2])
    for p, (l1, l2, l3) in enumerate(spec.pair_paths):
        tensor = torch.tensor(wigner_3j(l1, l2, l3) * spec.path_normalization[p])
        left, right = x[:, degree_slice(l1)], y[:, degree_slice(l2)].expand(-1, -1, x.shape[2])
        term = path_weight[:, p, None] * torch.einsum("uvw,buc,bvc->bwc", tensor, left, right)
        result[:, degree_slice(l3), spec.path_blocks[p]] += term
    return result.flatten(2)


def convolution(
    spec: Spec, x: Tensor, vectors: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
) -> Tensor:
    """x [N, lm_in, C], edge vectors [E, 3], ends [E] -> [num_receivers, lm_out, K · C], one message added after another."""
    harmonics = spherical_harmonics(unit(vectors), spec.degree_filter)
    messages = product(spec, x[senders], harmonics.unsqueeze(-1), weight.dense())
    result = x.new_zeros(num_receivers, *messages.shape[1:])
    for e, receiver in enumerate(receivers.tolist()):
        result[receiver] += messages[e]
    return result


def mixing(
    spec: Spec,
    x: Tensor,
    vectors: Tensor,
    factors: RadialWeight | None,
    weight: Tensor,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
) -> Tensor:
    """x [N, lm_in, C], edge vectors [E, 3], weight [W, C, C'], ends [E] -> [num_receivers, lm_out, C'], path after path."""
    harmonics = spherical_harmonics(unit(vectors), spec.degree_filter)
    own = weight.expand(len(senders), *weight.shape)
    if factors is not None:
        is_shared = factors.matrix.shape[1] == spec.degree_in + 1
        places = [l1 if is_shared else spec.own_factors.index((m, l1)) for l1, _, _, m in spec.own_weights]
        own = factors.dense()[:, places].unsqueeze(-1) * weight
    path_weight = torch.einsum("esio,sp->epio", own, torch.tensor(spec.paths))
    messages = x.new_zeros(len(senders), dim(spec.degree_out), weight.shape[2])
    for p, (l1, l2, l3) in enumerate(spec.pair_paths):
        tensor = torch.tensor(wigner_3j(l1, l2, l3) * spec.path_normalization[p])
        left, right = x[senders][:, degree_slice(l1)], harmonics[:, degree_slice(l2)]
        messages[:, degree_slice(l3)] += torch.einsum("uvw,eui,ev,eio->ewo", tensor, left, right, path_weight[:, p])
    return x.new_zeros(num_receivers, *messages.shape[1:]).index_add(0, receivers, messages)


def power(spec: Spec, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """x [N, lm_in, C], weight [groups, W, C], group [N] -> [N, lm_out, C]: Σ over paths and monomials, one at a time."""
    path_weight = torch.einsum("gwc,wp->gpc", weight, torch.tensor(spec.paths))[group]
    result = x.new_zeros(x.shape[0], dim(spec.degree_out), x.shape[2])
    for p, (factors, l3, index) in enumerate(spec.power_paths):
        polynomial = torch.tensor(couplings(factors, l3)[index] * spec.path_normalization[p])
        values = torch.stack([x[:, list(term)].prod(dim=1) for term in monomials(factors)])
        term = torch.einsum("mt,tbc->bmc", polynomial, values)
        result[:, degree_slice(l3)] += path_weight[:, p, None] * term
    return result
