"""Parts of a divided structure, in float64, beside the whole."""

import itertools

import ase
import numpy as np
import pytest
import torch

from eqmol.engines.halo import HaloPotential
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, from_atoms
from tests.models.systems import make_model, structures


def halo_of(atoms: ase.Atoms, own: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and atoms they are images of: the own atoms, then everything nearer than ``reach`` to one of them."""
    images = [range(-4, 5) if periodic else [0] for periodic in atoms.pbc]
    shifts = np.array(list(itertools.product(*images)))
    moved = atoms.positions + (shifts @ atoms.cell.array)[:, None]
    distances = np.linalg.norm(moved[:, :, None] - atoms.positions[own], axis=-1).min(-1)
    distances[np.ix_((shifts == 0).all(1), own)] = np.inf  # the own atoms themselves
    near = np.nonzero(distances <= reach)
    return np.concatenate([atoms.positions[own], moved[near]]), np.concatenate([own, near[1]])


@pytest.mark.parametrize(
    ("periodic", "variant", "layers"), [(False, "mace", 2), (True, "mace", 2), (True, "equiformer", 1)]
)
def test_parts_add_up(float64: None, periodic: bool, variant: str, layers: int) -> None:
    atoms = structures()["triclinic" if periodic else "molecule"].copy()
    atoms.set_cell(1.6 * atoms.cell.array, scale_atoms=True)
    model = make_model(variant=variant, layers=layers, zbl=True)
    whole = model(from_atoms(atoms, model.cutoff), stress=True)
    potential = HaloPotential(model, contacts="warn")
    energies, forces, virial = np.zeros(len(atoms)), np.zeros((len(atoms), 3)), np.zeros((3, 3))
    for own in np.array_split(np.random.default_rng(0).permutation(len(atoms)), 2):
        positions, indices = halo_of(atoms, own, potential.halo)
        part = potential(positions, atoms.numbers[indices], len(own))
        energies[own] = part.energies
        np.add.at(forces, indices, part.forces)
        virial += part.virial
    assert np.abs(energies - whole["energies"].numpy()).max() < 1e-10
    assert np.abs(forces - whole["forces"].numpy()).max() < 1e-10
    assert np.abs(virial - whole["virial"][0].numpy()).max() < 1e-10


@pytest.mark.parametrize(("variant", "layers"), [("mace", 2), ("equiformer", 1)])
def test_atoms_act_as_far_as_the_model_says(float64: None, variant: str, layers: int) -> None:
    model = make_model(variant=variant, layers=layers)
    chain = ase.Atoms("C6", positions=[[0.1 * (i % 2), 0, 2.5 * i] for i in range(6)])  # each has two neighbours
    graph = from_atoms(chain, model.cutoff)
    first = torch.arange(6) == 0
    forces = model(graph, owned=first)["forces"].norm(dim=1)
    assert model.backbone.hops is not None
    assert (forces > 1e-12).tolist() == [atom <= model.backbone.hops for atom in range(6)]


def test_a_part_without_atoms() -> None:
    part = HaloPotential(make_model())(np.zeros((3, 3)), [6, 6, 8], own=0)
    assert part.energies.shape == (0,)
    assert not part.forces.any()
    assert not part.virial.any()


@pytest.mark.parametrize("unfit", ["direct forces", "unknown reach", "not finite"])
def test_refusals(unfit: str) -> None:
    model = make_model(forces="direct" if unfit == "direct forces" else "conservative")
    sentence = {
        "direct forces": "forces=direct",
        "unknown reach": "how many edges away",
        "not finite": "step 3: .*finite",
    }
    if unfit == "unknown reach":
        model.backbone.hops = None
    with pytest.raises(InputError, match=sentence[unfit]):
        HaloPotential(model)([[0, 0, 0], [0, 0, np.nan]], [6, 6], 2, "step 3")


def test_only_what_acts_is_evaluated() -> None:
    model = make_model(layers=1)
    seen: list[AtomGraph] = []
    model.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    HaloPotential(model)([[0, 0, 2.0 * i] for i in range(5)], [6] * 5, 1)
    assert len(seen[0].pos) == 2
    assert seen[0].edge_index.tolist() == [[1], [0]]
