"""Linear maps between channels whose weights are constants, one per degree and, if nodes have groups, per group of nodes.

Shapes: N nodes, lm components, C channels, G groups, L degrees.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from eqmol.ops.contract import KernelMode
from eqmol.ops.kernels import cpp, library
from eqmol.ops.kernels.forms import parts_of
from eqmol.ops.kernels.library import Kernel
from eqmol.so3.layout import degrees

#: Nodes by stretches and groups, see :meth:`eqmol.ops.kernels.forms.Groups.sorted`.
Sorted = tuple[Tensor, Tensor]


class ChannelMaps:
    """Linear maps by degree.

    Args:
        kernel: of :func:`maps_kernel`.
        weight: [L, C_in, C_out] for all nodes, or [G, L, C_in, C_out].
        factor: of the weights.
    """

    def __init__(self, kernel: Kernel, weight: Tensor, factor: float) -> None:
        weight = factor * (weight if weight.dim() == 4 else weight.unsqueeze(0)).detach()
        self._kernel, (self._groups, self._degrees, self._c_in, self._c_out) = kernel, weight.shape
        self._maps, self._transposes = _packed(weight), _packed(weight.mT)
        self._rows = torch.as_tensor(degrees(self._degrees - 1))

    def __call__(self, x: Tensor, nodes: Sorted, onto: Tensor | None = None) -> Tensor:
        """[N, lm_in, C_in] -> [N, lm, C_out], of the degrees that have maps, or added to the first components of ``onto``."""
        return self._run(x, self._maps, self._c_out, nodes, onto)

    def back(self, v: Tensor, nodes: Sorted, onto: Tensor | None = None) -> Tensor:
        """The derivative of Σ v · result by the argument, [N, lm, C_out] -> [N, lm, C_in]; or added."""
        return self._run(v, self._transposes, self._c_in, nodes, onto)

    def _run(self, x: Tensor, maps: Tensor, channels: int, nodes: Sorted, onto: Tensor | None) -> Tensor:
        rows = self._rows.shape[0]
        y = x.new_empty(x.shape[0], rows, channels) if onto is None else onto
        sizes = channels, x.shape[2], self._groups, self._degrees, x.shape[1], y.shape[1], rows, onto is not None
        self._kernel(sizes, (*nodes, self._rows), {"x": x, "w": maps, "y": y}, x, parts_of(nodes, self._groups))
        return y


@lru_cache(maxsize=8)
def maps_kernel(dtype: torch.dtype, mode: KernelMode) -> Kernel | None:
    """The compiled maps, or None where they cannot be made."""
    return library.of_any_size(cpp.maps_source, ("x", "w"), ("y",), dtype, mode)


def _packed(maps: Tensor) -> Tensor:
    """As the kernel reads them, [G, L, blocks, C_in, width]."""
    width = library.width(maps.dtype)
    blocks = -(-maps.shape[-1] // width)
    filled = pad(maps, (0, blocks * width - maps.shape[-1]))
    return filled.unflatten(-1, (blocks, width)).movedim(-2, -3).contiguous()
