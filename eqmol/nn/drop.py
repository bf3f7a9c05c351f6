"""Noise of training: branches and attention weights that are left out at random. None in evaluation mode."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave out the whole branch of a residual block for random nodes; the others are scaled to keep the mean.

    Source: Huang et al. 2016, arXiv:1603.09382 (stochastic depth), here per atom.

    Args:
        probability: of leaving a node's branch out, below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """[N, ...] -> [N, ...]."""
        if not self.training or self.probability == 0:
            return branch
        shape = (len(branch), *[1] * (branch.dim() - 1))
        kept = torch.rand(shape, dtype=branch.dtype, device=branch.device) >= self.probability
        return branch * (kept / (1 - self.probability))

    def extra_repr(self) -> str:
        return f"probability {self.probability}"
