"""Tensor products written out term by term and compiled for this machine.

Every algorithm whose geometry are harmonics may use them, in C++ on the CPU, in Triton on CUDA devices. ``EQMOL_KERNELS=auto``, the
default, uses kernels where there is a compiler, ``require`` refuses to go on without, ``off`` uses none; what an operation says
itself goes first. Specs too large to be written out have none.
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
)
from eqmol.ops.kernels import compiler, forms, library, trial, triton
from eqmol.ops.kernels.by_program import convolution_by_program, power_by_program, product_by_program
from eqmol.ops.kernels.geometry import geometry_kernels
from eqmol.ops.kernels.library import said
from eqmol.ops.kernels.maps import maps_kernel
from eqmol.ops.kernels.sparse import is_small
from eqmol.ops.kernels.two_steps import two_steps_kernel
from eqmol.so3.kept import has_memory
from eqmol.so3.layout import dim

Compiled = library.Kernel | triton.Kernel | triton.EdgeKernel

__all__ = [
    "apply",
    "build",
    "can_run",
    "check_mode",
    "convolution",
    "default",
    "identity",
    "may_apply",
    "mode",
    "power",
    "product",
    "product_in_two_steps",
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
    return op.kernels or default()


def default() -> KernelMode:
    """What ``$EQMOL_KERNELS`` says."""
    return library.mode()


def apply(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an operation may run compiled code on tensors.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    possible = op.has_kernels and library.are_possible(device, dtype, mode(op)) and is_small(op.spec)
    return possible and (library.language(device) == "c++" or trial.passed(device, dtype, mode(op)))


def may_apply(op: TensorProduct, dtype: torch.dtype) -> bool:
    """Whether an operation may run compiled code on some device of this machine, where its model may be moved later.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    possible = (library.are_possible(torch.device(name), dtype, mode(op)) for name in devices)
    return op.has_kernels and is_small(op.spec) and any(possible)


def build(
    ops: Iterable[TensorProduct],
    device: torch.device,
    dtype: torch.dtype,
    learned: bool,
    training: bool,
    tables: bool = False,
) -> list[Compiled]:
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
    found: dict[str, Compiled] = {}
    with said():
        for op in ops:
            if apply(op, device, dtype):
                linear = maps_kernel(dtype, mode(op)) if tables and device.type == "cpu" else None
                if linear is not None:
                    found[linear.key] = linear
                components = dim(op.degree_geometry) if isinstance(op, HarmonicConvolution) else 0
                if linear is not None and components:
                    around = geometry_kernels(op.spec.degree_filter, dtype, mode(op)) or ()
                    found |= {kernel.key: kernel for kernel in around}
                how = library.language(device), dtype, mode(op)
                found |= {k.key: k for k in forms.usual(op.spec, components, *how, learned, training, tables)}
            if (steps := _two_steps(op, device, dtype)) is not None:
                found[steps.key] = steps
    return list(found.values())


def identity(ops: Iterable[TensorProduct], device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What the rounding of trained operations depends on: compiler, flags, processor, and a SHA-256 of all kernels with them.

    Nothing where none is compiled.
    """
    keys = sorted(kernel.key for kernel in build(ops, device, dtype, learned=True, training=True))
    chosen = compiler.find()
    if not keys:
        return {}
    if library.language(device) == "triton":
        found = {"compiler": f"triton {triton.version()}", "flags": "", "processor": torch.cuda.get_device_name(device)}
    elif chosen is not None:
        flags, processor = " ".join(compiler.flags()), compiler.processor()
        found = {"compiler": chosen.identity, "flags": flags, "processor": processor}
    return {**found, "kernels": hashlib.sha256("".join(keys).encode()).hexdigest()}


def share_weights(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two edges side by side may have one row of weights, see :func:`convolution`."""
    if device.type != "cpu" or not isinstance(op, HarmonicConvolution) or not apply(op, device, dtype):
        return False
    how = library.language(device), dtype, mode(op)
    return forms.edge_kernel(op.spec, frozenset("v"), frozenset(), dim(op.degree_geometry), *how) is not None


def power(op: Power, x: Tensor, weight: Tensor, group: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Power.forward`; None where there is no kernel."""
    if not can_run(op, x, weight, group) or forms.power_kernel(op.spec, frozenset("v"), 0, *_how(op, x)) is None:
        return None
    return power_by_program(op.spec, x, weight, group, mode(op))


def product(op: Product, x: Tensor, y: Tensor, weight: Tensor) -> Tensor | None:
    """As :meth:`eqmol.ops.contract.Product.forward`; None where there is no kernel."""
    if not can_run(op, x, y, weight) or forms.product_kernel(op.spec, frozenset("v"), *_how(op, x)) is None:
        return None
    return product_by_program(op.spec, x, y, weight, mode(op))


def product_in_two_steps(op: Product, *tensors: Tensor) -> library.Kernel | None:
    """What multiplies samples that are made in two steps, see :mod:`eqmol.ops.kernels.two_steps`; None where there is no kernel."""
    if not all(has_memory(tensor) for tensor in tensors):
        return None
    return _two_steps(op, tensors[0].device, tensors[0].dtype)


def _two_steps(op: TensorProduct, device: torch.device, dtype: torch.dtype) -> library.Kernel | None:
    """Of products that are too large to be written out."""
    if not (isinstance(op, Product) and op.in_two_steps and device.type == "cpu"):
        return None
    if not library.are_possible(device, dtype, mode(op)):
        return None
    how = library.language(device), dtype, mode(op)
    if apply(op, device, dtype) and forms.product_kernel(op.spec, frozenset("v"), *how) is not None:
        return None
    return two_steps_kernel(dtype, mode(op))


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
    if forms.edge_kernel(op.spec, frozenset("v"), frozenset(), harmonics.shape[1], *_how(op, x)) is None:
        return None
    return convolution_by_program(op.spec, x, harmonics, weight, senders, receivers, num_receivers, mode(op))


def can_run(op: TensorProduct, *tensors: Tensor) -> bool:
    """Whether an operation may run compiled code on tensors that have memory: transformed and symbolic ones have none."""
    return all(has_memory(tensor) for tensor in tensors) and apply(op, tensors[0].device, tensors[0].dtype)


def _how(op: TensorProduct, x: Tensor) -> tuple[library.Language, torch.dtype, KernelMode]:
    return library.language(x.device), x.dtype, mode(op)
