"""Structures of every odd kind against an independent oracle: ``python -m tests.fuzz.structures --number 10000 --seed 0``.

Every structure is predicted as a user's would be. It must be refused by an InputError, or its neighbours, energies, forces and
stress must be those of the oracle: a loop over image cells in extended precision, whose list of pairs goes through the same
small float64 model. Forces and stress are compared with finite differences of the oracle's energies, and one symmetry is
checked: order of the atoms, rotation, translation, atoms moved by whole cells, supercell.
"""

import argparse
import itertools
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import ase
import numpy as np
import torch
from ase.build import make_supercell
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.graph import AtomGraph, edge_vectors
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from tests.recipes import model as small_model

CUTOFF = 3.0
ELEMENTS = (1, 6, 8, 29)
TOLERANCE = 1e-9  #: of energies (eV), forces (eV/Å) and stress (eV/Å³), times the largest of 1 and what is compared
DIFFERENCES = 1e-6  #: the same against finite differences
SECONDS, BYTES = 10.0, 2 * 2**30
RIGHT, REFUSED, WRONG, CRASHED = "right", "refused", "wrong", "crashed"
Rng = np.random.Generator


# --- structures


class Case(NamedTuple):
    """A structure and what must become of it: RIGHT, REFUSED, or either ("")."""

    atoms: ase.Atoms
    must: str = RIGHT


def scattered(rng: Rng, cell: NDArray, pbc: Sequence[bool], number: int, closest: float = 0.8) -> ase.Atoms:
    """At most ``number`` atoms in a cell, none closer to another or to an image than ``closest``; at least one."""
    periodic = np.array(pbc)
    spread = np.where(periodic[:, None], cell, np.eye(3) * 4.0)
    kept: list[NDArray] = []
    for _ in range(4 * number):
        point = rng.uniform(0, 1, 3) @ spread
        trial = np.array([*kept, point])
        if not kept or min((v[2] for v in brute_force(trial, cell, periodic, closest)), default=9.0) >= closest:
            kept.append(point)
        if len(kept) == number:
            break
    return ase.Atoms(rng.choice(ELEMENTS, len(kept)), np.array(kept), cell=cell, pbc=periodic)


def triclinic(rng: Rng, low: float = 1.5, high: float = 6.0) -> NDArray:
    """A cell of any shape and handedness whose lowest height is ``low`` to ``high``."""
    cell = rng.normal(size=(3, 3))
    return cell * rng.uniform(low, high) * np.linalg.norm(np.linalg.inv(cell), axis=0).max()


def compact(rng: Rng, low: float = 1.5, high: float = 6.0, longest: float = 25.0) -> NDArray:
    """The same without vectors that are too long for a loop over all images."""
    cell = triclinic(rng, low, high)
    while np.linalg.norm(cell, axis=1).max() > longest:
        cell = triclinic(rng, low, high)
    return cell


def molecule(rng: Rng) -> Case:
    cell = rng.choice([0.0, 5.0]) * np.eye(3)
    return Case(scattered(rng, cell, [False] * 3, rng.integers(2, 13)))


def cluster(rng: Rng) -> Case:
    points = rng.normal(size=(rng.integers(40, 90), 3)) * 3.5
    keep = [i for i in range(len(points)) if i == 0 or np.linalg.norm(points[:i] - points[i], axis=1).min() > 0.7]
    return Case(ase.Atoms(rng.choice(ELEMENTS, len(keep)), points[keep]))


def single(rng: Rng) -> Case:
    pbc = rng.choice([True, False], 3)
    return Case(scattered(rng, compact(rng, 1.0, 4.0, longest=1000.0), pbc, 1))


def no_neighbours(rng: Rng) -> Case:
    number = rng.integers(1, 5)
    return Case(
        ase.Atoms(rng.choice(ELEMENTS, number), np.outer(np.arange(number), [0, 0, CUTOFF * rng.uniform(1.01, 9)]))
    )


def bulk(rng: Rng) -> Case:
    cell = np.diag(rng.uniform(2.0, 7.0, 3))
    return Case(scattered(rng, cell, [True] * 3, rng.integers(1, 9)))


def skewed(rng: Rng) -> Case:
    """The same lattice by long vectors: whole multiples of the others are added."""
    atoms = scattered(rng, compact(rng, 1.5, 4.0), [True] * 3, rng.integers(1, 5))
    cell = atoms.cell.array.copy()
    for axis in range(3):
        cell[axis] += rng.integers(-3, 4) * cell[axis - 1]
    atoms.set_cell(cell)
    return Case(atoms)


