"""Steps of matrices that turn all their directions alike, beside Adam for everything else."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

#: Coefficients of X, X Xᵀ X and (X Xᵀ)² X in one step towards the orthogonal factor: few steps, singular values near one.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
#: Root mean square of Adam's updates, which orthogonal updates are scaled to.
ADAM_RMS = 0.2


class Muon(Optimizer):
    """Orthogonalised momentum for matrices, AdamW for all other parameters.

    A matrix A × B with momentum M = U S Vᵀ moves by lr · matrix_factor · 0.2 √max(A, B) · U f(S) Vᵀ, where f brings all
    singular values near one: rare directions of the gradient count as much as frequent ones. A matrix without a gradient,
    such as that of an element which the batch lacks, stays.

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale: Liu et al. 2025, arXiv:2502.16982; AdamW:
    Loshchilov and Hutter, arXiv:1711.05101.

    Args:
        params: groups of :func:`eqmol.nn.matrices.parameter_groups`; without "inputs", all parameters are AdamW's.
        lr: learning rate of AdamW.
        matrix_factor: of the learning rate for matrices.
        momentum: Nesterov's, of matrices.
        betas, eps: of AdamW.
        weight_decay: of both, relative to their learning rates.

    Raises:
        ValueError: a number out of bounds.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.005,
        matrix_factor: float = 4.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        for name, value in (("lr", lr), ("matrix_factor", matrix_factor), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be finite and not negative")
        for name, value in (("momentum", momentum), ("betas[0]", betas[0]), ("betas[1]", betas[1])):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must lie in [0, 1)")
        if not eps > 0:
            raise ValueError(f"eps={eps} must be positive")
        defaults = {
            "lr": lr,
            "matrix_factor": matrix_factor,
            "momentum": momentum,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "inputs": None,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["inputs"] is None:
                self._step_adam(parameters, group)
            else:
                self._step_matrices(parameters, group)
        return loss

    def _step_adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        sizes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            sizes[p.movedim(group["inputs"], -2).shape[-2:]].append(p)
        rate = group["lr"] * group["matrix_factor"]
        for same in sizes.values():  # matrices of one size at once
            updates = []
            for p in same:
                assert p.grad is not None
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = torch.lerp(p.grad, momentum, group["momentum"]).movedim(group["inputs"], -2)
                there = p.grad.movedim(group["inputs"], -2).abs().amax((-2, -1), keepdim=True) > 0
                updates.append((ahead * there).reshape(-1, *ahead.shape[-2:]))
            turned = orthogonalized(torch.cat(updates)).split([len(update) for update in updates])
            for p, update in zip(same, turned, strict=True):
                target = p.movedim(group["inputs"], -2)
                target.mul_(1 - rate * group["weight_decay"])
                target.add_(update.reshape(target.shape), alpha=-rate * ADAM_RMS * max(target.shape[-2:]) ** 0.5)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices [n, A, B] with the same singular vectors and all singular values brought near one; zero stays zero.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon (Newton-Schulz iteration).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
