"""Untrained models predict numbers of the size of their labels, whatever the data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import add_adsorbate, bulk, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron
from ase.io import read
from omegaconf import OmegaConf

from eqmol import checkpoint
from eqmol.convert.convert import convert
from eqmol.data.atomic_energies import FreeAtom
from eqmol.data.statistics import measure as statistics_of
from eqmol.graph import AtomGraph, collate, from_atoms
from eqmol.models import Potential
from eqmol.train.start import measure
from tests.recipes import recipe
from tests.train.runs import SAMPLE, train

SIZES: dict[str, dict[str, Any]] = {
    "mace": {"degree": 1, "filter_degree": 3, "correlation": 3, "fields": 1},
    "equiformer": {"degree": 2, "filter_degree": 2, "norm": "layer", "heads": 2},
}
MODELS = {"mace": "eqmol.models.MACE", "equiformer": "eqmol.models.Equiformer"}
FAMILIES = {"coupled": "cg", "gaunt": "grid"}
MIXTURE = ["H2", "N2", "NH3"]
ORGANIC = ["CH3OH", "C2H6", "H2O", "CO2", "C2H2", "HCN", "C2H4", "H2CO", "NH3", "N2O", "CH3CHO"]


def alloy(number: int) -> ase.Atoms:
    atoms = bulk("Cu", a=3.8, cubic=True).repeat((2, 1, 1))
    rng = np.random.default_rng(number)
    atoms.numbers[rng.random(len(atoms)) < rng.random()] = 79
    return atoms


def adsorbed(number: int) -> ase.Atoms:
    atoms = fcc100("Pt", (2, 2, 2), vacuum=8)
    add_adsorbate(atoms, "OHCN"[number % 4], 1.4, "hollow")
    return atoms


def emt(make: Callable[[int], ase.Atoms], noise: float, count: int = 16, strain: float = 0.0) -> list[ase.Atoms]:
    """Displaced and strained structures with EMT's labels."""
    rng, frames = np.random.default_rng(0), []
    for number in range(count):
        atoms = make(number).copy()
        if strain:
            atoms.set_cell(atoms.cell * (1 + rng.uniform(-strain, strain)), scale_atoms=True)
        atoms.positions += rng.normal(0, noise, atoms.positions.shape)
        atoms.calc = EMT()
        frames.append(atoms)
    return frames


def argon(number: int) -> ase.Atoms:
    cluster = Icosahedron("Ar", 2, 5.3)
    atoms = ase.Atoms("Ar13", cluster.positions + np.random.default_rng(number).normal(0, 0.1, (13, 3)))
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=12.0, smooth=True)
    return atoms


def copper(distance: float) -> ase.Atoms:
    atoms = ase.Atoms("Cu2", [[0, 0, 0], [0, 0, distance]])
    atoms.calc = EMT()
    return atoms


def free_atoms(*symbols: str) -> dict[int, float]:
    energies = {}
    for symbol in symbols:
        atom = ase.Atoms(symbol, calculator=EMT())
        energies[int(atom.numbers[0])] = float(atom.get_potential_energy())
    return energies


def sample() -> tuple[list[ase.Atoms], dict[int, float]]:
    isolated = read(SAMPLE / "iso_atoms.xyz", ":")
    return read(SAMPLE / "train_300K.xyz", ":8"), {
        int(atom.numbers[0]): float(atom.get_potential_energy()) for atom in isolated
    }


#: Frames, energies of isolated atoms (none: least squares) and cutoff in Å.
SETS: dict[str, Callable[[], tuple[list[ase.Atoms], dict[int, float], float]]] = {
    "water": lambda: (emt(lambda _: molecule("H2O"), 0.05), {}, 5.0),
    "methane, free atoms": lambda: (emt(lambda _: molecule("CH4"), 0.05), free_atoms("H", "C"), 8.0),
    "H2, N2, NH3": lambda: (emt(lambda i: molecule(MIXTURE[i % 3]), 0.05), {}, 5.0),
    "organic": lambda: (emt(lambda i: molecule(ORGANIC[i % 11]), 0.05, 33), {}, 3.0),
    "organic, free atoms": lambda: (
        emt(lambda i: molecule(ORGANIC[i % 11]), 0.05, 33), free_atoms("H", "C", "N", "O"), 5.0,
    ),
    "a drug": lambda: (*sample(), 5.0),
    "dimer, free atoms": lambda: ([copper(d) for d in np.linspace(1.9, 3.2, 16)], free_atoms("Cu"), 6.0),
    "argon": lambda: ([argon(i) for i in range(12)], {18: 0.0}, 8.0),
    "copper": lambda: (emt(lambda _: bulk("Cu", cubic=True).repeat((2, 1, 1)), 0.1, 12, 0.02), {}, 6.0),
    "slab": lambda: (emt(lambda _: fcc111("Al", (2, 2, 3), vacuum=8), 0.1, 12), {}, 4.0),
    "alloy": lambda: (emt(alloy, 0.1, 16, 0.03), {}, 4.0),
    "adsorbates": lambda: (emt(adsorbed, 0.08, 12), {}, 4.0),
}  # fmt: skip


