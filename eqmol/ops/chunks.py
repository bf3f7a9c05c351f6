"""How many numbers an algorithm makes at a time.

One reason for all: what a step writes, the next reads from the cache of a core. The largest intermediate alone may have 2^17
numbers, half a MiB in float32; where all buffers of a chunk are counted together they may have 2^20. Other devices have no such
cache: there chunks are as large as keeps them busy, and only bound the memory.
"""

from typing import NamedTuple

from torch import Tensor


class Limit(NamedTuple):
    """Numbers that are made at a time on a CPU and on another device."""

    cpu: int
    elsewhere: int

    def numbers(self, like: Tensor) -> int:
        """The limit where a tensor lies."""
        return self.cpu if like.device.type == "cpu" else self.elsewhere


SAMPLES = Limit(1 << 17, 1 << 25)  #: of functions on the sphere
OUTER_PRODUCTS = Limit(1 << 17, 1 << 26)  #: of components of two features
MONOMIALS = Limit(1 << 20, 1 << 26)  #: of components, of the highest order
EDGES = Limit(1 << 20, 1 << 26)  #: weights, features and results of edges
