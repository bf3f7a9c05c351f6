"""A model of one's own: convolutions and gates. To train it, and to predict with the file:

python own_model.py train model=gated data=sample model.channels=16
python own_model.py predict outputs/DATE/TIME/model.safetensors in.xyz -o out.xyz
"""

import sys

import torch
from torch import Tensor, nn

import eqmol.models
from eqmol import ops
from eqmol.cli.main import main
from eqmol.models import Backbone
from eqmol.models.arguments import check_elements, check_integer, check_number
from eqmol.nn import BesselBasis, ElementEmbedding, Gate, Linear, RadialNetwork
from eqmol.ops import RadialWeight, Spec


class Layer(nn.Module):
    """gate(linear(convolution(x)))."""

    def __init__(self, degrees: tuple[int, int], family: str, backend: str, channels: int, scale: float) -> None:
        super().__init__()
        degree_in, degree = degrees
        spec = Spec("convolution", family, "o3", degree_in, degree, degree)
        self.convolution, self.scale = ops.convolution(spec, backend), scale
        self.radial = RadialNetwork(8, [32], spec.num_weights, channels)
        self.mix, self.gate = Linear(degree, degree, channels, channels), Gate(degree, channels)

    def forward(self, x: Tensor, vectors: Tensor, basis: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        weight = RadialWeight(*self.radial(basis))
        messages = self.convolution(x, self.convolution.geometry(vectors), weight, senders, receivers, len(x))
        return self.gate(self.mix(messages * self.scale))


class Gated(Backbone):
    """Features of every layer; what a file may hold is checked before anything is built."""

    def __init__(
        self, elements: list[int], avg_num_neighbors: float, backend: str, family: str,
        channels: int = 8, degree: int = 2, layers: int = 2, cutoff: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.elements, self.cutoff = check_elements(elements), check_number("cutoff", cutoff, 0.1, 100.0)
        self.channels = check_integer("channels", channels, 1, 512)
        self.num_outputs = check_integer("layers", layers, 1, 9)
        self.degree_out = check_integer("degree", degree, 0, 8)
        scale = max(check_number("avg_num_neighbors", avg_num_neighbors, 0.0, 1e6), 1.0) ** -0.5
        self.embedding, self.basis = ElementEmbedding(len(elements), channels), BesselBasis(self.cutoff, 8)
        sizes = [(degree if i else 0, degree) for i in range(layers)]
        self.layers = nn.ModuleList(Layer(pair, family, backend, channels, scale) for pair in sizes)

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> list[Tensor]:
        basis, features = self.basis(torch.linalg.vector_norm(vectors, dim=-1)), [self.embedding(species)]
        for layer in self.layers:
            features.append(self.run(layer, features[-1], vectors, basis, senders, receivers))
        return features[1:]


eqmol.models.register("gated", Gated)
if __name__ == "__main__":
    sys.exit(main())