def graphs_of(frames: list[ase.Atoms], cutoff: float, forces: bool = True) -> list[AtomGraph]:
    return [
        from_atoms(
            ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
            cutoff,
            energy=atoms.get_potential_energy(),
            forces=atoms.get_forces() if forces else None,
        )
        for atoms in frames
    ]


def recipe_of(name: str, graphs: list[AtomGraph], isolated: dict[int, float], cutoff: float, **backbone: Any) -> Any:
    found = statistics_of(graphs, {z: FreeAtom(energy, "") for z, energy in isolated.items()}).plain()
    return {
        "_target_": "eqmol.models.Potential",
        "elements": found["elements"],
        "e0": found["e0"],
        "scale": found["scale"],
        "backbone": {
            "_target_": MODELS[name],
            "elements": found["elements"],
            "avg_num_neighbors": found["avg_num_neighbors"],
            "backend": "cg",
            "family": "coupled",
            "parity": "o3",
            "cutoff": cutoff,
            "channels": 6,
            "layers": 2,
            "radial_hidden": [16],
            **SIZES[name],
            **backbone,
        },
    }


def build(plain: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    with checkpoint.default_dtype(torch.float64):
        return checkpoint.build(plain).eval()


def started(plain: dict[str, Any], graphs: list[AtomGraph]) -> tuple[Any, dict[str, Any]]:
    """The untrained model with its constants, and these."""
    constants = measure(build(plain), graphs)
    backbone = plain["backbone"] | {k: v for k, v in constants.items() if k == "message_size"}
    rest = {k: v for k, v in constants.items() if k != "message_size"}
    return build({**plain, **rest, "backbone": backbone}), constants


def ratios(model: Potential, graphs: list[AtomGraph]) -> list[float]:
    """Root mean squares of predictions over those of labels: forces, energies without those of free atoms."""
    batch = collate(graphs)
    found = model(batch)
    free = torch.zeros(len(graphs), dtype=torch.float64)
    free.index_add_(0, batch.batch, model.reference.e0[model.species(batch)])
    pairs = (found["forces"], batch.forces), (found["energy"] - free, batch.energy - free)
    return [float(predicted.norm() / label.norm()) for predicted, label in pairs]


@pytest.fixture(scope="module", params=SETS)
def data(request: pytest.FixtureRequest) -> tuple[list[AtomGraph], dict[int, float], float]:
    frames, isolated, cutoff = SETS[request.param]()
    return graphs_of(frames, cutoff), isolated, cutoff


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_have_the_size_of_the_labels(
    data: tuple[list[AtomGraph], dict[int, float], float], name: str, family: str
) -> None:
    graphs, isolated, cutoff = data
    plain = recipe_of(name, graphs, isolated, cutoff, family=family, backend=FAMILIES[family])
    model, _ = started(plain, graphs)
    assert all(0.2 < ratio < 5 for ratio in ratios(model, graphs))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("label", ["H2, N2, NH3", "slab"])
def test_direct_forces_have_the_size_of_the_labels(label: str, name: str) -> None:
    frames, isolated, cutoff = SETS[label]()
    graphs = graphs_of(frames, cutoff)
    plain = recipe_of(name, graphs, isolated, cutoff, degree_out=1, parity="so3") | {"forces": "direct"}
    assert all(0.2 < ratio < 5 for ratio in ratios(started(plain, graphs)[0], graphs))


def test_every_algorithm_and_order_of_summation_finds_the_same_constants() -> None:
    graphs = graphs_of(*SETS["water"]()[::2])
    plain = recipe_of("mace", graphs, {}, 5.0, family="gaunt")
    found = [
        started({**plain, "backbone": plain["backbone"] | {"backend": backend}}, order)[1]
        for backend, order in (("cg", graphs), ("grid", graphs[::-1]), ("gaunt", graphs), ("escn", graphs))
    ]
    assert found[0] != {}
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("case", ["one frame", "no forces", "zero forces", "no energies", "no edges", "crystal"])
def test_little_data_are_sound(case: str) -> None:
    frames = SETS["copper" if case == "crystal" else "water"]()[0]
    if case == "crystal":  # no atom feels a force, but for rounding
        frames = emt(lambda _: bulk("Cu", cubic=True), 0.0, 8, 0.03)
    graphs = graphs_of(frames, 0.5 if case == "no edges" else 5.0, forces=case != "no forces")
    graphs = graphs[:1] if case == "one frame" else graphs
    for graph in graphs:
        if case == "zero forces":
            graph.forces.zero_()
        if case == "no energies":
            graph.energy.fill_(torch.nan)
    cutoff = 0.5 if case == "no edges" else 5.0
    model, constants = started(recipe_of("mace", graphs, {}, cutoff), graphs)
    assert all(0 < size < 100 for size in (*constants["message_size"], constants["gain"], constants["force_gain"]))
    batch = collate(graphs)
    found = model(batch)
    assert found["energy"].isfinite().all()
    assert found["forces"].isfinite().all()
    assert float(found["forces"].abs().max()) < 100
    if case not in ("no energies", "no edges"):  # binding energies meet the mean, if nothing else
        assert abs(float((found["energy"] - batch.energy).mean())) < 0.01


def test_without_the_constants_nothing_changes() -> None:
    graphs = graphs_of(*SETS["water"]()[::2])
    plain = recipe_of("mace", graphs, {}, 5.0)
    ones = {"gain": 1.0, "force_gain": 1.0, "binding": None}
    other = {**plain, **ones, "backbone": plain["backbone"] | {"message_size": [1.0, 1.0]}}
    batch = collate(graphs)
    for name, value in build(plain)(batch).items():
        assert torch.equal(build(other)(batch)[name], value)


def test_constants_are_what_they_say() -> None:
    # messages and energies by hand: the slow twin
    graphs = graphs_of(*SETS["water"]()[::2])
    plain = recipe_of("mace", graphs, {}, 5.0)
    sizes = [8.0, 0.5]
    bare = build(plain)
    model = build(
        {**plain, "gain": 0.3, "binding": [1.5, -2.0], "backbone": plain["backbone"] | {"message_size": sizes}}
    )
    for layer, size in zip(bare.backbone.layers, sizes, strict=True):
        with torch.no_grad():
            layer.mix.weight /= size
    batch = collate(graphs)
    crowd = torch.zeros(len(batch.pos), dtype=torch.float64)
    for sender, receiver in batch.edge_index.T:
        x = float((batch.pos[sender] - batch.pos[receiver]).norm()) / 5.0
        crowd[receiver] += 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    free = bare.reference.e0[bare.species(batch)]
    binding = torch.tensor([1.5, -2.0], dtype=torch.float64)[bare.species(batch)] * (1 - torch.exp(-4 * crowd))
    expected = free + 0.3 * (bare(batch)["energies"] - free) + binding
    torch.testing.assert_close(model(batch)["energies"], expected, rtol=1e-10, atol=1e-10)


def test_conversion_keeps_the_constants() -> None:
    plain = recipe(message_size=[2.0, 3.0]) | {"gain": 0.1, "binding": [-1.0, -2.0, -3.0, -4.0]}
    old = build(plain)
    new = convert(old, {"channels": 5, "parity": "so3"})
    batch = collate([from_atoms(molecule("CH3OH"), 3.5)])
    torch.testing.assert_close(new(batch)["energies"], old(batch)["energies"], rtol=1e-10, atol=1e-10)


def test_a_run_keeps_its_constants(tmp_path: Path) -> None:
    train(tmp_path, "first", "trainer.max_epochs=1")
    config = OmegaConf.load(tmp_path / "first" / "config.yaml")
    start = OmegaConf.to_container(config.statistics.start)
    assert start.keys() == {"message_size", "gain", "force_gain", "binding"}
    model = checkpoint.load(tmp_path / "first" / "model.safetensors")
    kept = {"message_size": model.recipe["backbone"]["message_size"]} | {
        name: model.recipe[name] for name in ("gain", "force_gain", "binding")
    }
    assert {**kept, "binding": start["binding"]} == start
    assert kept["binding"] == pytest.approx(start["binding"], abs=0.1)  # less what the run left
    train(tmp_path, "second", "trainer.max_epochs=1", f"init_from={tmp_path / 'first' / 'model.safetensors'}", "seed=5")
    train(tmp_path, "first", "trainer.max_epochs=2", "resume=auto")
    for out, expected in (("first", start), ("second", kept)):
        again = OmegaConf.load(tmp_path / out / "config.yaml").statistics.start
        assert OmegaConf.to_container(again) == expected
