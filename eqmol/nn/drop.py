"""Noise of training: branches and attention weights that are left out at random. None in evaluation mode."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave out the whole branch of a residual block for random nodes, or graphs; the others are scaled to keep the mean.

    Source: Huang et al. 2016, arXiv:1603.09382 (stochastic depth).

    Args:
        probability: of leaving a branch out, below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor, graphs: Tensor | None = None) -> Tensor:
        """[N, ...] -> [N, ...]; ``graphs`` [N]: the graph of each node, whose nodes share their fate."""
        if not self.training or self.probability == 0:
            return branch
        number = len(branch) if graphs is None else int(graphs.max()) + 1 if len(graphs) else 0
        kept = torch.rand(number, dtype=branch.dtype, device=branch.device) >= self.probability
        if graphs is not None:
            kept = kept.index_select(0, graphs)
        return branch * (kept / (1 - self.probability)).view(-1, *[1] * (branch.dim() - 1))

    def extra_repr(self) -> str:
        return f"probability {self.probability}"
