"""Kernels in Triton tried on a device before models use them there: small products, with two orders of derivatives."""

from functools import lru_cache

import torch
from torch import Tensor

from eqmol.ops.contract import KernelMode, RadialWeight
from eqmol.ops.kernels import library, triton
from eqmol.ops.kernels.by_program import convolution_by_program, power_by_program, product_by_program
from eqmol.ops.spec import Spec
from eqmol.so3.layout import dim

SPECS = (
    Spec("power", "gaunt", "o3", 1, 0, 1, 2),
    Spec("product", "gaunt", "o3", 1, 1, 1),
    Spec("convolution", "gaunt", "o3", 1, 1, 1),
)
#: Largest difference, relative to the largest value; matrix products on GPUs may round to TF32.
TOLERANCES = {torch.float32: 5e-3, torch.float64: 1e-10}


def passed(device: torch.device, dtype: torch.dtype, mode: KernelMode) -> bool:
    """Whether kernels give on a device what torch gives on the CPU.

    Raises:
        KernelError: they do not, and kernels are required.
    """
    problem = _problem(device, dtype)
    if problem is None:
        return True
    if mode == "require":
        raise library.KernelError(f"{library.REQUIRED}, but on {device} {problem}")
    library.say(f"on {device} {problem}: tensor products run uncompiled; to silence this, set EQMOL_KERNELS=off")
    return False


@lru_cache(maxsize=16)
def _problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with kernels; None if nothing is."""
    with torch.inference_mode(False), torch.enable_grad():
        for spec in SPECS:
            try:
                found = _derivatives(spec, device, dtype, "require")
            except Exception as error:  # drivers and compilers raise anything
                reason, _, _ = str(error).partition("\n")
                return f"kernels cannot run ({type(error).__name__}: {reason})"
            for value, right in zip(found, _derivatives(spec, torch.device("cpu"), dtype, "off"), strict=True):
                difference = float((value - right).abs().max() / right.abs().max())
                if not difference <= TOLERANCES[dtype]:
                    return f"a kernel of a {spec.operation} is wrong by {difference:.1e}"
    return None


def _derivatives(spec: Spec, device: torch.device, dtype: torch.dtype, how: KernelMode) -> list[Tensor]:
    """Values, slopes and slopes of a function of the slopes."""
    numbers, channels = torch.Generator().manual_seed(0), triton.WARP + 1

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers, dtype=torch.float64).to(device, dtype).requires_grad_()

    x = leaf(3, dim(spec.degree_in), channels)
    if spec.operation == "power":
        leaves = [x, weight := leaf(2, spec.num_weights, channels)]
        out = power_by_program(spec, x, weight, torch.tensor([1, 0, 1], device=device), how)
    elif spec.operation == "product":
        leaves = [x, y := leaf(3, dim(spec.degree_filter), channels), weight := leaf(spec.num_weights, channels)]
        out = product_by_program(spec, x, y, weight, how)
    else:
        leaves = [
            x,
            y := leaf(4, dim(spec.degree_filter)),
            hidden := leaf(4, 2),
            weight := leaf(2, spec.num_weights, channels),
        ]
        senders, receivers = torch.tensor([[1, 2, 2, 0], [0, 0, 1, 2]], device=device)
        out = convolution_by_program(spec, x, y, RadialWeight(hidden, weight), senders, receivers, 3, how)
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(torch.stack([slope.square().sum() for slope in first]).sum(), leaves)
    return [value.detach().cpu() for value in (out, *first, *second)]
