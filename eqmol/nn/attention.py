"""Attention weights of edges from invariants, smooth when an edge leaves the cutoff.

Shapes: N nodes, E edges, h heads, A channels per head.
"""

import math

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu

#: Slope of the leaky activation for very negative arguments.
LEAK = 0.2
EPSILON = 1e-3


class AttentionLogits(nn.Module):
    """Invariants of an edge, re-normalised per head -> one number per head.

    a = w · φ(norm(f)) / √A, with φ(x) = s x + (1 - s) SiLU(x), a smooth leaky rectifier.

    Source: Liao et al. 2023, arXiv:2306.12059, section 4.1 (attention re-normalisation).
    """

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads, channels))
        self.bias = nn.Parameter(torch.zeros(heads, channels))
        self.weight = nn.Parameter(torch.randn(heads, channels))

    def forward(self, invariants: Tensor) -> Tensor:
        """[E, h A] -> [E, h]."""
        x = invariants.unflatten(-1, self.weight.shape)
        x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.scale + self.bias
        x = LEAK * x + (1 - LEAK) * SILU_GAIN * silu(x)
        return (x * self.weight).sum(-1) / math.sqrt(self.weight.shape[1])


def attention_weights(logits: Tensor, envelope: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
    """Softmax over the edges of every receiver that lets edges fade out, the last one too.

    α_e = u_e exp(a_e - m) / (exp(-m) + Σ u exp(a - m)) with m = max(0, max a), the same number for every m: a node without
    edges has a weight of one on nothing, so weights are as smooth as the envelope however many edges remain.

    Args:
        logits: a, [E, h].
        envelope: u, [E], zero at the cutoff.
        receivers: [E].
        num_receivers: N.

    Returns:
        [E, h], positive, with a sum below one at every receiver.
    """
    with torch.no_grad():
        index = receivers.unsqueeze(-1).expand_as(logits)
        highest = logits.new_zeros(num_receivers, logits.shape[1]).scatter_reduce(0, index, logits, "amax")
    weight = envelope.unsqueeze(-1) * torch.exp(logits - highest.index_select(0, receivers))
    total = torch.exp(-highest).index_add(0, receivers, weight)
    return weight / total.index_select(0, receivers)
