"""Constants of a potential that keep double precision whatever the dtype of the network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DoubleBuffers(nn.Module):
    """A module whose float64 buffers stay float64 under ``.to(dtype)``, ``.float()`` and ``.half()``.

    Total energies of molecules are 10^4 eV: float32 would round them by meV.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        double = {name: b for name, b in self.named_buffers(recurse=False) if b.dtype == torch.float64}
        super()._apply(fn, recurse)
        for name, before in double.items():
            after = self.get_buffer(name)
            if after.dtype != torch.float64:
                # a meta tensor has no values to keep
                kept = after.double() if before.is_meta else before.to(after.device)
                setattr(self, name, kept)
        return self


class ReferenceEnergy(DoubleBuffers):
    """Energy of the isolated atom of each element, and the scale of the network's energies.

    Args:
        e0: eV, in the order of the model's elements.
        scale: eV, multiplies what the network returns.
    """

    e0: Tensor
    scale: Tensor

    def __init__(self, e0: list[float], scale: float) -> None:
        super().__init__()
        self.register_buffer("e0", torch.tensor(e0, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def forward(self, interaction: Tensor, species: Tensor) -> Tensor:
        """Dimensionless interaction [N] of the network's dtype and element index [N] -> energies [N], float64 eV."""
        return self.e0.index_select(0, species) + self.scale * interaction.double()