def any_cell(rng: Rng) -> Case:
    return Case(scattered(rng, compact(rng), [True] * 3, rng.integers(1, 7)))


def left_handed(rng: Rng) -> Case:
    cell = compact(rng, 2.0, 5.0)
    return Case(scattered(rng, cell * -np.sign(np.linalg.det(cell)), [True] * 3, rng.integers(1, 6)))


def small_cell(rng: Rng) -> Case:
    """Every atom sees many images of itself."""
    return Case(scattered(rng, compact(rng, 0.9, 1.6, 8.0), [True] * 3, rng.integers(1, 3)))


def slab(rng: Rng) -> Case:
    cell = compact(rng, 1.5, 5.0)
    cell[2] = rng.choice([np.zeros(3), [0, 0, 20.0], cell[0] + cell[1], cell[2]])
    return Case(scattered(rng, cell, [True, True, False], rng.integers(1, 8)))


def mixed(rng: Rng) -> Case:
    """Any directions periodic; the vectors of the others are arbitrary."""
    cell, pbc = compact(rng, 1.5, 6.0), rng.choice([True, False], 3)
    cell[~pbc] *= rng.choice([0.0, 1.0, 1e3])
    return Case(scattered(rng, cell, pbc, rng.integers(1, 7)))


def faces(rng: Rng) -> Case:
    """Atoms on faces, edges and corners of the cell, up to rounding, and outside of it."""
    cell = compact(rng, 2.4, 4.0)
    atoms = ase.Atoms("CCuO", cell=cell, pbc=rng.choice([True, True, False], 3))
    places = [0.0, 1.0, -1e-17, 1 - 1e-16, 1 + 1e-15, -1.0, 2.0]
    fractions = rng.choice(places, (3, 3))
    fractions[1, 0], fractions[2, 1] = rng.choice([0.5, 1.5, -0.5], 2)
    atoms.positions = fractions @ cell
    return Case(atoms, "")


def at_cutoff(rng: Rng) -> Case:
    """Neighbours at the cutoff, exactly or one rounding beside it."""
    direction = np.eye(3)[rng.integers(3)] if rng.random() < 0.5 else rng.normal(size=3)
    direction = direction / np.linalg.norm(direction)
    length = rng.choice([CUTOFF, np.nextafter(CUTOFF, 0), np.nextafter(CUTOFF, 9), CUTOFF - 1e-12, CUTOFF + 1e-12])
    if rng.random() < 0.3:
        return Case(ase.Atoms("C", cell=np.eye(3) * length, pbc=True))
    return Case(ase.Atoms("CO", [[0, 0, 0], direction * length]))


def coincident(rng: Rng) -> Case:
    atoms = scattered(rng, compact(rng, 1.5, 5.0), [True] * 3, rng.integers(1, 6))
    shift = rng.integers(-2, 3, 3) @ atoms.cell.array + rng.normal(size=3) * rng.choice([0.0, 1e-9, 1e-5])
    return Case(atoms + ase.Atoms("H", [atoms.positions[0] + shift]), REFUSED)


def close(rng: Rng) -> Case:
    """Atoms that nearly touch."""
    direction = rng.normal(size=3)
    return Case(ase.Atoms("CO", [[0, 0, 0], direction / np.linalg.norm(direction) * 10 ** rng.uniform(-3.5, -0.3)]), "")


def outside(rng: Rng) -> Case:
    """Atoms a few cells outside of theirs."""
    atoms = any_cell(rng).atoms
    atoms.positions += rng.integers(-20, 21, (len(atoms), 3)) @ atoms.cell.array
    return Case(atoms)


def far_outside(rng: Rng) -> Case:
    """Atoms up to 10^12 cells outside of theirs."""
    atoms = scattered(rng, np.diag(rng.uniform(2.0, 5.0, 3)), [True] * 3, rng.integers(1, 5))
    size = 10 ** int(rng.integers(2, 13))
    atoms.positions += rng.integers(-size, size + 1, (len(atoms), 3)) @ atoms.cell.array
    return Case(atoms, "")


