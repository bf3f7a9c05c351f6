"""Tensor products by their programs, compiled or evaluated by torch; arguments are those of :mod:`eqmol.ops.contract`."""

import torch
from torch import Tensor

from eqmol.ops.contract import KernelMode, RadialWeight, side_by_side
from eqmol.ops.kernels import forms
from eqmol.ops.multilinear import partials
from eqmol.ops.spec import Spec
from eqmol.so3.layout import dim


def power_by_program(spec: Spec, x: Tensor, weight: Tensor, group: Tensor, how: KernelMode) -> Tensor:
    """A power by its program, compiled, or with mode "off" evaluated by torch."""
    coefficients = forms.coefficients(weight, spec)
    form = forms.PowerForm(spec, forms.Groups(group, len(x), len(weight), x.device), how)
    return partials(form, [2], [x, coefficients, None])[0]


def product_by_program(spec: Spec, x: Tensor, y: Tensor, weight: Tensor, how: KernelMode) -> Tensor:
    """A product by its program, compiled, or with mode "off" evaluated by torch."""
    if weight.dim() == 2:
        weight, groups = weight.unsqueeze(0), forms.Groups(None, len(x), 1, x.device)
    else:
        groups = forms.Groups(torch.arange(len(x), device=x.device), len(x), len(x), x.device)
    form = forms.ProductForm(spec, groups, how)
    return partials(form, [2], [x, y, None, weight])[0]


def convolution_by_program(
    spec: Spec,
    x: Tensor,
    harmonics: Tensor,
    weight: RadialWeight,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
    how: KernelMode,
) -> Tensor:
    """A convolution by its program, compiled, or with mode "off" evaluated by torch."""
    shape = num_receivers, spec.num_blocks * dim(spec.degree_out), x.shape[2]
    tensors: list[Tensor | None] = [*weight, x, harmonics]
    if torch.is_grad_enabled() and len(weight.hidden) * weight.matrix[0].numel() <= forms.KEPT:
        tensors[:2] = RadialWeight(*(t.contiguous() for t in weight)).dense(), None
    form = forms.EdgeForm(spec, senders, receivers, shape, how, shared=int(2 * len(weight.hidden) == len(senders)))
    return side_by_side(spec, partials(form, [4], [*tensors, None])[0])
