"""The backbone: scale at initialisation, options, files, learning, and arguments that are refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from eqmol.checkpoint import build, load, save
from eqmol.errors import InputError
from eqmol.graph import collate, edge_vectors, from_atoms
from eqmol.models import Equiformer
from eqmol.nn import PairNetwork, RadialNetwork
from eqmol.so3.layout import dim
from tests.models.systems import CUTOFF, E0, ELEMENTS, FAMILIES, graph_of, make_model, structures

ARGUMENTS = {
    "backend": "grid",
    "family": "gaunt",
    "parity": "o3",
    "degree": 2,
    "filter_degree": 4,
    "channels": 16,
    "layers": 3,
    "cutoff": CUTOFF,
    "elements": ELEMENTS,
    "avg_num_neighbors": 8.0,
    "radial_hidden": [32, 32],
}


def features(model: Equiformer, atoms: Atoms) -> torch.Tensor:
    graph = from_atoms(atoms, model.cutoff)
    species = torch.tensor([model.elements.index(z) for z in graph.atomic_numbers.tolist()])
    (x,) = model(edge_vectors(graph).to(model.dtype), species, *graph.edge_index)
    return x


@pytest.mark.parametrize(("family", "backend"), FAMILIES)
@pytest.mark.parametrize(("degree", "degree_out"), [(0, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("feedforward", ["gate", "product", "s2"])
@pytest.mark.parametrize("selfmix", [False, True])
def test_shapes(family: str, backend: str, degree: int, degree_out: int, feedforward: str, selfmix: bool) -> None:
    sizes = {"family": family, "backend": backend, "degree": degree, "degree_out": degree_out, "layers": 2}
    model = Equiformer(**ARGUMENTS | sizes, feedforward=feedforward, selfmix=selfmix)
    assert features(model, structures()["molecule"]).shape[1:] == (dim(degree_out), 16)


@pytest.mark.parametrize("degree", [1, 3, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feedforward": "gate"},
        {"feedforward": "s2"},
        {"messages": "nonlinear"},
        {"selfmix": True, "norm": "rms"},
    ],
    ids=str,
)
def test_activations_have_unit_scale_at_initialisation(degree: int, options: dict) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    graph = from_atoms(atoms, 4.0)
    sizes = {"degree": degree, "filter_degree": min(2 * degree, 8), "layers": 2, "elements": [29], "cutoff": 4.0}
    sizes |= {"avg_num_neighbors": graph.num_edges / len(atoms), "degree_out": 1, "channels": 32}
    model = Equiformer(**ARGUMENTS | sizes | options)
    scales = {}
    for name, module in model.named_modules():
        if name == "edge_embedding" or name.endswith(".attention") or (".node_blocks." in name and name[-1].isdigit()):
            module.register_forward_hook(
                lambda _, __, y, name=name: scales.update({name: y.square().mean().sqrt().item()})
            )
    x = features(model, atoms)
    assert len(scales) >= 5
    assert all(0.1 < scale < 8 for scale in scales.values()), scales
    assert 0.5 < x[:, 0].square().mean().sqrt() < 2


def test_order_max_is_a_smaller_space_of_the_coupled_family() -> None:
    coupled = ARGUMENTS | {"family": "coupled", "backend": "escn"}
    torch.manual_seed(0)
    full, restricted = Equiformer(**coupled), Equiformer(**coupled, order_max=1)
    assert sum(p.numel() for p in restricted.parameters()) < sum(p.numel() for p in full.parameters())
    sparse = Equiformer(**coupled | {"backend": "cg"}, order_max=1)
    sparse.load_state_dict(restricted.state_dict())
    atoms = structures()["molecule"]
    torch.testing.assert_close(features(sparse, atoms), features(restricted, atoms), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="order_max=1 restricts convolutions of the coupled family"):
        Equiformer(**ARGUMENTS, order_max=1)


def test_noise_belongs_to_training_and_follows_the_seed() -> None:
    model = make_model("grid", "gaunt", variant="equiformer", drop_path=0.4, alpha_drop=0.4)
    graph = graph_of(structures()["molecule"])
    assert model(graph)["energy"] == model(graph)["energy"]
    model.train()
    energies = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        energies.append(model(graph)["energy"].item())
    assert energies[0] == energies[1] != energies[2]


@pytest.mark.usefixtures("float64")
def test_the_sphere_activation_breaks_rotations_a_little_and_conserves_energy() -> None:
    model = make_model("grid", "gaunt", variant="equiformer", feedforward="s2", degree=2, filter_degree=4)
    atoms = structures()["molecule"]
    rotated = atoms.copy()
    rotated.rotate(40, (1, 2, 3))
    results, others = model(graph_of(atoms)), model(graph_of(rotated))
    interaction = results["energies"] - torch.tensor([E0[ELEMENTS.index(z)] for z in atoms.numbers])
    error = ((others["energies"] - results["energies"]).abs().max() / interaction.abs().max()).item()
    print(f"\nfeedforward=s2: a rotation changes site energies by {error:.1e} of the largest")
    assert 1e-9 < error < 0.1
    moved = atoms.copy()
    step = 1e-4
    moved.positions[0, 0] += step
    forward = model(graph_of(moved), forces=False)["energy"].item()
    moved.positions[0, 0] -= 2 * step
    slope = (forward - model(graph_of(moved), forces=False)["energy"].item()) / (2 * step)
    assert abs(slope + results["forces"][0, 0].item()) < 1e-5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("family", "backend"), FAMILIES)
def test_forces_of_a_slab_with_edges_along_the_axes(family: str, backend: str, axis: int) -> None:
    # simple cubic layers, not rattled: every first edge is along ±x, ±y or ±z; one adatom breaks the symmetry
    normal = np.eye(3)[axis]
    positions = [0 * normal, 2.2 * normal, 4.4 * normal + (1 - normal) * [0.2, 0.4, 0.6]]
    cell = np.where(normal > 0, 12.0, 2.2)
    atoms = Atoms("CCO", positions=positions, cell=cell, pbc=normal == 0)
    model = make_model(backend, family, variant="equiformer", degree=2, filter_degree=4)
    forces = model(graph_of(atoms))["forces"]
    assert forces.abs().max() > 1e-3
    step = 1e-3
    for atom, component in ((0, 0), (1, 1), (1, 2), (2, axis)):
        energies = []
        for multiple in (1, -1, 2, -2):
            moved = atoms.copy()
            moved.positions[atom, component] += multiple * step
            energies.append(model(graph_of(moved), forces=False)["energy"].item())
        slope = (8 * (energies[0] - energies[1]) - (energies[2] - energies[3])) / (12 * step)
        assert abs(slope + forces[atom, component].item()) < 1e-6 * max(1, forces.abs().max().item())


def recipe(**backbone) -> dict:
    sizes = ARGUMENTS | {"channels": 4, "layers": 2, "radial_hidden": [8], "heads": 2} | backbone
    return {
        "_target_": "eqmol.models.Potential",
        "elements": ELEMENTS,
        "e0": E0,
        "scale": 1.0,
        "forces": "direct" if sizes.get("degree_out") else "conservative",
        "backbone": {"_target_": "eqmol.models.Equiformer"} | sizes,
    }


MIXTURE = {
    "family": {"convolution": "coupled", "product": "gaunt"},
    "backend": {"convolution": "escn", "product": "grid"},
    "selfmix": True,
}


PUBLISHED = {"backend": "escn", "family": "coupled", "messages": "so2", "activation": "s2", "feedforward": "grid"}
PUBLISHED |= {"degree_out": 1, "force_attention": True, "element_channels": 2, "basis": "gaussian"}


@pytest.mark.parametrize(
    "options", [{}, {"degree_out": 1}, MIXTURE, PUBLISHED], ids=["plain", "direct", "mixture", "published"]
)
def test_files(tmp_path: Path, options: dict) -> None:
    model = build(recipe(**options)).eval()
    save(model, tmp_path / "m.safetensors")
    graph = graph_of(structures()["molecule"])
    loaded = load(tmp_path / "m.safetensors")
    torch.testing.assert_close(loaded(graph), model(graph), atol=0, rtol=0)
    other = load(tmp_path / "m.safetensors", backend="cg", dtype="float64")
    torch.testing.assert_close(other(graph)["forces"], model(graph)["forces"], atol=1e-4, rtol=1e-4)


def test_wide_gaussians_make_energies_smooth_however_many_they_are() -> None:
    """The curvature of a dimer's energy against its length."""
    curvatures = {}
    for size, width in [(12, None), (120, None), (12, 0.6), (120, 0.6)]:
        model = make_model("cg", "coupled", variant="equiformer", basis="gaussian", num_bessel=size, basis_width=width)
        lengths = np.linspace(0.8, 2.5, 300)
        batch = collate([graph_of(Atoms("CO", [[0, 0, 0], [0, 0, r]])) for r in lengths])
        with torch.no_grad():
            energies = model(batch, forces=False)["energy"]
        second = energies.diff(n=2) / (lengths[1] - lengths[0]) ** 2
        curvatures[size, width] = float(second.square().mean().sqrt() / energies.std())
    assert curvatures[120, None] > 5 * curvatures[12, None]
    assert curvatures[120, 0.6] < 2 * curvatures[12, 0.6]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variant", ["mace", "equiformer"])