def far_apart(rng: Rng) -> Case:
    """A molecule one of whose atoms is up to 10^12 Å away."""
    atoms = molecule(rng).atoms
    atoms.positions[-1] += rng.normal(size=3) * 10.0 ** rng.integers(1, 13)
    return Case(atoms, "")


def huge_cell(rng: Rng) -> Case:
    atoms = scattered(rng, np.zeros((3, 3)), [False] * 3, rng.integers(1, 8))
    atoms.set_cell(triclinic(rng, 1.0, 2.0) * 10.0 ** rng.integers(1, 10))
    atoms.set_pbc(True)
    return Case(atoms, "")


def tiny_cell(rng: Rng) -> Case:
    """Cells of a fraction of an ångström: a flat lattice, or thousands of images."""
    cell = np.diag(np.where(rng.random(3) < 0.5, 10.0 ** rng.uniform(-6, -1), rng.uniform(0.4, 3.0)))
    return Case(ase.Atoms("C", cell=cell, pbc=True), "")


def singular(rng: Rng) -> Case:
    atoms = bulk(rng).atoms
    cell = atoms.cell.array.copy()
    cell[rng.integers(3)] = rng.choice([cell[0] + cell[1], np.zeros(3), cell[2]]) if rng.random() < 0.5 else 0.0
    cell[2] = cell[0] * rng.integers(-2, 3)
    atoms.set_cell(cell)
    return Case(atoms, REFUSED)


def not_finite(rng: Rng) -> Case:
    atoms = any_cell(rng).atoms
    array = atoms.positions if rng.random() < 0.5 else atoms.cell
    array[rng.integers(len(array)), rng.integers(3)] = rng.choice([np.nan, np.inf, -np.inf])
    return Case(atoms, REFUSED)


def no_element(rng: Rng) -> Case:
    atoms = molecule(rng).atoms
    atoms.numbers[rng.integers(len(atoms))] = rng.choice([0, -1, 2, 92, 118, 119, 200, 2**31, -(2**40), 257])
    return Case(atoms, REFUSED)


def empty(rng: Rng) -> Case:
    return Case(ase.Atoms(cell=np.eye(3) * 5, pbc=rng.choice([True, False])), REFUSED)


KINDS: dict[str, Callable[[Rng], Case]] = {
    function.__name__: function
    for function in (
        *(
            molecule,
            cluster,
            single,
            no_neighbours,
            bulk,
            skewed,
            any_cell,
            left_handed,
            small_cell,
            slab,
            mixed,
            faces,
        ),
        *(at_cutoff, coincident, close, outside, far_outside, far_apart, huge_cell, tiny_cell, singular, not_finite),
        *(no_element, empty),
    )
}


# --- oracle

#: Receiver, sender, length of an edge and the translation of its sender, for positions in the first cell.
Edge = tuple[int, int, float, tuple[int, int, int]]


def home(positions: NDArray, cell: NDArray, pbc: NDArray) -> NDArray:
    """Positions in the first cell, subtracted in extended precision."""
    vectors = np.asarray(cell[pbc], np.longdouble)
    cells = np.floor(np.asarray(positions @ np.linalg.pinv(cell[pbc]), np.longdouble))
    return np.asarray(np.asarray(positions, np.longdouble) - cells @ vectors, np.float64)


def brute_force(points: NDArray, cell: NDArray, pbc: NDArray, cutoff: float) -> list[Edge]:
    """Every pair closer than a cutoff among atoms near the first cell: a loop over image cells.

    A plane of the lattice is as high above its neighbour as the reciprocal vector is long, inverted.
    """
    heights = np.full(3, np.inf)
    heights[pbc] = 1 / np.linalg.norm(np.linalg.pinv(cell[pbc]), axis=0)
    away = np.abs((points[:, None] - points[None]) @ np.linalg.pinv(cell[pbc])).max(axis=(0, 1), initial=0.0)
    reach = np.zeros(3, int)
    reach[pbc] = np.ceil(cutoff / heights[pbc] + away).astype(int)
    found: list[Edge] = []
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        vectors = points[None, :] + np.array(shift) @ np.where(pbc[:, None], cell, 0.0) - points[:, None]
        lengths = np.sqrt((vectors**2).sum(-1))
        for receiver, sender in np.argwhere(lengths <= cutoff):
            if receiver != sender or any(shift):
                found.append((int(receiver), int(sender), float(lengths[receiver, sender]), shift))
    return found


