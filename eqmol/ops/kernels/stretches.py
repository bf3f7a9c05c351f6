"""Edges in stretches, which threads take one after another.

How they are divided depends on the edges alone: results are the same, to the last bit, for any number of threads.
"""

from functools import lru_cache

import torch
from torch import Tensor

from eqmol.so3.kept import kept

#: Edges of a stretch, at least.
SIZE = 4096
#: Most stretches, and most of those that have sums over all senders of their own.
MOST, MOST_SUMS = 32, 4


@kept
def by_receiver(receivers: Tensor) -> Tensor:
    """Starts of stretches, and the end of the last, [S + 1]: no two have edges to the same receiver.

    Args:
        receivers: [E]; if they are not sorted there is one stretch.
    """
    starts = equal(len(receivers), MOST).clone()
    if len(starts) > 2 and bool((receivers[1:] >= receivers[:-1]).all()):
        # back to the first edge to the same receiver
        starts[1:-1] = torch.searchsorted(receivers, receivers[starts[1:-1]])
        return starts
    return equal(len(receivers), 1)


def equal(edges: int, most: int = MOST_SUMS) -> Tensor:
    """Starts of stretches of about as many edges, and the end of the last, [S + 1]."""
    return _equal(edges, max(1, min(edges // SIZE, most)))


@lru_cache(maxsize=64)
def _equal(edges: int, number: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([edges * i // number for i in range(number + 1)])
