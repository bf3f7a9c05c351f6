"""Properties that a potential predicts besides energies, from the same features."""

from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

import eqmol
from eqmol.checkpoint import build, default_dtype, load, save
from eqmol.convert.convert import EXACT, convert, differences, example_structures
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.models import Potential
from eqmol.units import DEBYE
from tests.recipes import recipe

KINDS = {"q": "atomic", "dipole": "dipole", "alpha": "tensor", "gap": "intensive", "logP": "extensive"}


def entry(kind: str) -> dict[str, Any]:
    return {"kind": kind, "unit": "u", "e0": [0.1, -0.2, 0.3, 0.4], "mean": 0.5, "scale": 0.7, "spread": 1.0}


def model(kinds: dict[str, str] | None = KINDS, **changes: Any) -> Potential:
    """Equal weights with and without properties."""
    torch.manual_seed(1)
    own = None if kinds is None else {name: entry(kind) for name, kind in kinds.items()}
    with default_dtype(torch.float64):
        return build(recipe(degree_out=2) | {"properties": own} | changes).eval()


def gradients(net: Potential, batch: Any) -> dict[str, torch.Tensor]:
    net.train().zero_grad()
    output = net(batch, forces=True, stress=True)
    (output["energy"].sum() + output["forces"].square().sum() + output["virial"].square().sum()).backward()
    return {name: p.grad for name, p in net.named_parameters() if not name.startswith("heads.")}


def test_energies_their_derivatives_and_gradients_are_those_without_properties() -> None:
    graphs = [from_atoms(atoms, 3.5) for atoms in (molecule("CH3CHO"), bulk("Cu", cubic=True))]
    plain, net = model(None), model()
    expected, found = (m(collate(graphs), forces=True, stress=True) for m in (plain, net))
    assert found.keys() - expected.keys() == {*KINDS, "charges"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
    alone, beside = gradients(plain, collate(graphs)), gradients(net, collate(graphs))
    for name, value in alone.items():
        torch.testing.assert_close(beside[name], value, rtol=0, atol=0)
    assert all(p.grad is None for p in net.heads.parameters())


def test_properties_turn_with_the_molecule() -> None:
    atoms, rotation = molecule("CH3CHO"), Rotation.random(random_state=2).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    before, after = eqmol.predict([atoms, turned], model())
    np.testing.assert_allclose(after["dipole"], rotation @ before["dipole"], atol=1e-10)
    np.testing.assert_allclose(after["alpha"], rotation @ before["alpha"] @ rotation.T, atol=1e-10)
    for name in ("q", "gap", "logP", "energy"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-9)
    assert before["q"].shape == (len(atoms),)
    assert abs(before["alpha"] - before["alpha"].T).max() < 1e-12


def test_a_file_keeps_them(tmp_path: Any) -> None:
    net = model()
    save(net, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert {name: target.kind for name, target in loaded.targets.items()} == KINDS
    expected, found = (eqmol.predict(molecule("H2O"), m) for m in (net, loaded))
    assert expected.keys() == found.keys() >= {"energy", "forces", *KINDS}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_larger_model_keeps_them() -> None:
    old = model()
    new = convert(old, {"channels": 5, "parity": "so3"})
    found = differences(old, new, example_structures(old.elements, old.cutoff), EXACT)
    assert {difference.quantity for difference in found} == {"energy", "forces", "stress", *KINDS}
    assert max(difference.largest for difference in found) <= 1e-10


def test_the_calculator_returns_them_and_dipoles_in_the_unit_of_ase() -> None:
    atoms, net = molecule("H2O"), model()
    expected = eqmol.predict(atoms, net)
    atoms.calc = eqmol.Calculator(net)
    np.testing.assert_array_equal(atoms.get_forces(), expected["forces"])
    np.testing.assert_allclose(atoms.get_dipole_moment(), DEBYE * expected["dipole"])
    np.testing.assert_array_equal(atoms.get_charges(), expected["charges"])
    np.testing.assert_array_equal(atoms.calc.get_property("alpha", atoms), expected["alpha"])


def test_periodic_structures_have_those_that_they_can_have() -> None:
    results = eqmol.predict([molecule("H2O"), bulk("Cu", cubic=True)], model())
    assert results[1].keys() == results[0].keys() - {"dipole", "charges"} | {"stress"}
    assert np.isfinite(results[1]["q"]).all()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"energies": "atomic"}, "energies names what a potential predicts"),
        ({"forces": "vector"}, "forces names what a potential predicts"),
        ({"q": "many"}, "kind='many'; choose from extensive"),
        ({"items": "atomic"}, "items cannot name a target"),
        ({}, "must name at least one property"),
    ],
)
def test_refused(kinds: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(kinds)
