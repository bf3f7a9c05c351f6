"""The guard of predictions against distances that no training set has."""

import itertools
import os
import warnings

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.io import read, write

import eqmol
from eqmol.checkpoint import build, save
from eqmol.cli.predict import main
from eqmol.errors import InputError
from eqmol.graph import edge_vectors, from_atoms
from eqmol.graph.contacts import CloseContacts, shortest_distances
from eqmol.inference.calculator import Calculator
from eqmol.inference.evaluate import close_contacts, graph_of
from eqmol.inference.molecules import screen
from eqmol.models import MACE, Properties
from eqmol.molecules.molecule import from_smiles
from tests.recipes import recipe

ELEMENTS = [1, 6, 8, 29]
WATER = molecule("H2O")
ETHANOL = molecule("CH3CH2OH")


def trained(zbl: bool = False, h2: bool = True, **changes):
    """A model that has seen water, ethanol and, so that tests can look at other pairs, very short H-H."""
    torch.manual_seed(1)
    net = build(recipe(**changes.pop("backbone", {})) | {"zbl": zbl} | changes).eval()
    shortest = shortest_distances([from_atoms(atoms, 3.5) for atoms in (WATER, ETHANOL)], ELEMENTS)
    if h2:
        shortest[0, 0] = 0.2
    net.set_domain(shortest, 2)
    return net


def untrained(**changes):
    """The same model as files of format 1 have it: without distances."""
    return build(recipe() | {"zbl": False} | changes).eval()


def stretched(factor: float) -> ase.Atoms:
    """Water with one O-H bond of ``factor`` times its length."""
    atoms = WATER.copy()
    atoms.positions[1] = atoms.positions[0] + factor * (atoms.positions[1] - atoms.positions[0])
    return atoms


def scaled(atoms: ase.Atoms, factor: float) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.set_cell(factor * atoms.cell.array)
    atoms.positions *= factor
    return atoms


BOND = WATER.get_distance(0, 1)


def test_shortest_distances_by_brute_force():
    structures = [WATER, ETHANOL, bulk("Cu", cubic=True)]
    found = shortest_distances([from_atoms(atoms, 3.0) for atoms in structures], ELEMENTS)
    for (a, first), (b, second) in itertools.product(enumerate(ELEMENTS), repeat=2):
        expected = [
            distance
            for atoms in structures
            for i, j, shift in itertools.product(
                range(len(atoms)), range(len(atoms)), itertools.product((-1, 0, 1), repeat=3)
            )
            if (atoms.numbers[i], atoms.numbers[j]) == (first, second)
            and (i != j or any(shift))
            and (atoms.pbc.all() or not any(shift))
            and (distance := np.linalg.norm(atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i])) < 3.0
        ]
        assert float(found[a, b]) == pytest.approx(min(expected, default=0.0), abs=1e-12)


@pytest.mark.parametrize("mode", ["stop", "warn"])
@pytest.mark.parametrize("factor", [1.0, 0.95, 0.71, 0.69, 0.1])
def test_below_the_training_set(mode, factor):
    guard = close_contacts(trained(), mode)
    if factor < 0.7 and mode == "stop":
        with pytest.raises(
            InputError, match=r"atom 0 \(O\) and atom 1 \(H\) are .* shortest distance O-H .* 0.969 Å"
        ) as caught:
            graph_of(trained(), stretched(factor), "a.xyz, frame 3", contacts=guard)
        assert str(caught.value).startswith("a.xyz, frame 3: ")
        assert f"{factor * BOND:.3g} Å apart" in str(caught.value)
        assert "close_contacts='warn'" in str(caught.value)
    elif factor < 1:
        with pytest.warns(UserWarning, match=r"atom 0 \(O\) and atom 1 \(H\) .* O-H of the training set is 0.969 Å"):
            graph_of(trained(), stretched(factor), contacts=guard)
        graph_of(trained(), stretched(factor), contacts=guard)  # said once
    else:
        graph_of(trained(), stretched(factor), contacts=guard)


@pytest.mark.parametrize("distance", [0.51, 0.49])
def test_pairs_that_were_never_seen(distance):
    radii = 2 * covalent_radii[29]
    atoms = ase.Atoms("Cu2", [[0, 0, 0], [distance * radii, 0, 0]])
    for net in (trained(), untrained()):
        guard = close_contacts(net)
        if distance > 0.5:
            graph_of(net, atoms, contacts=guard)
        else:
            with pytest.raises(InputError, match=r"the sum of the covalent radii of Cu-Cu is 2.64 Å"):
                graph_of(net, atoms, contacts=guard)


