"""Tensor products written out term by term and compiled for this machine.

Every algorithm whose geometry are harmonics may use them on the CPU. ``EQMOL_KERNELS=auto`` uses kernels where there is a
compiler, ``require`` refuses to go on without, ``off`` uses none. Specs too large to be written out have none.
"""

import torch
from torch import Tensor

from eqmol.ops.contract import HarmonicConvolution, Power, Product, RadialWeight, TensorProduct
from eqmol.ops.kernels import forms
from eqmol.ops.kernels.library import are_possible
from eqmol.ops.kernels.sparse import is_small
from eqmol.ops.multilinear import partials
from eqmol.so3.layout import dim

__all__ = ["apply", "convolution", "power", "product"]


def apply(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an operation may run compiled code on tensors.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    has_forms = isinstance(op, HarmonicConvolution | Product | Power)
    return op.may_compile and has_forms and are_possible(device, dtype) and is_small(op.spec)


def power(op: Power, x: Tensor, weight: Tensor, group: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Power.forward`; None where there is no kernel."""
    if not _can_run(op, x, weight, group) or forms.power_kernel(op.spec, frozenset("v"), 0, x.dtype) is None:
        return None
    return power_by_program(op, x, weight, group, True)


def power_by_program(op: Power, x: Tensor, weight: Tensor, group: Tensor, compiled: bool) -> Tensor:
    """A power by its program, compiled or evaluated by torch."""
    coefficients = forms.coefficient_table(op.spec, x.dtype) @ weight
    form = forms.PowerForm(op.spec, forms.Groups(group, len(x), len(weight)), compiled)
    return partials(form, [2], [x, coefficients, None])[0]


def product(op: Product, x: Tensor, y: Tensor, weight: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Product.forward`; None where there is no kernel."""
    if not _can_run(op, x, y, weight) or forms.product_kernel(op.spec, frozenset("v"), x.dtype) is None:
        return None
    return product_by_program(op, x, y, weight, True)


def product_by_program(op: Product, x: Tensor, y: Tensor, weight: Tensor, compiled: bool) -> Tensor:
    """A product by its program, compiled or evaluated by torch."""
    if weight.dim() == 2:
        weight, groups = weight.unsqueeze(0), forms.Groups(None, len(x), 1)
    else:
        groups = forms.Groups(torch.arange(len(x)), len(x), len(x))
    form = forms.ProductForm(op.spec, groups, compiled)
    return partials(form, [2], [x, y, None, weight])[0]


def convolution(
    op: HarmonicConvolution,
    x: Tensor,
    harmonics: Tensor,
    weight: RadialWeight,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Convolution.forward`; None where there is no kernel."""
    if senders.dim() > 1 or not _can_run(op, x, harmonics, *weight, senders, receivers):
        return None
    if forms.edge_kernel(op.spec, frozenset("v"), frozenset(), harmonics.shape[1], x.dtype) is None:
        return None
    return convolution_by_program(op, x, harmonics, weight, senders, receivers, num_receivers, True)


def convolution_by_program(
    op: HarmonicConvolution,
    x: Tensor,
    harmonics: Tensor,
    weight: RadialWeight,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
    compiled: bool,
) -> Tensor:
    """A convolution by its program, compiled or evaluated by torch."""
    shape = num_receivers, dim(op.spec.degree_out), x.shape[2]
    form = forms.EdgeForm(op.spec, senders, receivers, shape, compiled)
    return partials(form, [4], [weight.hidden, weight.matrix, x, harmonics, None])[0]


def _can_run(op: TensorProduct, *tensors: Tensor) -> bool:
    """Whether an operation may run compiled code on tensors that have memory: transformed and symbolic ones have none."""
    if not apply(op, tensors[0].device, tensors[0].dtype):
        return False
    try:
        for tensor in tensors:
            tensor.data_ptr()
    except RuntimeError:
        return False
    return True
