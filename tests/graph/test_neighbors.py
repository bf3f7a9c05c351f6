"""Neighbour lists against ASE and against brute force over images."""

import copy
import itertools

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from eqmol import threads
from eqmol.graph import NeighborList, edges, from_atoms, neighbor_list, neighbors
from eqmol.graph.neighbors import _sorting_order, complete_cell, estimate_edges, move_back, tree_pairs

Pair = tuple[int, int, int, int, int]


def pairs(edge_index, shifts) -> list[Pair]:
    """(receiver, sender, shift) of each edge, in the order of the list."""
    return [(int(r), int(s), *(int(k) for k in shift)) for s, r, shift in zip(*edge_index, shifts, strict=True)]


def ase_pairs(positions, cell, pbc, cutoff) -> list[Pair]:
    """The same from ASE, sorted."""
    i, j, shift = primitive_neighbor_list("ijS", pbc, cell, positions, cutoff, self_interaction=False)
    return sorted((int(a), int(b), *(int(k) for k in s)) for a, b, s in zip(i, j, shift, strict=True))


def brute_force_pairs(positions, cell, pbc, cutoff, images) -> list[Pair]:
    """Every pair of every image within ``images`` translations."""
    ranges = [range(-images, images + 1) if periodic else range(1) for periodic in pbc]
    found = []
    for shift in itertools.product(*ranges):
        vectors = positions[None, :] + np.array(shift) @ cell - positions[:, None]
        for r, s in np.argwhere(np.linalg.norm(vectors, axis=-1) < cutoff):
            if r != s or any(shift):
                found.append((int(r), int(s), *shift))
    return sorted(found)


def random_cell(rng: np.random.Generator) -> np.ndarray:
    """A skewed, possibly left-handed, possibly small cell with heights of at least 0.6 Å."""
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(0.8, 6.0)
        if 1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() > 0.6:
            return cell


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.integers(1, 7))
def test_equals_ase_in_any_cell(seed, pbc, num_atoms):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng)
    positions = rng.uniform(-1, 2, size=(num_atoms, 3)) @ cell  # also outside the cell
    cutoff = rng.uniform(1.0, 3.5)
    edge_index, shifts = neighbor_list(positions, cell, pbc, cutoff)
    expected = ase_pairs(positions, cell, pbc, cutoff)
    assert pairs(edge_index, shifts) == expected
    receivers, senders, translations = tree_pairs(positions, complete_cell(cell, np.array(pbc)), np.array(pbc), cutoff)
    assert sorted(pairs((senders, receivers), translations)) == expected


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, False), (False, False, False)])
@pytest.mark.parametrize(
    "extent", [(1500, 1500, 0), (1500, 0, 1500), (0, 20000, 20000), (29000, 30, 20), (9000, 9000, 9000)]
)
def test_sparse_structures(extent, pbc):
    corner = np.array(extent, dtype=float)
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], corner, corner - [0, 0, 1]])
    edge_index, shifts = neighbor_list(positions, np.diag(corner + 10), pbc, 3.0)
    assert edge_index.tolist() == [[1, 0, 3, 2], [0, 1, 2, 3]]
    assert not shifts.any()


@pytest.mark.parametrize("handedness", [1, -1])
def test_equals_brute_force_in_a_tiny_cell(handedness):
    cell = np.array([[1.0, 0.1, 0.0], [0.3, 1.1, 0.2], [0.0, -0.2, 0.9]]) * np.array([[handedness], [1], [1]])
    positions = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.9]])
    found = pairs(*neighbor_list(positions, cell, [True, True, True], 2.5))
    assert found == brute_force_pairs(positions, cell, [True, True, True], 2.5, images=5)
    assert any(r == s for r, s, *_ in found)  # an atom sees its own images


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_rows_of_open_directions_are_ignored(pbc):
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(5, 3))
    cell = np.array([[3.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, 0.2, 4.0]])
    expected = pairs(*neighbor_list(positions, cell, pbc, 3.0))
    for filler in (0.0, 1.0, 1e3):
        cell[~np.array(pbc)] = filler  # zero, dependent, huge
        assert pairs(*neighbor_list(positions, cell, pbc, 3.0)) == expected