def test_pairs_seen_only_apart_may_bond():
    # H...H of water is 1.5 Å long, which says nothing about H2
    net = trained(h2=False)
    with pytest.warns(UserWarning, match="H-H"):
        graph_of(net, molecule("H2"), contacts=close_contacts(net))
    with pytest.raises(InputError, match="H-H"):
        graph_of(net, ase.Atoms("H2", [[0, 0, 0], [0.3, 0, 0]]), contacts=close_contacts(net))


def test_a_repulsion_covers_what_is_close_but_not_another_unit():
    net = trained(zbl=True)
    guard = close_contacts(net)
    with pytest.warns(UserWarning, match="O-H"):
        graph_of(net, stretched(0.3), contacts=guard)
    graph_of(net, stretched(0.1), contacts=guard)
    with pytest.raises(InputError, match=r"nm \(multiply them by 10\)"):
        graph_of(net, scaled(ETHANOL, 0.1), contacts=guard)


@pytest.mark.parametrize("atoms", [WATER, ETHANOL, bulk("Cu", cubic=True) * 2], ids=["water", "ethanol", "copper"])
@pytest.mark.parametrize(("factor", "words"), [(0.1, "nm"), (0.529177, "Bohr")])
@pytest.mark.parametrize("make", [trained, untrained])
def test_other_units(atoms, factor, words, make):
    if factor > 0.5 and (make is untrained or len(atoms) == 32):
        return  # half of the covalent radii is still less
    with pytest.raises(InputError, match=words):
        graph_of(make(), scaled(atoms, factor), contacts=close_contacts(make()))


def test_every_door_has_the_guard(tmp_path):
    net, close = trained(), stretched(0.5)
    save(net, tmp_path / "model.safetensors")
    atoms = close.copy()
    atoms.calc = Calculator(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="O-H"):
        atoms.get_potential_energy()
    atoms.positions = WATER.positions
    atoms.get_potential_energy()
    with pytest.raises(InputError, match="structure 1: atom 0"):
        eqmol.predict([WATER, close], net)
    write(tmp_path / "in.xyz", [WATER, close])
    command = [str(tmp_path / name) for name in ("model.safetensors", "in.xyz")] + ["-o", str(tmp_path / "out.xyz")]
    assert main(command) == 2
    assert not (tmp_path / "out.xyz").exists()
    with pytest.warns(UserWarning, match="frame 1: atom 0"):
        assert main([*command, "--close-contacts", "warn"]) == 0
    assert len(read(tmp_path / "out.xyz", ":")) == 2
    methanol = from_smiles("CO", conformers=1)
    moved = methanol.atoms()
    moved.positions *= 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a C-O bond of another length
        rows = list(screen(net, [methanol.moved(moved), methanol], batch_size=2))
    assert "Å apart" in rows[0].problem
    assert rows[1].values


@pytest.mark.parametrize("kind", ["direct", "properties"])
def test_models_without_conservative_forces(kind):
    if kind == "direct":
        net = trained(forces="direct", backbone={"degree_out": 1})
    else:
        sizes = {key: value for key, value in recipe()["backbone"].items() if key != "_target_"}
        entry = {"kind": "extensive", "unit": "a0³", "e0": [0.0] * 4, "mean": 0.0, "scale": 1.0, "spread": 1.0}
        statistics = {"alpha": entry}
        net = Properties(MACE(**sizes), ELEMENTS, statistics).eval()
    with pytest.raises(InputError, match="Å apart"):
        graph_of(net, stretched(0.3), contacts=close_contacts(net))


def test_warn_predicts(tmp_path):
    atoms = stretched(0.3)
    atoms.calc = Calculator(trained(), close_contacts="warn")
    with pytest.warns(UserWarning, match="O-H"):
        energy = atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.rattle(1e-3)
        assert atoms.get_potential_energy() != energy
    with pytest.raises(InputError, match="close_contacts='never' is unknown; choose stop or warn"):
        Calculator(trained(), close_contacts="never")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["3bpa", "qm9", "oc20"])
def test_no_frame_of_the_evaluation_sets_is_refused(name, tmp_path):
    from eqmol.data.bpa.datamodule import ThreeBPA
    from eqmol.data.oc20.datamodule import OC20
    from eqmol.data.qm9.datamodule import QM9

    if name == "3bpa":
        data = ThreeBPA(cutoff=5.0)
    elif name == "qm9":
        data = QM9(cutoff=5.0)
    else:
        raw = f"{os.environ['EQMOL_DATA']}/oc20"
        data = OC20(
            cutoff=5.0,
            folder=raw,
            prepared=tmp_path,
            files="trajectories/random10001[0-2]*",
            held_out=3,
            infer_tags=True,
        )
    data.prepare_data()
    data.setup()
    elements = data.statistics()["elements"]
    guard = CloseContacts(elements, data.shortest_distances(elements))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for graphs in (data.val_graphs, *data.test_graphs.values()):
            for i in range(len(graphs)):
                guard.check(graphs[i], edge_vectors(graphs[i]).norm(dim=1))