def reference(model: Potential, atoms: ase.Atoms) -> tuple[AtomGraph, dict[str, Any]]:
    """The oracle's graph and what the model says of it."""
    points, cell = home(atoms.positions, atoms.cell.array, atoms.pbc), atoms.cell.array
    edges = sorted(brute_force(points, cell, atoms.pbc, CUTOFF))
    graph = AtomGraph(
        pos=torch.tensor(points),
        atomic_numbers=torch.tensor(atoms.numbers),
        cell=torch.tensor(np.where(atoms.pbc[:, None], cell, 0.0))[None],
        pbc=torch.tensor(atoms.pbc)[None],
        edge_index=torch.tensor([(s, r) for r, s, *_ in edges], dtype=torch.int64).reshape(-1, 2).T,
        shifts=torch.tensor([shift for *_, shift in edges], dtype=torch.float64).reshape(-1, 3),
        config_type="",
        source="oracle",
    )
    return graph, evaluate_graphs(model, [graph])[0]


def rounding(atoms: ase.Atoms) -> float:
    """Å, by which positions far from the origin, and sums of long vectors, are rounded."""
    return (
        64 * np.finfo(float).eps * max(1.0, float(np.abs(atoms.positions).max()), float(np.abs(atoms.cell.array).max()))
    )


# --- comparisons


class WrongError(AssertionError):
    """A result that differs from the oracle's."""


def compare(name: str, found: Any, expected: Any, tolerance: float) -> None:
    """Raise unless two arrays agree; ``tolerance`` counts relative to the largest number above 1."""
    difference = float(np.abs(np.asarray(found) - np.asarray(expected)).max(initial=0.0))
    if not difference <= tolerance:
        raise WrongError(f"{name} differs by {difference:.3g}, allowed {tolerance:.3g}")


def compare_edges(atoms: ase.Atoms, graph: AtomGraph, oracle: AtomGraph) -> None:
    """The same pairs by the same vectors, except for those that are at the cutoff up to rounding."""

    def near(g: AtomGraph) -> tuple[NDArray, NDArray]:
        vectors = edge_vectors(g).numpy()
        kept = np.linalg.norm(vectors, axis=1) < CUTOFF - max(1e-9, rounding(atoms))
        return g.edge_index.numpy().T[kept], vectors[kept]

    (pairs, vectors), (expected_pairs, expected) = near(graph), near(oracle)
    if len(pairs) != len(expected_pairs):
        raise WrongError(f"{len(pairs)} edges instead of {len(expected_pairs)}")
    order = [np.lexsort((*np.round(v, 4).T, *p.T)) for p, v in ((pairs, vectors), (expected_pairs, expected))]
    if not np.array_equal(pairs[order[0]], expected_pairs[order[1]]):
        raise WrongError("edges between other atoms")
    difference = np.abs(vectors[order[0]] - expected[order[1]]).max(initial=0.0)
    # equal up to the order of vectors whose rounded components tie
    if difference > max(1e-9, rounding(atoms)):
        for pair in np.unique(pairs, axis=0):
            one, two = (v[(p == pair).all(1)] for p, v in ((pairs, vectors), (expected_pairs, expected)))
            distances = np.linalg.norm(one[:, None] - two[None], axis=-1)
            if max(distances.min(0).max(), distances.min(1).max()) > max(1e-9, rounding(atoms)):
                raise WrongError(f"another vector from atom {pair[1]} to atom {pair[0]}")


def size(result: dict[str, Any]) -> float:
    """How large numbers may be in sums that give a result."""
    return max(1.0, float(np.abs(result["energies"]).max()) * 1e-3, float(np.abs(result["forces"]).max()))


def check(model: Potential, atoms: ase.Atoms, rng: Rng) -> None:
    """Predict and compare.

    Raises:
        InputError: the structure is refused.
        WrongError: a result is wrong.
    """
    graph = graph_of(model, atoms)
    result = evaluate_graphs(model, [graph])[0]
    oracle, expected = reference(model, atoms)
    compare_edges(atoms, graph, oracle)
    curvature = 100 * size(expected)
    tolerance = TOLERANCE * size(expected) + rounding(atoms) * curvature * max(1, oracle.num_edges)
    if result.keys() != expected.keys():
        raise WrongError(f"results {sorted(result)} instead of {sorted(expected)}")
    for name, value in expected.items():
        volume = atoms.get_volume() if name == "stress" else 1.0
        compare(name, np.asarray(result[name]) * min(volume, 1.0), np.asarray(value) * min(volume, 1.0), tolerance)
    symmetry = SYMMETRIES[rng.integers(len(SYMMETRIES))]
    symmetry(model, atoms, result, tolerance, rng)
    if rng.random() < 0.1:
        check_derivatives(model, atoms, result, rng)


