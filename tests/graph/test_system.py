"""Graphs from ASE structures: fields, batches and refusals."""

import re

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from eqmol.errors import InputError
from eqmol.graph import NeighborList, collate, edge_vectors, from_atoms, keys, moved
from eqmol.graph.edges import mirror_images
from eqmol.graph.geometric import Batch


def test_fields_have_the_documented_shapes_and_types():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["config_type"] = "solid"
    graph = from_atoms(atoms, 5.0, energy=-3.0, forces=np.ones((2, 3)), stress=np.eye(3), source="file.xyz, frame 4")
    n, e = 2, graph.edge_index.shape[1]
    expected = {
        "pos": ((n, 3), torch.float64),
        "atomic_numbers": ((n,), torch.int64),
        "cell": ((1, 3, 3), torch.float64),
        "pbc": ((1, 3), torch.bool),
        "edge_index": ((2, e), torch.int64),
        "shifts": ((e, 3), torch.float64),
        keys.ENERGY: ((1,), torch.float64),
        keys.FORCES: ((n, 3), torch.float64),
        keys.STRESS: ((1, 3, 3), torch.float64),
    }
    assert {name: (tuple(graph[name].shape), graph[name].dtype) for name in expected} == expected
    assert graph.config_type == "solid"
    assert graph.source == "file.xyz, frame 4"
    receivers = graph.edge_index[1]
    assert bool((receivers[1:] >= receivers[:-1]).all())
    lengths = edge_vectors(graph).norm(dim=1)
    assert lengths.min() > 0
    assert lengths.max() <= 5.0


def test_labels_are_absent_unless_given():
    graph = from_atoms(molecule("H2O"), 5.0)
    assert not set(keys.LABELS) & set(graph.keys())
    assert graph.config_type == ""


def test_a_graph_is_independent_of_its_atoms():
    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    graph = from_atoms(atoms, 5.0)
    before = graph.pos.clone()
    atoms.positions += 1.0
    assert graph.pos.equal(before)


def test_tags_and_fixed_atoms_are_there_where_they_are_given():
    assert not {"tags", keys.FIXED} & set(from_atoms(molecule("H2O"), 5.0).keys())
    graphs = [from_atoms(molecule("H2O"), 5.0, tags=[2, 1, 0], fixed=np.array(f)) for f in ([0, 0, 1], [1, 0, 0])]
    batch = collate(graphs)
    assert (batch.tags.dtype, batch.fixed.dtype) == (torch.int64, torch.bool)
    assert batch.tags.tolist() == [2, 1, 0, 2, 1, 0]
    assert batch.fixed.tolist() == [False, False, True, True, False, False]


def test_collate_joins_without_connecting():
    graphs = [from_atoms(molecule(name), 5.0, energy=float(i), source=name) for i, name in enumerate(["H2O", "CH4"])]
    graphs.append(from_atoms(ase.Atoms("He"), 5.0, energy=2.0, source="He"))
    batch = collate(graphs)
    assert batch.num_graphs == 3
    assert batch.ptr.tolist() == [0, 3, 8, 9]
    assert batch.energy.tolist() == [0.0, 1.0, 2.0]
    assert batch.cell.shape == (3, 3, 3)
    assert batch.pbc.shape == (3, 3)
    assert batch.source == ["H2O", "CH4", "He"]
    senders, receivers = batch.edge_index
    assert batch.batch[senders].equal(batch.batch[receivers])
    assert bool((receivers[1:] >= receivers[:-1]).all())
    pairs = [(batch, Batch.from_data_list(graphs)), *zip(batch.to_data_list(), graphs, strict=True)]
    for found, expected in pairs:
        assert found.to_dict().keys() == expected.to_dict().keys()
        for name, value in expected.to_dict().items():
            assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value


def test_a_kept_list_gives_the_same_graph():
    atoms = bulk("Cu", cubic=True)
    kept = NeighborList(4.0, skin=0.5)
    from_atoms(atoms, 4.0, neighbors=kept)
    atoms.positions[0] += 0.1
    graph, fresh = from_atoms(atoms, 4.0, neighbors=kept), from_atoms(atoms, 4.0)
    assert graph.edge_index.equal(fresh.edge_index)
    assert graph.shifts.equal(fresh.shifts)


