"""What stops or warns a calculator, and committees."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.data import covalent_radii

import eqmol
from eqmol.checkpoint import default_dtype
from eqmol.errors import InputError
from eqmol.inference.guards import Bonds
from eqmol.models import Potential
from tests.inference.test_uncertainty import sure
from tests.recipes import model, recipe, seeded


def committee(number: int = 3) -> list[Potential]:
    """Models with the same sizes and other weights."""
    import torch

    with default_dtype(torch.float64):
        return [seeded(recipe(), seed) for seed in range(number)]


def ask(calculator: Any, atoms: Any = None) -> dict[str, Any]:
    atoms = molecule("CH3CH2OH") if atoms is None else atoms
    atoms.calc = calculator
    atoms.get_forces()
    return calculator.results


@pytest.mark.parametrize(("name", "key"), [("largest_force", "forces"), ("largest_uncertainty", "forces_std")])
def test_limits_stop_and_warn(name: str, key: str) -> None:
    potential = sure()
    values = ask(eqmol.Calculator(potential))[key]
    size = values if values.ndim == 1 else np.linalg.norm(values, axis=1)
    worst = int(size.argmax())
    assert ask(eqmol.Calculator(potential, **{name: float(size.max()) * 1.001}))
    beyond = {name: float(size.max()) * 0.999}
    stops = eqmol.Calculator(potential, **beyond)
    symbol = molecule("CH3CH2OH").symbols[worst]
    for _ in range(2):  # nothing is remembered as a result
        with pytest.raises(InputError, match=rf"on atom {worst} \({symbol}\) is .* more than {name}="):
            ask(stops)
        assert not stops.results
    warns = eqmol.Calculator(potential, **beyond, limits="warn")
    with pytest.warns(UserWarning, match=rf"on atom {worst} \({symbol}\).*\(said once\)"):
        assert np.array_equal(ask(warns)[key], values)
    ask(warns, molecule("H2O"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest_force": -1.0}, "largest_force=-1.0 must be a positive number"),
        ({"largest_force": True}, "largest_force=True"),
        ({"largest_uncertainty": "much"}, "largest_uncertainty='much'"),
        ({"largest_force": 1.0, "limits": "hope"}, "limits='hope' is unknown; choose stop or warn"),
        ({"largest_uncertainty": 1.0}, "needs a model that knows how sure it is"),
    ],
)
def test_limits_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        eqmol.Calculator(model(), **options)


def test_bonds_that_break_and_form() -> None:
    atoms = molecule("CH3CH2OH")
    bonds = Bonds(atoms)
    radii = covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances()
    pairs = [(i, j) for j in range(9) for i in range(j) if distances[i, j] < 1.25 * (radii[i] + radii[j])]
    assert sorted(pairs) == [tuple(pair) for pair in bonds.pairs.tolist()]
    assert bonds.lengths == pytest.approx([distances[pair] for pair in sorted(pairs)], abs=1e-12)
    assert bonds.changes(atoms) == ()
    oxygen, (hydrogen,) = 2, (int(j) for i, j in pairs if i == 2)
    for factor, changes in ((1.49, 0), (1.51, 1)):
        moved = atoms.copy()
        moved.positions[hydrogen] += (factor - 1) * (atoms.positions[hydrogen] - atoms.positions[oxygen])
        assert len(bonds.changes(moved)) == changes
    assert bonds.changes(moved)[0].startswith(f"O2-H{hydrogen} broken (0.97 to 1.4")
    for length, words in (
        (1.64, ()),
        (1.62, (f"C0-O2 new ({distances[0, 2]:.2f} to 1.62 Å)",)),
    ):  # 1.15 (0.76 + 0.66) Å
        moved = atoms.copy()
        moved.set_distance(2, 0, length, fix=0)
        assert tuple(word for word in bonds.changes(moved) if "C0-O2" in word) == words


def test_atoms_of_periodic_structures_have_no_bonds_of_their_own() -> None:
    copper = bulk("Cu", cubic=True)
    bonds = Bonds(copper)
    copper.positions[1] += 2.0
    assert (len(bonds.pairs), bonds.changes(copper)) == (0, ())


@pytest.mark.parametrize("periodic", [False, True])
def test_a_committee_gives_mean_and_spread(periodic: bool, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) if periodic else molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    models = committee()
    eqmol.save(models[0], tmp_path / "model.safetensors")
    alone = [dict(ask(eqmol.Calculator(each), atoms.copy())) for each in models]
    calculator = eqmol.Calculator([tmp_path / "model.safetensors", *models[1:]])
    found = ask(calculator, atoms.copy())
    for name in ("energy", "energies", "forces", "free_energy", "node_energy", *(["stress"] if periodic else [])):
        mean = np.mean([each[name] for each in alone], axis=0)
        assert np.abs(found[name] - mean).max() < 1e-10
    assert isinstance(found["energy"], float)
    assert found["energy_std"] == pytest.approx(np.std([each["energy"] for each in alone], ddof=1), abs=1e-10)
    forces = np.stack([each["forces"] for each in alone])
    spread = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=0).mean(axis=1) / 2)
    assert found["forces_std"] == pytest.approx(spread, abs=1e-10)
    moved = atoms.copy()
    moved.rattle(0.3, seed=2)
    expected = np.mean([ask(eqmol.Calculator(each), moved.copy())["energy"] for each in models])
    assert ask(calculator, moved)["energy"] == pytest.approx(expected, abs=1e-10)
    again = pickle.loads(pickle.dumps(calculator))
    assert ask(again, moved)["energy_std"] == pytest.approx(calculator.results["energy_std"], abs=1e-10)


def test_what_a_committee_cannot() -> None:
    models = committee(2)
    calculator = eqmol.Calculator(models)
    atoms = molecule("H2O")
    with pytest.raises(InputError, match="a committee of models has no descriptors"):
        calculator.get_descriptors(atoms)
    with pytest.raises(InputError, match="a committee of models has no Hessian"):
        calculator.get_hessian(atoms)
    with pytest.raises(InputError, match="uncertainty=exact is of one model"):
        eqmol.Calculator(models, uncertainty="exact")
    with pytest.raises(InputError, match="at least one model"):
        eqmol.Calculator([])
    with pytest.raises(InputError, match="std of the force"):
        ask(eqmol.Calculator(models, largest_uncertainty=1e-6))
    assert "energy_std" not in ask(eqmol.Calculator(models, uncertainty="off"))
    assert "energy_std" not in ask(eqmol.Calculator(models[:1]))