def test_vectors_follow_the_convention_of_keys():
    cell = np.diag([4.0, 5.0, 6.0])
    positions = np.array([[0.5, 0.0, 0.0], [3.5, 0.0, 0.0]])
    (senders, receivers), shifts = neighbor_list(positions, cell, [True, True, True], 1.5)
    vectors = positions[senders] + shifts.numpy() @ cell - positions[receivers]
    assert receivers.tolist() == [0, 1]
    assert vectors.tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def dyadic() -> tuple[np.ndarray, np.ndarray]:
    """Positions and a skewed cell that stay exact in float64 when they are translated by up to 2^28 cells."""
    positions = np.round(np.random.default_rng(5).uniform(0, 4, (6, 3)) * 2**16) / 2**16
    return positions, np.array([[4.0, 0, 0], [1.0, 4.0, 0], [0.5, -0.5, 5.0]])


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True)])
@pytest.mark.parametrize("cells", [1, 31, 33, 1000, 10**6, 2**28])
def test_atoms_far_outside_of_the_cell(pbc, cells):
    positions, cell = dyadic()
    rng = np.random.default_rng(cells)
    moves = np.where(pbc, rng.integers(-cells, cells, (6, 3), endpoint=True), 0).astype(float)
    moved = positions + moves @ cell
    (senders, receivers), shifts = neighbor_list(positions, cell, pbc, 3.5)
    for kept in (NeighborList(3.5), NeighborList(3.5, skin=0.5)):
        found = kept(moved, cell, pbc)
        assert found[0].tolist() == [senders.tolist(), receivers.tolist()]
        expected = shifts.numpy() - moves[senders] + moves[receivers]
        assert np.array_equal(found[1].numpy(), expected)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_back_by_whole_cells(pbc):
    positions, cell = dyadic()
    moves = np.where(pbc, np.random.default_rng(0).integers(-(10**6), 10**6, (6, 3)), 0).astype(float)
    box = complete_cell(cell, np.array(pbc))
    moved = positions + moves @ box
    near, cells = move_back(moved, box, np.array(pbc))
    assert np.abs(near + cells @ box - moved).max() < 1e-8
    assert np.abs((near @ np.linalg.inv(box))[:, np.array(pbc)]).max(initial=0.0) < 33
    assert not (cells % 64).any()
    again, none = move_back(near, box, np.array(pbc))
    assert again is near
    assert not none.any()


def test_order_without_room_for_one_key():
    rng = np.random.default_rng(0)
    receivers, senders = rng.integers(0, 5, (2, 200))
    shifts = rng.integers(-2, 3, (200, 3))
    order, plain = _sorting_order(receivers, senders, shifts, 2**31), _sorting_order(receivers, senders, shifts, 5)
    columns = np.column_stack([receivers, senders, shifts])
    assert np.array_equal(columns[order], columns[plain])


@pytest.mark.parametrize(
    ("positions", "cell", "pbc"),
    [
        (np.random.default_rng(0).uniform(0, 30, (2000, 3)), 30 * np.eye(3), [True] * 3),
        (np.random.default_rng(0).uniform(0, 30, (2000, 3)), np.zeros((3, 3)), [False] * 3),
        (np.random.default_rng(0).uniform(0, 1, (600, 3)), np.zeros((3, 3)), [False] * 3),
        (np.random.default_rng(0).uniform(0, 60, (2000, 3)) * [1, 1, 0.02], 60 * np.eye(3), [True, True, False]),
        (np.zeros((1, 3)), [[0.4, 0, 0], [0.2, 0.4, 0], [0, 0, 0.5]], [True] * 3),
        (np.random.default_rng(0).uniform(0, 100, (500, 3)) * [1, 1, 0.005], np.diag([100, 100, 0.5]), [True] * 3),
    ],
    ids=["crystal", "droplet", "cluster", "layer", "tiny cell", "flat cell"],
)
def test_estimated_number_of_edges(positions, cell, pbc, monkeypatch):
    monkeypatch.setattr("eqmol.graph.neighbors._NEGLIGIBLE", 0)
    pbc = np.array(pbc)
    number = neighbor_list(positions, cell, pbc, 5.0)[0].shape[1]
    assert 0.5 < estimate_edges(positions, complete_cell(np.array(cell), pbc), pbc, 5.0) / number < 5