def broken(atoms: ase.Atoms, **changes) -> ase.Atoms:
    """A copy of a structure with cell, pbc or single positions replaced."""
    atoms = atoms.copy()
    for index, position in changes.pop("positions", {}).items():
        atoms.positions[index] = position
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


WATER = molecule("H2O")
ROW = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (ase.Atoms(), ["no atoms"]),
        (broken(WATER, positions={1: [0, np.nan, 0]}), ["atom 1 (H)", "not finite", "nan"]),
        (broken(WATER, positions={2: [np.inf, 0, 0]}), ["atom 2 (H)", "inf"]),
        (broken(WATER, cell=np.diag([5, 5, np.nan])), ["cell", "not finite"]),
        (broken(WATER, pbc=True), ["singular", "[True, True, True]"]),
        (broken(WATER, cell=[ROW, 2 * ROW, [0, 0, 9]], pbc=[True, True, False]), ["singular"]),
        (broken(WATER, cell=[9 * ROW, 9 * ROW + [0, 0, 0.05], [9, 0, 0]], pbc=True), ["singular"]),
        (broken(WATER, cell=np.zeros((3, 3)), pbc=[False, False, True]), ["singular"]),
        (broken(WATER, positions={2: WATER.positions[0]}), ["atom 0 (O)", "atom 2 (H)", "same place"]),
        (
            broken(WATER, cell=np.eye(3) * 6, pbc=True, positions={1: WATER.positions[0] + [6, 0, 0]}),
            ["atom 0 (O)", "atom 1 (H)", "periodic images"],
        ),
        (broken(WATER, positions={1: [0, 0, 1e12]}), ["atom 1 (H)", "1e+12"]),
        (broken(WATER, cell=np.diag([1e9, 5, 5]), pbc=True), ["1e+09"]),
        (broken(WATER, positions={1: [0, 0, 1e6]}), ["atom 1 (H)", "1e+06"]),
        (broken(WATER, positions={2: [-1e10, 0, 0]}), ["atom 2 (H)", "-1e+10", "too far from the origin"]),
        (broken(WATER, cell=np.eye(3) * 6, pbc=True, positions={2: [0, 1e10, 0]}), ["atom 2 (H)", "1e+10", "too far"]),
        (
            broken(WATER, cell=[[1, 0, 0], [1e5, 1, 0], [0, 0, 9]], pbc=True),
            ["singular", "reduced if they are very oblique"],
        ),
        (
            ase.Atoms("H200000", np.zeros((200_000, 3))),
            ["200000 atoms have about 4.0e+10 pairs within 5 Å", "memory"],
        ),
        (ase.Atoms("H200000", np.zeros((200_000, 3)), cell=np.eye(3) * 0.2, pbc=True), ["pairs within 5 Å", "memory"]),
    ],
)
def test_what_is_refused(atoms, words):
    with pytest.raises(InputError) as error:
        from_atoms(atoms, 5.0, source="a.xyz, frame 3")
    message = str(error.value)
    assert message.startswith("a.xyz, frame 3: ")
    assert message.count("\n") == 0
    for word in words:
        assert word in message


NO_ELEMENTS = [
    ([8, 200, 1], "atom 1 has the atomic number 200, which is no element"),
    ([8, 1, 119], "atom 2 has the atomic number 119"),
    ([-1, 1, 1], "atom 0 has the atomic number -1"),
    ([8, 1, 0], "atom 2 is a dummy or ghost atom"),
    ([8, 1 + 2**32, 1], "atom 1 has the atomic number 4294967297"),
    ([8, 1.5, 1], "atom 1 has the atomic number 1.5"),
    ([8, 1, np.nan], "atom 2 has the atomic number nan"),
    (["O", "H", "H"], "the atomic numbers are ['O', 'H', 'H'], not a list of integers"),
    ([True, True, True], "the atomic numbers are [True, True, True], not a list of integers"),
]


@pytest.mark.parametrize(("numbers", "words"), NO_ELEMENTS)
def test_atomic_numbers_of_no_element_are_refused(numbers, words):
    atoms = WATER.copy()
    atoms.arrays["numbers"] = np.array(numbers)  # past the checks of ASE
    with pytest.raises(InputError, match=re.escape(f"a.xyz, frame 3: {words}")):
        from_atoms(atoms, 5.0, source="a.xyz, frame 3")