def test_amplitudes_of_bessel_functions_are_factors_of_first_weights(variant: str) -> None:
    falling, plain = (make_model(variant=variant, bessel_decay=decay) for decay in (0.7, 0.0))
    factors = falling.backbone.basis.amplitudes(torch.float64) / plain.backbone.basis.amplitudes(torch.float64)
    assert factors.min() < 0.8 < 1.2 < factors.max()
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, RadialNetwork | PairNetwork):
                (module.layers[0] if isinstance(module, RadialNetwork) else module.first).mul_(factors[:, None])
    graph = graph_of(structures()["molecule"])
    torch.testing.assert_close(falling(graph), plain(graph), atol=1e-12, rtol=1e-12)


def test_the_decay_is_of_bessel_functions() -> None:
    with pytest.raises(InputError, match="but basis='gaussian'; give bessel_decay=0"):
        make_model("cg", "coupled", variant="equiformer", basis="gaussian", bessel_decay=1.0)


def test_widths_are_of_gaussians() -> None:
    with pytest.raises(
        InputError, match=r"basis_width=0\.5 is that of Gaussians, but basis=bessel; give basis=gaussian"
    ):
        make_model("cg", "coupled", variant="equiformer", basis_width=0.5)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_learns_a_few_structures_by_heart(forces: str) -> None:
    sizes = {"channels": 16, "radial_hidden": [16, 16]}
    model = make_model("grid", "gaunt", variant="equiformer", forces=forces, **sizes).train()
    frames = []
    for seed in range(3):
        atoms = structures()["molecule"].copy()
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    batch = collate([graph_of(atoms) for atoms in frames])
    target = torch.randn(len(batch.pos), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if forces == "conservative":
        target = make_model("cg", "coupled", seed=7)(batch)["forces"]
    target = target / target.std()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (model(batch)["forces"] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * min(losses[0], 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 10**6}, "degree=1000000 must be an integer from 0"),
        ({"degree_out": 3}, "degree_out=3 must be an integer from 0 to 2"),
        ({"heads": 3}, "radial_hidden=.*multiple of heads=3"),
        ({"alpha_channels": 1}, "alpha_channels=1"),
        ({"hidden_channels": 0}, "hidden_channels=0"),
        ({"messages": "loud"}, "messages='loud' is unknown; choose from linear, nonlinear, so2"),
        ({"feedforward": "relu"}, "feedforward='relu' is unknown; choose from gate, grid, product, s2"),
        ({"norm": "batch"}, "norm='batch' is unknown"),
        ({"selfmix": "yes"}, "selfmix='yes'"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"alpha_drop": math.nan}, "alpha_drop=nan"),
        ({"checkpointing": 1}, "checkpointing=1"),
        ({"backend": ["cg"]}, "backend"),
        ({"backend": "escn", "family": {"product": "gaunt"}}, "one name per operation with one for convolution"),
        ({"family": "coupled"}, "grid.*coupled"),
        ({"family": ["gaunt"]}, "family"),
        ({"elements": []}, "elements"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_in_one_sentence(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Equiformer(**ARGUMENTS | change)
    assert "\n" not in str(error.value)


def test_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        model = Equiformer(**ARGUMENTS | {"channels": 1024}, feedforward="s2", messages="nonlinear", selfmix=True)
    assert all(p.is_meta for p in model.parameters())


def test_batches_of_no_edges() -> None:
    model = Equiformer(**ARGUMENTS, messages="nonlinear", selfmix=True)
    graph = collate([graph_of(Atoms("H")), graph_of(Atoms("O"))])
    (x,) = model(torch.zeros(0, 3), torch.tensor([0, 2]), *graph.edge_index)
    assert torch.isfinite(x).all()
