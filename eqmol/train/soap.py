"""Adam in the eigenbases of Shampoo's averages of gradients: the optimiser of a package, by the options of this one."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from torch.optim import Optimizer

from eqmol.errors import InputError


class SOAP:
    """SOAP as of the package pytorch-optimizer (Vyas et al. 2024, arXiv:2409.11321), which is what one gets instead of an instance.

    Its first step only begins the averages, and moves nothing.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: shares of earlier gradients and of earlier squares.
        weight_decay: per step and learning rate.
        precondition_frequency: steps between two updates of the eigenbases.

    Raises:
        InputError: the package is not installed.
        ValueError: an argument out of bounds.
    """

    def __new__(  # type: ignore[misc]
        cls,
        params: Iterable[Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        precondition_frequency: int = 10,
    ) -> Optimizer:
        """Return the package's."""
        if find_spec("pytorch_optimizer") is None:
            raise InputError(
                "task/optimizer=soap needs the package pytorch-optimizer, which is not installed; "
                "pip install 'eqmol[optimizers]' brings it, or use task/optimizer=muon"
            )
        import pytorch_optimizer  # an extra

        if type(precondition_frequency) is not int or precondition_frequency < 1:
            raise ValueError(f"precondition_frequency={precondition_frequency} must be a whole number of steps")
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr={lr} and weight_decay={weight_decay} must not be negative")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)} must be two numbers from 0 to below 1")
        return pytorch_optimizer.SOAP(
            params,
            lr=lr,
            betas=(betas[0], betas[1]),
            weight_decay=weight_decay,
            precondition_frequency=precondition_frequency,
        )