def test_whole_floats_are_atomic_numbers():
    atoms = WATER.copy()
    atoms.arrays["numbers"] = np.array([8.0, 1.0, 1.0], np.float32)
    assert from_atoms(atoms, 5.0).atomic_numbers.tolist() == [8, 1, 1]
    atoms.positions[2] = atoms.positions[0]
    with pytest.raises(InputError, match=r"atom 0 \(O\)"):
        from_atoms(atoms, 5.0)


@pytest.mark.parametrize("cells", [1, 1000, 10**6, 2**28])
def test_atoms_far_outside_of_the_cell_have_the_same_edge_vectors(cells):
    atoms = bulk("Cu", a=4.0, cubic=True)
    atoms.positions += np.round(np.random.default_rng(0).normal(size=(4, 3)) * 2**12) / 2**16
    graph = from_atoms(atoms, 5.0)
    moves = np.random.default_rng(1).integers(-cells, cells, (4, 3), endpoint=True)
    atoms.positions += moves @ atoms.cell.array
    moved = from_atoms(atoms, 5.0)
    assert moved.edge_index.equal(graph.edge_index)
    assert (edge_vectors(moved) - edge_vectors(graph)).abs().max() < 1e-13
    assert moved.pos.abs().max() < 33 * 4.0


def test_open_directions_need_no_cell():
    for cell in (np.zeros((3, 3)), np.ones((3, 3)), np.diag([0.01, 0, 0])):
        assert from_atoms(broken(WATER, cell=cell), 5.0).edge_index.shape == (2, 6)
    slab = broken(WATER, cell=np.diag([3.0, 3.0, 0.0]), pbc=[True, True, False])
    assert from_atoms(slab, 2.0).edge_index.shape[1] > 0


def strewn(atoms: ase.Atoms) -> ase.Atoms:
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.6), strewn(bulk("Cu", cubic=True)), ase.Atoms("H")],
    ids=["molecule", "primitive cell", "cubic cell", "no edges"],
)
def test_edges_and_their_ways_back(atoms: ase.Atoms) -> None:
    graph = collate([from_atoms(atoms, 5.0)] * 2)
    vectors, (senders, receivers) = edge_vectors(graph), graph.edge_index
    pairs = mirror_images(vectors.float(), senders, receivers)
    assert sorted(pairs.flatten().tolist()) == list(range(len(vectors)))
    first, second = pairs.T
    assert torch.equal(senders[first], receivers[second])
    assert torch.equal(senders[second], receivers[first])
    torch.testing.assert_close(vectors[first], -vectors[second], atol=1e-12, rtol=0)


def test_edges_without_a_way_back() -> None:
    graph = from_atoms(molecule("CH3CH2OH"), 5.0)
    vectors, (senders, receivers) = edge_vectors(graph), graph.edge_index
    assert mirror_images(vectors[1:], senders[1:], receivers[1:]) is None
    assert mirror_images(vectors[2:], senders[2:], receivers[2:]) is None
    vectors[3] *= 1.001
    assert mirror_images(vectors, senders, receivers) is None


def test_moved_structures_have_the_edges_of_their_new_places():
    structures = [bulk("Cu", cubic=True), molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.6)]
    batch = collate([from_atoms(atoms, 2.8) for atoms in structures])
    edges = batch.edge_index.clone()
    shift = torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, (batch.num_nodes, 3)))
    found = moved(batch, batch.pos + shift, 2.8)
    for atoms, a, b in zip(structures, batch.ptr[:-1], batch.ptr[1:], strict=True):
        atoms.positions += shift[a:b].numpy()
    expected = collate([from_atoms(atoms, 2.8) for atoms in structures])
    assert found.edge_index.equal(expected.edge_index)
    assert found.shifts.equal(expected.shifts)
    torch.testing.assert_close(edge_vectors(found), edge_vectors(expected), atol=1e-12, rtol=0)
    assert found.edge_index.shape != edges.shape
    assert batch.edge_index.equal(edges)
