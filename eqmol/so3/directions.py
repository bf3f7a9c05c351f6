"""Spherical harmonics of the directions of vectors, by few operations and with derivatives of their own.

Degree after degree comes from the product of the last one with the direction. Rotations turn the harmonics of a degree into each
other, (r × ∇)_k Y = -J_k Y, and the derivative by a direction has no other part: that of Σ g Y by the vector v = |v| u is

    u × w / |v|,    w_k = Σ g J_k Y,

bilinear in g and Y, so that it is differentiable again.

Shapes: E vectors, L degree, lm = (L + 1)² components.
"""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqmol.so3.coupling import pairing_factor, wigner_3j
from eqmol.so3.kept import has_memory
from eqmol.so3.layout import degree_slice, dim
from eqmol.threads import each

#: Vectors at a time: what is made on the way stays in the cache, and threads take turns.
CHUNK = 1 << 14


def harmonics_of(vectors: Tensor, degree: int) -> Tensor:
    """:func:`eqmol.so3.harmonics.spherical_harmonics` of the directions of vectors [E, 3] of any length but zero, [E, lm].

    >>> harmonics_of(torch.tensor([[0.0, 3.0, 4.0]]), 1)
    tensor([[1.0000, 0.0000, 1.0392, 1.3856]])
    """
    if degree == 0:
        return torch.ones_like(vectors[..., :1])
    if not torch.is_grad_enabled():
        return _in_chunks(partial(_values, degree=degree), dim(degree), vectors)
    harmonics: Tensor = _Harmonics.apply(vectors, degree)  # type: ignore[no-untyped-call]
    return harmonics


def slopes_of(gradient: Tensor, harmonics: Tensor, vectors: Tensor, degree: int) -> Tensor:
    """Derivative of Σ gradient · harmonics by the vectors [E, 3], whose harmonics are given [E, lm]."""
    return _in_chunks(partial(_slopes, degree=degree), 3, gradient, harmonics, vectors)


class _Harmonics(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(vectors: Tensor, degree: int) -> Tensor:
        return _in_chunks(partial(_values, degree=degree), dim(degree), vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        vectors, ctx.degree = inputs
        ctx.save_for_backward(vectors, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        vectors, harmonics = ctx.saved_tensors
        return slopes_of(gradient, harmonics, vectors, ctx.degree), None


def _in_chunks(function: Callable[..., Tensor], columns: int, *tensors: Tensor) -> Tensor:
    """A function of tensors, row by row, of so many numbers a row."""
    number = len(tensors[0])
    if number <= CHUNK:
        return function(*tensors)
    size = -(-number // -(-number // CHUNK))  # of chunks of about the same size
    chunks = list(zip(*(torch.split(t, size) for t in tensors), strict=True))
    if torch.is_grad_enabled() or not all(has_memory(t) for t in tensors):
        return torch.cat([function(*parts) for parts in chunks])
    found = tensors[0].new_empty(number, columns)
    rows = torch.split(found, size)
    each(lambda i: rows[i].copy_(function(*chunks[i])), len(chunks))
    return found


def _values(vectors: Tensor, degree: int) -> Tensor:
    # components first: operations then run along the vectors
    unit = vectors.mT.contiguous() / torch.linalg.vector_norm(vectors, dim=-1)
    rows = [torch.ones_like(unit[:1]), math.sqrt(3) * unit]
    for table in _steps(degree, vectors.dtype, vectors.device):
        rows.append(table @ (unit.unsqueeze(1) * rows[-1]).flatten(0, 1))
    return torch.cat(rows).mT.contiguous()


def _slopes(gradient: Tensor, harmonics: Tensor, vectors: Tensor, degree: int) -> Tensor:
    table = _generators(degree, vectors.dtype, vectors.device)
    turned = (gradient @ table).view(*gradient.shape[:-1], 3, len(table)) @ harmonics.unsqueeze(-1)
    slopes: Tensor = torch.linalg.cross(vectors, turned.squeeze(-1))
    return slopes / vectors.square().sum(-1, keepdim=True)


#: ``inspect.signature`` takes longer than a small operation, and torch asks for it at every call.
_Harmonics.forward.__signature__ = inspect.signature(_Harmonics.forward)  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _steps(degree: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """For every degree l from 2, products of the direction and the last degree -> [2 l + 1, 3 (2 l - 1)]."""
    with torch.inference_mode(False):
        return tuple(torch.tensor(rising(l).T, dtype=dtype, device=device) for l in range(2, degree + 1))


def rising(l: int) -> np.ndarray:
    """Products of a direction's components and its harmonics of degree l - 1 -> those of degree l, [3 (2 l - 1), 2 l + 1]."""
    # √3 u is the first degree; its product with the last one holds this degree times the factor
    table = wigner_3j(1, l - 1, l) * (math.sqrt(3) * (2 * l + 1) / pairing_factor(1, l - 1, l))
    return table.reshape(-1, 2 * l + 1)


@lru_cache(maxsize=64)
def _generators(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """J: [lm, 3 · lm]."""
    table = np.zeros((dim(degree), 3, dim(degree)))
    for l in range(1, degree + 1):
        own = degree_slice(l)
        # the 3j symbol has unit norm, and Σ_k J_kᵀ J_k = l (l + 1)
        table[own, :, own] = wigner_3j(1, l, l).transpose(1, 0, 2) * math.sqrt(l * (l + 1) * (2 * l + 1))
    with torch.inference_mode(False):
        return torch.tensor(table.reshape(len(table), -1), dtype=dtype, device=device)
