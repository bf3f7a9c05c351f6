"""Scalar features of an element."""

import torch
from torch import Tensor, nn


class ElementEmbedding(nn.Module):
    """A vector of independent standard normal parameters per element."""

    def __init__(self, num_elements: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_elements, channels))

    def forward(self, species: Tensor) -> Tensor:
        """Index of the element of each node [N] -> scalar features [N, 1, C]."""
        return self.weight.index_select(0, species).unsqueeze(1)
