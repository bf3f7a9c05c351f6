"""Laws of physics that the assembled model obeys, for every algorithm."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase import Atoms

from eqmol.graph import collate
from eqmol.models import Potential
from tests.models.systems import (
    CUTOFF,
    E0,
    ELEMENTS,
    FAMILIES,
    VARIANTS,
    graph_of,
    make_model,
    random_rotation,
    structures,
    transformed,
)

pytestmark = pytest.mark.usefixtures("float64")

STEP = 3e-4
STENCIL = (-2 * STEP, -STEP, STEP, 2 * STEP)
every_algorithm = pytest.mark.parametrize(("family", "backend"), FAMILIES)
every_model = pytest.mark.parametrize("variant", VARIANTS)
every_parity = pytest.mark.parametrize("parity", ["o3", "so3"])


def energy(model: Potential, atoms: Atoms) -> float:
    return model(graph_of(atoms), forces=False)["energy"].item()


def slope(values: Sequence[float]) -> float:
    """Derivative at zero, by a stencil of fourth order, of a function whose values at ``STENCIL`` are given."""
    return float(np.dot(values, (1, -8, 8, -1))) / (12 * STEP)


def slopes(model: Potential, *paths: Callable[[float], Atoms]) -> list[float]:
    """Derivatives at zero of the energy along paths."""
    energies = model(collate([graph_of(path(t)) for path in paths for t in STENCIL]), forces=False)["energy"]
    return [slope(values) for values in energies.reshape(len(paths), 4).tolist()]


@every_algorithm
@every_parity
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        *(("mace", {"correlation": order, "pair_radial": order == 3, "zbl": order == 4}) for order in (1, 3, 4)),
        ("mace", {"distance_transform": "soft", "zbl": "mace"}),
        *((name, {}) for name in VARIANTS),
    ],
    ids=str,
)
def test_forces_and_virial_are_derivatives(family: str, backend: str, parity: str, variant: str, options: dict) -> None:
    model = make_model(backend, family, parity, variant, **options)
    rng = np.random.default_rng(0)
    for atoms in structures().values():
        results = model(graph_of(atoms), stress=True)
        # one random direction sees every component
        direction = rng.normal(size=atoms.positions.shape) / len(atoms)
        strain = rng.normal(size=(3, 3)) / 5
        strain = (strain + strain.T) / 2

        def moved(t: float, atoms: Atoms = atoms, direction: np.ndarray = direction) -> Atoms:
            displaced = atoms.copy()
            displaced.positions += t * direction
            return displaced

        def strained(t: float, atoms: Atoms = atoms, strain: np.ndarray = strain) -> Atoms:
            return transformed(atoms, np.eye(3) + t * strain)

        forces, virial = results["forces"].numpy(), results["virial"][0].numpy()
        along, with_strain = slopes(model, moved, strained)
        assert abs(along + (forces * direction).sum()) < 1e-6 * max(1, abs(forces).max())
        assert abs(with_strain + (virial * strain).sum()) < 1e-6 * max(1, abs(virial).max())
        if atoms.pbc.all():
            torch.testing.assert_close(results["stress"] * -atoms.get_volume(), results["virial"])
        else:
            assert results["stress"].isnan().all()


@every_algorithm
@every_parity
@every_model
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_rotation_translation_permutation(family: str, backend: str, parity: str, variant: str, forces: str) -> None:
    model = make_model(backend, family, parity, variant, forces=forces)
    for atoms in structures().values():
        before = model(graph_of(atoms), stress=model.conservative)
        matrix = random_rotation(7)
        if parity == "o3":
            matrix = -matrix
        order = np.random.default_rng(1).permutation(len(atoms))
        changed = transformed(atoms, matrix)[order]
        changed.positions += [0.3, -5.0, 1.1]
        after = model(graph_of(changed), stress=model.conservative)
        rotation = torch.tensor(matrix)
        assert before["forces"].abs().max() > 1e-6
        torch.testing.assert_close(after["energy"], before["energy"], atol=1e-10, rtol=1e-15)
        torch.testing.assert_close(after["forces"], before["forces"][order] @ rotation, atol=1e-10, rtol=1e-12)
        if model.conservative:
            virial = rotation.T @ before["virial"] @ rotation
            torch.testing.assert_close(after["virial"], virial, atol=1e-10, rtol=1e-12)


@every_algorithm
@every_model
def test_so3_sees_mirror_images(family: str, backend: str, variant: str) -> None:
    model = make_model(backend, family, "so3", variant)
    # an ethanol molecule twisted out of its mirror plane
    atoms = structures()["molecule"]
    assert abs(energy(model, atoms) - energy(model, transformed(atoms, -np.eye(3)))) > 1e-6


@every_algorithm
@every_model
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_extensivity_and_isolated_atoms(family: str, backend: str, variant: str, forces: str) -> None:
    model = make_model(backend, family, variant=variant, forces=forces, zbl=forces == "conservative")
    atoms = structures()["molecule"]
    distant = atoms.copy()
    distant.positions += [100.0, 20.0, 0.0]
    one = model(graph_of(atoms))
    two = model(graph_of(atoms + distant + Atoms("O", positions=[[-50, 0, 0]])))
    torch.testing.assert_close(two["energy"], 2 * one["energy"] + E0[2], atol=1e-9, rtol=0)
    torch.testing.assert_close(two["forces"][: len(atoms)], one["forces"], atol=1e-9, rtol=0)
    assert two["energies"][-1] == E0[2]
    assert (two["forces"][-1] == 0).all()
    for number, e0 in zip(ELEMENTS, E0, strict=True):
        alone = model(graph_of(Atoms([number], positions=[[1, 2, 3]])), stress=model.conservative)
        assert alone["energy"].item() == e0
        assert (alone["forces"] == 0).all()
        assert not alone.get("virial", torch.zeros(1)).any()


@every_algorithm
@every_model
@pytest.mark.parametrize("formula", ["OH", "COH"])
def test_smooth_when_the_last_neighbor_leaves(family: str, backend: str, variant: str, formula: str) -> None:
    model = make_model(backend, family, variant=variant, zbl=True)

    def at(distance: float) -> tuple[float, float]:
        # the hydrogen's only neighbour is the oxygen, which has no other or one that stays
        positions = [[-1.2, 0, 0], [0, 0, 0], [distance, 0, 0]]
        results = model(graph_of(Atoms(formula, positions=positions[3 - len(formula) :])))
        return results["energy"].item(), results["forces"][-1, 0].item()

    inside, outside = at(CUTOFF - 1e-4), at(CUTOFF + 1e-4)
    assert abs(inside[0] - outside[0]) < 1e-9
    assert abs(inside[1] - outside[1]) < 1e-5
    # the force's slope vanishes too: halving the distance to the cutoff takes more than a quarter off the force
    near, nearer = at(CUTOFF - 2e-2)[1], at(CUTOFF - 1e-2)[1]
    assert abs(nearer) < 0.3 * abs(near)


@every_algorithm
@every_model
def test_batches_equal_single_structures(family: str, backend: str, variant: str) -> None:
    model = make_model(backend, family, variant=variant)
    graphs = [graph_of(atoms) for atoms in structures().values()]
    batch = model(collate(graphs), stress=True)
    single = [model(graph, stress=True) for graph in graphs]
    for name, value in batch.items():
        expected = torch.cat([results[name] for results in single])
        torch.testing.assert_close(value, expected, atol=1e-9, rtol=0, equal_nan=True)


@every_algorithm
@every_parity
@every_model
def test_float32_agrees_with_float64(family: str, backend: str, parity: str, variant: str) -> None:
    double = make_model(backend, family, parity, variant)
    torch.set_default_dtype(torch.float32)
    single = make_model(backend, family, parity, variant)
    single.load_state_dict(double.state_dict())
    assert single.dtype == torch.float32
    for atoms in structures().values():
        a, b = double(graph_of(atoms)), single(graph_of(atoms))
        assert all(value.dtype == torch.float64 for value in b.values())
        # rounding is relative to what the network returns, which is larger where messages are divided by less
        atol = 5e-5 if variant == "mace-density" else 2e-5
        torch.testing.assert_close(b["energies"], a["energies"], atol=atol, rtol=0)
        torch.testing.assert_close(b["forces"], a["forces"], atol=2e-4 if variant == "mace" else 1e-3, rtol=0)


@every_algorithm
@every_parity
@every_model
def test_force_loss_can_be_trained(family: str, backend: str, parity: str, variant: str) -> None:
    model = make_model(backend, family, parity, variant, zbl=True).train()
    graph = graph_of(structures()["triclinic"])
    target = torch.randn(len(graph.pos), 3)

    def loss() -> torch.Tensor:
        results = model(graph, stress=True)
        return (results["forces"] - target).pow(2).mean() + results["stress"].pow(2).sum() + results["energy"].sum()

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn_like(p) / 10 for p in parameters]
    start = [p.detach().clone() for p in parameters]
    predicted = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))

    def moved(t: float) -> float:
        with torch.no_grad():
            for p, s, d in zip(parameters, start, directions, strict=True):
                p.copy_(s + t * d)
        return loss().item()

    assert abs(slope([moved(t) for t in STENCIL]) - predicted) < 1e-5 * max(1, abs(predicted))
