"""Tensor products written out term by term and compiled for this machine.

Every algorithm whose geometry are harmonics may use them on the CPU. ``EQMOL_KERNELS=auto``, the default, uses kernels where
there is a compiler, ``require`` refuses to go on without, ``off`` uses none; what an operation says itself goes first. Specs too
large to be written out have none.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from eqmol.ops.contract import (
    HarmonicConvolution,
    KernelMode,
    Power,
    Product,
    RadialWeight,
    TensorProduct,
    side_by_side,
)
from eqmol.ops.kernels import compiler, forms, library
from eqmol.ops.kernels.library import said
from eqmol.ops.kernels.sparse import is_small
from eqmol.ops.multilinear import partials
from eqmol.so3.kept import has_memory
from eqmol.so3.layout import dim

__all__ = [
    "apply",
    "build",
    "can_run",
    "check_mode",
    "convolution",
    "identity",
    "mode",
    "power",
    "product",
    "said",
    "share_weights",
]


def check_mode(value: object) -> KernelMode:
    """What a user chose.

    Raises:
        InputError: there is no such mode.
    """
    return library.check_mode("kernels", value)


def mode(op: TensorProduct) -> KernelMode:
    """Whether an operation uses kernels: as it says itself, else as ``$EQMOL_KERNELS`` says."""
    return op.kernels or library.mode()


def apply(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an operation may run compiled code on tensors.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    return op.has_kernels and library.are_possible(device, dtype, mode(op)) and is_small(op.spec)


def build(
    ops: Iterable[TensorProduct],
    device: torch.device,
    dtype: torch.dtype,
    learned: bool,
    training: bool,
    tables: bool = False,
) -> list[library.Kernel]:
    """Make the kernels of a model's operations at a time, and say how long it took where something was compiled.

    Args:
        ops: its operations.
        device, dtype: of its tensors.
        learned: whether weights have derivatives.
        training: whether derivatives of forces are wanted, too.
        tables: whether convolutions read their weights from tables.

    Returns:
        The kernels.

    Raises:
        KernelError: kernels are required, and one cannot be made.
    """
    found: dict[str, library.Kernel] = {}
    with said():
        for op in ops:
            if apply(op, device, dtype):
                components = dim(op.degree_geometry) if isinstance(op, HarmonicConvolution) else 0
                found |= {
                    k.key: k for k in forms.usual(op.spec, components, dtype, mode(op), learned, training, tables)
                }
    return list(found.values())


def identity(ops: Iterable[TensorProduct], device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What the rounding of trained operations depends on: compiler, flags, processor, and a SHA-256 of all kernels with them.

    Nothing where none is compiled.
    """
    keys = sorted(kernel.key for kernel in build(ops, device, dtype, learned=True, training=True))
    chosen = compiler.find()
    if not keys or chosen is None:
        return {}
    return {
        "compiler": chosen.identity,
        "flags": " ".join(compiler.flags()),
        "processor": compiler.processor(),
        "kernels": hashlib.sha256("".join(keys).encode()).hexdigest(),
    }


def share_weights(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two edges side by side may have one row of weights, see :func:`convolution`."""
    if not isinstance(op, HarmonicConvolution) or not apply(op, device, dtype):
        return False
    components = dim(op.degree_geometry)
    return forms.edge_kernel(op.spec, frozenset("v"), frozenset(), components, dtype, mode(op)) is not None


def power(op: Power, x: Tensor, weight: Tensor, group: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Power.forward`; None where there is no kernel."""
    if not can_run(op, x, weight, group) or forms.power_kernel(op.spec, frozenset("v"), 0, x.dtype, mode(op)) is None:
        return None
    return power_by_program(op, x, weight, group, mode(op))


def power_by_program(op: Power, x: Tensor, weight: Tensor, group: Tensor, how: KernelMode) -> Tensor:
    """A power by its program, compiled, or with mode "off" evaluated by torch."""
    coefficients = forms.coefficients(weight, op.spec)
    form = forms.PowerForm(op.spec, forms.Groups(group, len(x), len(weight)), how)
    return partials(form, [2], [x, coefficients, None])[0]


def product(op: Product, x: Tensor, y: Tensor, weight: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Product.forward`; None where there is no kernel."""
    if not can_run(op, x, y, weight) or forms.product_kernel(op.spec, frozenset("v"), x.dtype, mode(op)) is None:
        return None
    return product_by_program(op, x, y, weight, mode(op))


def product_by_program(op: Product, x: Tensor, y: Tensor, weight: Tensor, how: KernelMode) -> Tensor:
    """A product by its program, compiled, or with mode "off" evaluated by torch."""
    if weight.dim() == 2:
        weight, groups = weight.unsqueeze(0), forms.Groups(None, len(x), 1)
    else:
        groups = forms.Groups(torch.arange(len(x)), len(x), len(x))
    form = forms.ProductForm(op.spec, groups, how)
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
    """As :meth:`eqmol.ops.contract.Convolution.forward`; None where there is no kernel.

    A row of ``weight`` may belong to two edges side by side.
    """
    if senders.dim() > 1 or not can_run(op, x, harmonics, *weight, senders, receivers):
        return None
    if forms.edge_kernel(op.spec, frozenset("v"), frozenset(), harmonics.shape[1], x.dtype, mode(op)) is None:
        return None
    return convolution_by_program(op, x, harmonics, weight, senders, receivers, num_receivers, mode(op))


def convolution_by_program(
    op: HarmonicConvolution,
    x: Tensor,
    harmonics: Tensor,
    weight: RadialWeight,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
    how: KernelMode,
) -> Tensor:
    """A convolution by its program, compiled, or with mode "off" evaluated by torch."""
    shape = num_receivers, op.spec.num_blocks * dim(op.spec.degree_out), x.shape[2]
    tensors = weight.hidden, weight.matrix, x, harmonics
    shared, keeps = int(2 * len(weight.hidden) == len(senders)), any(t.requires_grad for t in tensors)
    form = forms.EdgeForm(op.spec, senders, receivers, shape, how, shared, keeps and torch.is_grad_enabled())
    return side_by_side(op.spec, partials(form, [4], [*tensors, None])[0])


def can_run(op: TensorProduct, *tensors: Tensor) -> bool:
    """Whether an operation may run compiled code on tensors that have memory: transformed and symbolic ones have none."""
    return apply(op, tensors[0].device, tensors[0].dtype) and all(has_memory(tensor) for tensor in tensors)
