"""Lower precision where most of the time of dense layers goes: ``trainer.precision=bf16-mixed`` and ``trainer.tf32``.

With bf16-mixed the linear maps between channels, the gates and the networks of the radial basis multiply in bfloat16 (weights
are kept, and sums are accumulated, in float32). Tensor products, norms, attention weights and readouts stay in float32;
neighbour vectors, energies, forces and the loss in float64. The saved model is evaluated in float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eqmol.nn import Gate, GroupLinear, Linear, PairNetwork, RadialNetwork

BFLOAT16 = "bf16-mixed"
DENSE = (Linear, GroupLinear, Gate, RadialNetwork, PairNetwork)  # none inside another
DEVICES = ("cpu", "cuda")


def multiply_in_bfloat16(model: nn.Module) -> int:
    """Let the dense layers of a model, and of copies of it, multiply in bfloat16; return their number."""
    layers = [module for module in model.modules() if isinstance(module, DENSE)]
    for layer in layers:
        layer.register_forward_pre_hook(_enter)
        layer.register_forward_hook(_leave, always_call=True)
    return len(layers)


def allow_tf32(allow: bool) -> None:
    """Let GPUs round the factors of float32 matrix products to 10 bits; nothing changes on a CPU."""
    torch.backends.cuda.matmul.allow_tf32 = allow


def _enter(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    for device in DEVICES:
        torch.set_autocast_dtype(device, torch.bfloat16)
        torch.set_autocast_enabled(device, True)


def _leave(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    for device in DEVICES:
        torch.set_autocast_enabled(device, False)
    torch.clear_autocast_cache()
    if isinstance(output, tuple):
        return tuple(_float32(value) for value in output)
    return output if output is None else _float32(output)


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value
