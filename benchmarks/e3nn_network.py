"""A network of e3nn with its own tensor products beside the same network through ``eqmol.interop``, printed as a table.

    python benchmarks/e3nn_network.py [--rounds 7] [--atoms 64] [--channels 32] [--degree 2] [--layers 3]

The network is e3nn's ``nn.models.v2106`` message passing with both parities of every degree, on a random cluster: energies, forces,
and the gradient of a loss of both. ``product`` puts ``interop.TensorProduct`` in the place of ``o3.TensorProduct`` and changes
nothing else; ``cg`` and ``escn`` are ``interop.Convolution``, which takes in gathering and summing. Weights are the same. Process
time in float32 on one thread, medians of interleaved runs; errors are the largest of energies and forces, relative to the largest,
in float64.
"""

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from eqmol.interop import Convolution, replace_products
from eqmol.tuning.cache import hardware

CUTOFF = 5.0  #: Å
BASIS = 8


class Network(nn.Module):
    """Energy of positions [N, 3] by e3nn's message passing."""

    def __init__(self, channels: int, degree: int, layers: int, neighbors: float) -> None:
        super().__init__()
        from e3nn import o3
        from e3nn.nn.models.v2106.gate_points_message_passing import MessagePassing

        hidden = [(channels, (l, p)) for l in range(degree + 1) for p in (-1, 1)]
        harmonics = o3.Irreps.spherical_harmonics(degree)
        self.passing = MessagePassing(
            [f"{channels}x0e", *[hidden] * layers, "0e"], "0e", harmonics, [BASIS, 64], neighbors
        )
        self.features = nn.Parameter(torch.randn(channels))
        self.geometry: Callable[..., Tensor] = partial(
            o3.spherical_harmonics, harmonics, normalize=True, normalization="component"
        )
        for name, parameter in self.passing.named_parameters():
            if name.endswith("alpha.weight"):  # zero as it is made: convolutions would not count
                nn.init.normal_(parameter)

    def forward(self, positions: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        from e3nn.math import soft_one_hot_linspace

        vectors = positions[senders] - positions[receivers]
        radial = soft_one_hot_linspace(vectors.norm(dim=1), 0.0, CUTOFF, BASIS, basis="smooth_finite", cutoff=True)
        ones = positions.new_ones(len(positions), 1)
        return self.passing(
            ones * self.features, ones, senders, receivers, self.geometry(vectors), radial * BASIS**0.5
        ).sum()


class Layer(nn.Module):
    """A convolution of v2106 with gather, product and sum in one."""

    def __init__(self, old: Any, backend: str) -> None:
        super().__init__()
        self.old = old
        self.convolution = Convolution.from_e3nn(old.tp, backend)

    def forward(
        self, nodes: Tensor, attributes: Tensor, senders: Tensor, receivers: Tensor, geometry: Tensor, radial: Tensor
    ) -> Tensor:
        old = self.old
        sent = old.lin1(nodes, attributes)
        summed = self.convolution(sent, geometry, old.fc(radial), senders, receivers, len(nodes))
        summed = summed / old.num_neighbors**0.5
        alpha = 1 + old.sc.output_mask * (old.alpha(summed, attributes) - 1)
        return old.sc(nodes, attributes) + alpha * old.lin2(summed, attributes)


def with_products(network: Network) -> Network:
    new = copy.deepcopy(network)
    replace_products(new)
    return new


def with_convolutions(network: Network, backend: str) -> Network:
    new = copy.deepcopy(network)
    *gated, last = new.passing.layers
    for block in gated:
        block.first = Layer(block.first, backend)
    new.passing.layers[-1] = Layer(last, backend)
    # all layers share the rotations or harmonics of the second, which has every degree
    new.geometry = gated[1].first.convolution.geometry if backend == "escn" else network.geometry
    return new


def cluster(atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions with some thirty neighbours each, senders and receivers."""
    side = round(atoms ** (1 / 3) + 0.49)
    lattice = torch.cartesian_prod(*[2.4 * torch.arange(side)] * 3)[:atoms]
    positions = lattice + 0.2 * torch.randn(atoms, 3)
    distances = torch.cdist(positions, positions)
    receivers, senders = ((distances < CUTOFF) & ~torch.eye(atoms, dtype=torch.bool)).nonzero().T
    return positions, senders, receivers


def energy(network: Network, *graph: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [network(*graph)]


def forces(network: Network, positions: Tensor, *edges: Tensor, create_graph: bool = False) -> list[Tensor]:
    positions = positions.detach().requires_grad_()
    total = network(positions, *edges)
    return [total, -torch.autograd.grad(total, positions, create_graph=create_graph)[0]]


def training(network: Network, *graph: Tensor) -> list[Tensor]:
    total, force = forces(network, *graph, create_graph=True)
    loss = total.square() + force.square().sum()
    parameters = [p for p in network.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 7), ("atoms", 64), ("channels", 32), ("degree", 2), ("layers", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # e3nn 0.5 scripts its modules, of which torch warns
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    graph = cluster(options.atoms)
    neighbors = len(graph[1]) / options.atoms
    networks = {"e3nn": Network(options.channels, options.degree, options.layers, neighbors)}
    networks["product"] = with_products(networks["e3nn"])
    networks |= {backend: with_convolutions(networks["e3nn"], backend) for backend in ("cg", "escn")}
    expected = forces(networks["e3nn"], *graph)
    errors = {
        name: max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(forces(one, *graph), expected, strict=True)
        )
        for name, one in networks.items()
    }
    torch.set_default_dtype(torch.float32)
    networks = {name: one.float() for name, one in networks.items()}
    graph = graph[0].float(), *graph[1:]
    tasks: dict[str, Callable[..., list[Tensor]]] = {"energy": energy, "forces": forces, "training": training}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.rounds + 1):
        for task, run in tasks.items():
            for name, network in networks.items():
                begin = time.process_time()
                run(network, *graph)
                if turn:  # the first is the warm-up
                    times.setdefault((task, name), []).append(1e3 * (time.process_time() - begin))
    table = Table(
        title=f"CPU ms per call; e3nn {version('e3nn')}, v2106, {options.channels} channels of degrees 0 to {options.degree}, "
        f"{options.atoms} atoms, {len(graph[1])} edges; {hardware(torch.device('cpu'))}"
    )
    for column in ("products", *tasks, "error"):
        table.add_column(column, justify="right")
    for name in networks:
        medians = {task: statistics.median(times[task, name]) for task in tasks}
        cells = [f"{t:.0f} ({statistics.median(times[task, 'e3nn']) / t:.1f}×)" for task, t in medians.items()]
        table.add_row(name, *cells, f"{errors[name]:.1e}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
