"""Edges in stretches, which threads take one after another.

How they are divided depends on the edges alone: results are the same, to the last bit, for any number of threads.
"""

from functools import lru_cache

import torch
from torch import Tensor

from eqmol.so3.kept import kept

#: Edges of a stretch, at least, and most stretches.
SIZE, MOST = 4096, 32
#: Most sums over all senders.
SUMS = 4


@kept
def by_receiver(receivers: Tensor) -> Tensor:
    """Starts of stretches, and the end of the last, [S + 1]: no two have edges to the same receiver.

    Args:
        receivers: [E]; if they are not sorted there is one stretch.
    """
    starts = _equal(len(receivers), _number(len(receivers))).clone()
    if len(starts) > 2 and bool((receivers[1:] >= receivers[:-1]).all()):
        # back to the first edge to the same receiver
        starts[1:-1] = torch.searchsorted(receivers, receivers[starts[1:-1]])
        return starts
    return whole(len(receivers))


def by_sum(edges: int) -> tuple[Tensor, int]:
    """Stretches of about as many edges.

    Returns:
        Starts of the stretches, and the end of the last, [S + 1], and how many that follow each other add to one sum over senders.
    """
    each = max(1, _number(edges) // SUMS)
    return _equal(edges, min(_number(edges), SUMS) * each), each


def whole(edges: int) -> Tensor:
    """All edges in one stretch."""
    return _equal(edges, 1)


def _number(edges: int) -> int:
    return max(1, min(edges // SIZE, MOST))


@lru_cache(maxsize=64)
def _equal(edges: int, number: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([edges * i // number for i in range(number + 1)])