def check_derivatives(model: Potential, atoms: ase.Atoms, result: dict[str, Any], rng: Rng) -> None:
    """Forces and stress against the oracle's energies of displaced and strained structures, in one random direction each."""
    shortest = reference(model, atoms)[0]
    lengths = edge_vectors(shortest).norm(dim=1)
    if len(lengths) and (lengths.min() < 0.5 or rounding(atoms) > 1e-12):
        return  # the differences of steep energies are rounding
    step, weights = 2e-4, ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))  # fourth order
    displacement, strain = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    strain += strain.T

    def energy(t: float, matrix: NDArray, shift: NDArray) -> float:
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ (np.eye(3) + t * matrix))
        moved.positions = atoms.positions @ (np.eye(3) + t * matrix) + t * shift
        return float(reference(model, moved)[1]["energy"])

    zero, still = np.zeros((3, 3)), np.zeros((len(atoms), 3))
    allowed = DIFFERENCES * size(result) * len(atoms)
    slope = sum(weight * energy(k * step, zero, displacement) for k, weight in weights) / step
    compare("forces, by differences,", -np.sum(result["forces"] * displacement), slope, allowed)
    if "stress" in result:
        slope = sum(weight * energy(k * step, strain, still) for k, weight in weights) / step
        virial = atoms.get_volume() * np.sum(result["stress"] * strain)
        compare("stress, by differences,", virial, slope, allowed * max(1.0, len(lengths) / len(atoms)))


def predicted(model: Potential, atoms: ase.Atoms) -> dict[str, Any]:
    return evaluate_graphs(model, [graph_of(model, atoms)])[0]


def permuted(model: Potential, atoms: ase.Atoms, result: dict[str, Any], tolerance: float, rng: Rng) -> None:
    order = rng.permutation(len(atoms))
    other = predicted(model, atoms[order])
    compare("energy of permuted atoms", other["energy"], result["energy"], tolerance * len(atoms))
    compare("forces of permuted atoms", other["forces"], result["forces"][order], tolerance)


def rotated(model: Potential, atoms: ase.Atoms, result: dict[str, Any], tolerance: float, rng: Rng) -> None:
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # with or without a mirror
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ matrix)
    other.positions = atoms.positions @ matrix
    turned = predicted(model, other)
    compare("energy of rotated atoms", turned["energy"], result["energy"], tolerance * len(atoms))
    compare("forces of rotated atoms", turned["forces"], result["forces"] @ matrix, tolerance)
    if "stress" in result:
        volume = min(1.0, atoms.get_volume())
        expected = matrix.T @ result["stress"] @ matrix
        compare("stress of rotated atoms", turned["stress"] * volume, expected * volume, tolerance)


def translated(model: Potential, atoms: ase.Atoms, result: dict[str, Any], tolerance: float, rng: Rng) -> None:
    other = atoms.copy()
    other.positions += rng.normal(size=3) * 3
    moved = predicted(model, other)
    compare("energy of translated atoms", moved["energy"], result["energy"], tolerance * len(atoms))
    compare("forces of translated atoms", moved["forces"], result["forces"], tolerance)


def rewrapped(model: Potential, atoms: ase.Atoms, result: dict[str, Any], tolerance: float, rng: Rng) -> None:
    other = atoms.copy()
    cells = rng.integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    other.positions += cells @ atoms.cell.array
    moved = predicted(model, other)
    compare("energy of atoms in other cells", moved["energy"], result["energy"], tolerance * len(atoms))
    compare("forces of atoms in other cells", moved["forces"], result["forces"], tolerance)


def repeated(model: Potential, atoms: ase.Atoms, result: dict[str, Any], tolerance: float, rng: Rng) -> None:
    if not atoms.pbc.any() or len(atoms) > 6:
        return
    times = np.where(atoms.pbc, rng.integers(1, 3, 3), 1)
    other = make_supercell(atoms, np.diag(times)) if atoms.pbc.all() else atoms.repeat(times)
    copies = len(other) // len(atoms)
    many = predicted(model, other)
    compare("energy of a supercell", many["energy"] / copies, result["energy"], tolerance * len(atoms))
    if "stress" in result:
        volume = min(1.0, atoms.get_volume())
        compare("stress of a supercell", many["stress"] * volume, result["stress"] * volume, tolerance)


