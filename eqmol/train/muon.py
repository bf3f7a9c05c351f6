"""Steps of matrices that turn all their directions alike, beside Adam for everything else."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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
    singular values near one: rare directions of the gradient count as much as frequent ones. As Adam's, steps end where
    gradients do: where their root mean square is g, the step is multiplied by g / (g + eps). A matrix without a gradient,
    such as that of an element which the batch lacks, stays, and rounding is not taken for a direction.

    :class:`torch.optim.Muon` takes parameters with two axes and no others. Here matrices come in stacks, one per degree and
    element, whose shapes do not say which axis is which, or that they are matrices; AdamW takes all else in the same step; and
    steps end where gradients do, without which the matrices of absent elements would move.

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale: Liu et al. 2025, arXiv:2502.16982; AdamW:
    Loshchilov and Hutter, arXiv:1711.05101.

    Args:
        params: groups of :func:`eqmol.nn.parameter_groups`; without "inputs", all parameters are AdamW's.
        lr: learning rate of AdamW.
        matrix_factor: of the learning rate for matrices.
        momentum: Nesterov's, of matrices.
        betas: of AdamW.
        eps: gradients far below it do not count.
        weight_decay: of both, relative to their learning rates.

    Raises:
        ValueError: an argument that is no number, or out of bounds.
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
        if len(betas) != 2:
            raise ValueError(f"betas={list(betas)} must be two numbers")
        sizes = {"lr": lr, "matrix_factor": matrix_factor, "eps": eps, "weight_decay": weight_decay}
        fractions = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
        for name, value in (sizes | fractions).items():
            bound = 1 if name in fractions else math.inf
            if not isinstance(value, int | float) or not 0 <= value < bound:
                raise ValueError(f"{name}={value} must be a number from 0 to below {bound}")
        if eps == 0:
            raise ValueError("eps=0 must be positive")
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
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        sizes: dict[tuple[int, ...], list[tuple[Tensor, ...]]] = defaultdict(list)
        for tensors in zip(parameters, gradients, ahead, strict=True):
            moved = tuple(each.movedim(group["inputs"], -2) for each in tensors)
            sizes[moved[0].shape[-2:]].append(moved)
        rate, eps, decay = group["lr"] * group["matrix_factor"], group["eps"], group["weight_decay"]
        for shape, same in sizes.items():  # matrices of one size at once
            targets, *others = zip(*same, strict=True)
            own, turned = (torch.cat([each.reshape(-1, *shape) for each in of]) for of in others)
            size = root_mean_square(own)
            share = size / (size + eps)
            if decay:
                torch._foreach_mul_(targets, _parts(1 - rate * decay * share, targets))
            scale = rate * ADAM_RMS * max(shape) ** 0.5
            torch._foreach_sub_(targets, _parts(orthogonalized(turned, eps).mul_(share), targets), alpha=scale)


def _parts(stack: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """What of a stack [n, ...] belongs to the matrices of each target [..., A, B]."""
    counts = [math.prod(target.shape[:-2]) for target in targets]
    parts = zip(targets, stack.split(counts), strict=True)
    return [part.view(*target.shape[:-2], *part.shape[1:]) for target, part in parts]


def root_mean_square(matrices: Tensor) -> Tensor:
    """That of the numbers of each matrix [..., A, B], as [..., 1, 1]; below 1e-20 it may be zero."""
    return matrices.square().mean((-2, -1), keepdim=True).sqrt()


def orthogonalized(matrices: Tensor, eps: float) -> Tensor:
    """Matrices [n, A, B] with the same singular vectors and all singular values brought near one.

    Args:
        matrices: any; zero stays zero.
        eps: norm below which the singular values need not come near one, so that rounding does not overflow.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon (Newton-Schulz iteration).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(eps)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
