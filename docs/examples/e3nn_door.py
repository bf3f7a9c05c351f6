"""A small NequIP-like layer of e3nn, and its tensor product by eqmol: same weights, same energy, same forces."""

import torch
from e3nn import nn, o3

from eqmol.interop import replace_products, uvu_paths


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.harmonics = o3.SphericalHarmonics("0e+1o+2e", normalize=True, normalization="component")
        irreps, paths = uvu_paths("16x0e+16x1o", "0e+1o+2e", "0e+1o+1e")
        self.product = o3.TensorProduct("16x0e+16x1o", "0e+1o+2e", irreps, paths, shared_weights=False)
        self.radial = nn.FullyConnectedNet([1, 32, self.product.weight_numel], torch.nn.functional.silu)
        self.readout = o3.FullyConnectedTensorProduct(irreps, irreps, "0e")

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        receivers, senders = (torch.cdist(positions, positions) > 0).nonzero().T
        vectors = positions[senders] - positions[receivers]
        weights = self.radial(torch.exp(-vectors.norm(dim=1, keepdim=True)))
        messages = self.product(features[senders], self.harmonics(vectors), weights)
        nodes = messages.new_zeros(len(positions), messages.shape[1]).index_add(0, receivers, messages)
        return self.readout(nodes, nodes).sum()


torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
network = Network()
features, positions = torch.randn(8, 64), torch.randn(8, 3, requires_grad=True)
before = network(features, positions)
forces_before = -torch.autograd.grad(before, positions)[0]

print("replaced:", *replace_products(network))  # parameters stay, a state of the old network loads
after = network(features, positions)
forces_after = -torch.autograd.grad(after, positions)[0]
print(f"energy {before:.6f} and {after:.6f}, forces differ by {(forces_after - forces_before).abs().max():.0e}")