SYMMETRIES = (permuted, rotated, translated, rewrapped, repeated)


# --- runs


class Finding(NamedTuple):
    """What became of one structure; ``words`` of what is wrong or refused."""

    index: int
    kind: str
    outcome: str
    words: str
    seconds: float


def examine(model: Potential, seed: int, index: int) -> Finding:
    """Make the structure of a number and check it."""
    kind = list(KINDS)[index % len(KINDS)]
    rng = np.random.default_rng([seed, index])
    case = KINDS[kind](rng)
    started = time.process_time()
    try:
        check(model, case.atoms, rng)
        outcome, words = RIGHT, ""
    except InputError as error:
        outcome, words = REFUSED, str(error)
    except WrongError as error:
        outcome, words = WRONG, str(error)
    except Exception as error:  # whatever it is, users would see it
        outcome, words = CRASHED, f"{type(error).__name__} {error}"
    if case.must and outcome in (RIGHT, REFUSED) and outcome != case.must:
        outcome, words = WRONG, f"is {outcome}, but should be {case.must}: {words}"
    if outcome == REFUSED and ("\n" in words or not words):
        outcome, words = WRONG, f"is refused by no sentence: {words!r}"
    return Finding(index, kind, outcome, words, time.process_time() - started)


def fuzz_model() -> Potential:
    """Small, of two layers, with a repulsion; float64."""
    return small_model(cutoff=CUTOFF, family="gaunt", backend="grid")


def run(seed: int, indices: Sequence[int]) -> tuple[list[Finding], int]:
    """Examine structures by number; return the findings and by how many bytes the memory grew."""
    torch.set_num_threads(1)
    model = fuzz_model()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings = [examine(model, seed, index) for index in indices]
    return findings, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every structure was right or refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.structures", description=__doc__)
    parser.add_argument("--number", type=int, default=10_000, help="structures (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="INDEX", help="examine one structure, in this process")
    arguments = parser.parse_args(argv)
    if arguments.only is not None:
        print(*examine(fuzz_model(), arguments.seed, arguments.only))
        return 0
    findings: list[Finding] = []
    large = 0
    for begin in range(0, arguments.number, 240):
        indices = range(begin, min(begin + 240, arguments.number))
        with ProcessPoolExecutor(1) as pool:  # of its own: a crash of the interpreter is a finding, too
            try:
                found, grown = pool.submit(run, arguments.seed, indices).result()
            except BrokenProcessPool:
                words = f"the process died at one of {indices.start} to {indices.stop - 1}"
                found, grown = [Finding(begin, "?", CRASHED, words, 0.0)], 0
        findings += found
        large += grown > BYTES
        print(f"{indices.stop} of {arguments.number}: {summary(findings, large)}", file=sys.stderr, flush=True)
    report(findings, large)
    return int(large > 0 or any(f.outcome in (WRONG, CRASHED) or f.seconds > SECONDS for f in findings))


def report(findings: Sequence[Finding], large: int) -> None:
    """Print counts by kind and in all, and what is wrong."""
    for kind in KINDS:
        counts = Counter(f.outcome for f in findings if f.kind == kind)
        print(f"{kind:14}", *(f"{counts[outcome]:6} {outcome}" for outcome in (RIGHT, REFUSED, WRONG, CRASHED)))
    for finding in findings:
        if finding.outcome in (WRONG, CRASHED) or finding.seconds > SECONDS:
            print(f"{finding.index} ({finding.kind}) {finding.outcome} after {finding.seconds:.1f} s: {finding.words}")
    print(f"{len(findings)} structures: {summary(findings, large)}")


def summary(findings: Sequence[Finding], large: int) -> str:
    """Counts in all."""
    counts = Counter(f.outcome for f in findings)
    slow = sum(f.seconds > SECONDS for f in findings)
    parts = [f"{counts[outcome]} {outcome}" for outcome in (RIGHT, REFUSED, WRONG, CRASHED)]
    return f"{', '.join(parts)}, {large} over 2 GiB, {slow} over 10 s"


if __name__ == "__main__":
    sys.exit(main())