def test_no_atoms_and_no_neighbors():
    for positions in (np.zeros((0, 3)), np.zeros((1, 3)), np.array([[0.0, 0, 0], [9.0, 0, 0]])):
        edge_index, shifts = neighbor_list(positions, np.zeros((3, 3)), [False] * 3, 5.0)
        assert edge_index.shape == (2, 0)
        assert shifts.shape == (0, 3)


@pytest.mark.parametrize("skin", [0.3, 1.0])
@pytest.mark.parametrize("atoms", [bulk("Cu", cubic=True) * (2, 2, 2), molecule("C6H6")], ids=["bulk", "molecule"])
def test_skin_gives_the_fresh_list(atoms, skin):
    rng = np.random.default_rng(1)
    atoms = atoms.copy()
    kept, searched = NeighborList(4.0, skin), 0
    for step in range(40):
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        if step % 10 == 7:
            atoms.set_cell(atoms.cell.array * 1.003, scale_atoms=True)
        if step % 10 == 9:
            atoms.positions[0] += atoms.cell[0]  # a wrapped atom
        fresh = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
        searched += not kept.holds(atoms.positions, atoms.cell.array, atoms.pbc)
        reused = kept(atoms.positions, atoms.cell.array, atoms.pbc)
        assert reused[0].equal(fresh[0])
        assert reused[1].equal(fresh[1])
    assert searched < 40


def test_threads_change_no_bit(monkeypatch):
    """Atoms far outside of the cell, so that they are moved back."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms.positions[::3] += 200 * atoms.cell[0]
    whole = from_atoms(atoms, 4.0)
    monkeypatch.setattr(neighbors, "CHUNK", 100)
    monkeypatch.setattr(edges, "CHUNK", 100)
    for number, skin in ((1, 0.0), (3, 0.0), (3, 0.3)):
        monkeypatch.setattr(threads, "number", lambda number=number: number)
        found = from_atoms(atoms, 4.0, neighbors=NeighborList(4.0, skin))
        for name in ("edge_index", "shifts"):
            assert torch.equal(found[name], whole[name])
        for one, other in zip(edges.vectors_and_lengths(found), edges.vectors_and_lengths(whole), strict=True):
            assert torch.equal(one, other)


def test_one_list_serves_structures_of_different_size_and_periodicity():
    kept = NeighborList(3.0, skin=1.0)
    cell = np.diag([4.0, 4.0, 4.0])
    positions = np.random.default_rng(2).uniform(0, 4, size=(6, 3))
    for n, pbc in [(6, [True] * 3), (3, [True] * 3), (3, [False] * 3), (6, [True, True, False]), (0, [False] * 3)]:
        assert pairs(*kept(positions[:n], cell, pbc)) == pairs(*neighbor_list(positions[:n], cell, pbc, 3.0))


def test_copies_keep_the_settings():
    kept = NeighborList(3.0, skin=1.0)
    kept(np.zeros((1, 3)), np.eye(3), [True] * 3)
    twin = copy.deepcopy(kept)
    assert (twin.cutoff, twin.skin) == (3.0, 1.0)


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_completed_cell_is_invertible_and_keeps_periodic_rows(pbc):
    pbc = np.array(pbc)
    cell = np.random.default_rng(3).normal(size=(3, 3))
    complete = complete_cell(np.where(pbc[:, None], cell, 0.0), pbc)
    assert np.array_equal(complete[pbc], cell[pbc])
    assert np.allclose(complete[~pbc] @ complete[pbc].T, 0, atol=1e-12)
    assert np.allclose(complete[~pbc] @ complete[~pbc].T, np.eye((~pbc).sum()))
