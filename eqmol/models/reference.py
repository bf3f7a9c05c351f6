"""Constants of a potential that keep double precision whatever the dtype of the network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eqmol.nn import polynomial_envelope

#: Neighbours as near as bonds, for which the envelope is 1, give this many powers of e of the way from a free atom.
SATURATION = 4.0


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


class BindingEnergy(DoubleBuffers):
    """b(Z_i) · (1 - exp(-4 Σ_j u(r_ij / cutoff))), u the envelope: a constant for atoms with neighbours, zero for free ones.

    Args:
        binding: b, eV, in the order of the model's elements.
        cutoff: Å, of the edges.
    """

    binding: Tensor

    def __init__(self, binding: list[float], cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("binding", torch.tensor(binding, dtype=torch.float64), persistent=False)

    def forward(self, lengths: Tensor, species: Tensor, receivers: Tensor) -> Tensor:
        """Edge lengths [E] float64 in Å, element index [N], receivers [E] -> energies [N], float64 eV."""
        near = polynomial_envelope(lengths / self.cutoff)
        crowd = near.new_zeros(len(species)).index_add(0, receivers, near)
        return -self.binding.index_select(0, species) * torch.expm1(-SATURATION * crowd)
