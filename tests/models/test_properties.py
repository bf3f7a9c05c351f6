"""Heads of molecular properties: what symmetry and definition demand of them."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from eqmol.data.qm9 import targets as qm9
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.models import MACE, Equiformer, Properties
from eqmol.units import BOHR, DEBYE

ELEMENTS = [1, 6, 7, 8]
TARGETS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "U0")


def statistics(*targets):
    e0 = [-13.6, -1036.0, -1487.5, -2044.0]
    sizes = {"e0": e0, "mean": 0.5, "scale": 0.7, "spread": 1.0}
    return {name: qm9.TARGETS[name].plain() | sizes for name in targets}


def model(kind="mace", targets=TARGETS, degree_out=1, **options):
    torch.manual_seed(0)
    if kind == "mace":
        backbone = MACE("cg", "coupled", "o3", 1, 2, 8, 2, 2, 1, 4.0, ELEMENTS, 6.0, degree_out=degree_out)
    else:
        backbone = Equiformer(
            backend="cg",
            family="coupled",
            parity="o3",
            degree=2,
            filter_degree=2,
            channels=8,
            layers=1,
            cutoff=4.0,
            elements=ELEMENTS,
            avg_num_neighbors=6.0,
            degree_out=degree_out,
        )
    return Properties(backbone, ELEMENTS, statistics(*targets), **options).eval()


def predict(net, atoms: Atoms):
    return {name: value.detach().numpy() for name, value in net(from_atoms(atoms, 4.0)).items()}


@pytest.mark.parametrize("kind", ["mace", "equiformer"])
def test_dipole_turns_with_the_molecule_and_nothing_else_changes(kind, float64):
    net = model(kind)
    atoms = molecule("CH3CONH2")
    before = predict(net, atoms)
    turned = atoms.copy()
    rotation = Rotation.random(random_state=3).as_matrix()
    turned.positions = atoms.positions @ rotation.T + [3.0, -70.0, 11.0]
    after = predict(net, turned)
    np.testing.assert_allclose(after["dipole"], before["dipole"] @ rotation.T, atol=1e-10)
    for name in TARGETS:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-10, err_msg=name)
    assert np.linalg.norm(before["dipole"]) > 0.01
    assert before["charges"].sum() == pytest.approx(0.0, abs=1e-12)
    assert abs(before["charges"]).max() > 1e-3


def test_dipole_is_that_of_charges_and_atomic_dipoles(float64):
    net = model(targets=("mu",))
    atoms = molecule("CH3OH")
    with torch.no_grad():
        net.heads["mu"].vectors.readout.last.zero_()
    found = predict(net, atoms)
    expected = found["charges"] @ atoms.positions / DEBYE
    np.testing.assert_allclose(found["dipole"][0], expected, atol=1e-12)
    np.testing.assert_allclose(found["mu"], np.linalg.norm(expected), rtol=1e-12)


def test_sums_means_and_extent_of_a_silent_network(float64):
    net = model()
    with torch.no_grad():
        for parameter in net.heads.parameters():
            parameter.zero_()
    atoms = molecule("CH3OH")
    found = predict(net, atoms)
    e0 = 4 * -13.6 - 1036.0 - 2044.0
    assert found["U0"] == pytest.approx(e0)
    assert found["homo"] == pytest.approx(0.5)
    charges = atoms.numbers.astype(float)
    arms = atoms.positions - charges @ atoms.positions / charges.sum()
    assert found["r2"] == pytest.approx(charges @ (arms**2).sum(1) / BOHR**2 + e0)


@pytest.mark.parametrize("pooling", ["mean", "softmax"])
def test_size(pooling, float64):
    """Far apart, extensive properties add and intensive ones average."""
    net = model(targets=("alpha", "homo"), pooling=pooling)
    one = molecule("H2O")
    two = one + Atoms(one.numbers, one.positions + np.array([50.0, 0.0, 0.0]))
    single, both = predict(net, one), predict(net, two)
    assert both["alpha"] == pytest.approx(2 * single["alpha"], rel=1e-12)
    assert both["homo"] == pytest.approx(single["homo"], rel=1e-12)


def test_weights_of_softmax_pooling(float64):
    net = model(targets=("homo",), pooling="softmax")
    graph = from_atoms(molecule("CH3OH"), 4.0)
    heads = {}
    head = net.heads["homo"]
    for name, module in (("values", head.atoms), ("logits", head.logits)):
        module.register_forward_hook(lambda _, args, out, name=name: heads.update({name: out.detach().numpy()}))
    found = net(graph)["homo"].item()
    weights = np.exp(heads["logits"]) / np.exp(heads["logits"]).sum()
    assert weights.std() > 1e-3
    assert found == pytest.approx(0.5 + 0.7 * weights @ heads["values"], rel=1e-12)


def test_gap_as_difference(float64):
    net = model(targets=("homo", "gap", "lumo"), gap="difference")
    found = predict(net, molecule("NH3"))
    assert found["gap"] == found["lumo"] - found["homo"]
    with pytest.raises(InputError, match="add homo and lumo"):
        model(targets=("homo", "gap"), gap="difference")


@pytest.mark.parametrize("pooling", ["mean", "softmax"])
def test_batches_equal_single_molecules_and_train(pooling, float64):
    net = model(denoise=True, pooling=pooling)
    molecules = [molecule("CH3OH"), molecule("H2O"), molecule("CH4")]
    batch = collate([from_atoms(atoms, 4.0) for atoms in molecules])
    together = net(batch)
    for index, atoms in enumerate(molecules):
        alone = predict(net, atoms)
        for name in TARGETS:
            assert together[name][index].item() == pytest.approx(alone[name].item(), rel=1e-10, abs=1e-10), name
    assert "noise" not in together
    output = net.train()(batch)
    assert output["noise"].shape == (len(batch.pos), 3)
    (sum(output[name].sum() for name in TARGETS) + output["noise"].square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name  # methane has no dipole, whose norm has no slope there


def test_references_keep_bothprecision():
    net = model(targets=("U0",)).float()
    assert net.heads["U0"].e0.dtype == torch.float64
    assert net(from_atoms(molecule("H2O"), 4.0))["U0"].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("mu",), "degree_out": 0}, r"dipole moment reads vectors.*degree_out"),
        ({"targets": ()}, "at least one property"),
        ({"gap": "both"}, "choose from direct, difference"),
        ({"pooling": "sum"}, "choose from mean, softmax"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message):
        model(**change)


def test_further_inputs(float64):
    features = {"bond_order": {"mean": 2.0, "scale": 1.5}, "TPSA": {"mean": 30.0, "scale": 10.0}}
    net = model(features=features)
    graph = from_atoms(molecule("H2O"), 4.0)
    with pytest.raises(InputError, match=r"reads bond_order, TPSA, which need bonds; give molecules as SMILES, \.sdf"):
        net(graph)
    graph.features = torch.tensor([[2.0, 25.0], [1.0, 25.0], [1.0, 25.0]], dtype=torch.float64)
    other = graph.clone()
    other.features = graph.features + torch.tensor([0.0, 5.0])
    found, changed = net(graph), net(other)
    assert all(not torch.allclose(found[name], changed[name]) for name in TARGETS)
    torch.testing.assert_close(net.inputs(graph), torch.tensor([[0.0, -0.5], [-2 / 3, -0.5], [-2 / 3, -0.5]]))
    both = net(collate([graph, other]))
    torch.testing.assert_close(both["alpha"], torch.cat((found["alpha"], changed["alpha"])))
    with pytest.raises(InputError, match="the feature TPSA must have mean and scale"):
        model(features={"TPSA": {"mean": 1.0}})


def test_every_property_has_a_head(float64):
    found = predict(model(targets=tuple(qm9.TARGETS)), molecule("H2O"))
    assert all(np.isfinite(found[name]).all() for name in qm9.TARGETS)


# --- targets of one's own


OWN = {
    "alpha": {"kind": "tensor", "unit": "a0³"},
    "moment": {"kind": "dipole", "unit": "D"},
    "field": {"kind": "vector", "unit": "eV/Å"},
    "shift": {"kind": "atomic", "unit": "ppm"},
    "logS": {"kind": "intensive", "unit": ""},
}


def own(targets=OWN, degree_out=2):
    torch.manual_seed(0)
    backbone = MACE("cg", "coupled", "o3", 1, 2, 8, 2, 2, 1, 4.0, ELEMENTS, 6.0, degree_out=degree_out)
    sizes = {"e0": [1.0, 2.0, 3.0, 4.0], "mean": 0.5, "scale": 0.7, "spread": 1.0}
    return Properties(backbone, ELEMENTS, {name: entry | sizes for name, entry in targets.items()}).eval()


@pytest.mark.parametrize("mirror", [False, True])
def test_own_targets_turn_with_the_molecule(mirror, float64):
    net = own()
    atoms = molecule("CH3CONH2")
    before = predict(net, atoms)
    rotation = Rotation.random(random_state=5).as_matrix() * (-1 if mirror else 1)
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T + [3.0, -70.0, 11.0]
    after = predict(net, turned)
    for name in ("moment", "field"):
        np.testing.assert_allclose(after[name], before[name] @ rotation.T, atol=1e-10)
        assert np.linalg.norm(before[name]) > 1e-3
    alpha = before["alpha"][0]
    np.testing.assert_allclose(after["alpha"][0], rotation @ alpha @ rotation.T, atol=1e-10)
    np.testing.assert_allclose(alpha, alpha.T, atol=1e-12)
    assert np.ptp(np.linalg.eigvalsh(alpha)) > 1e-2
    for name in ("shift", "logS"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-10)
    assert before["shift"].shape == (len(atoms),)


def test_tensors_and_vectors_are_sums_over_atoms(float64):
    net = own({name: OWN[name] for name in ("alpha", "field")})
    one = molecule("CH3OH")
    two = one.copy()
    two.translate([50.0, 0.0, 0.0])
    apart, single = predict(net, one + two), predict(net, one)
    for name in ("alpha", "field"):
        np.testing.assert_allclose(apart[name], 2 * single[name], atol=1e-10)


@pytest.mark.parametrize(
    ("targets", "degree_out", "message"),
    [
        ({"alpha": OWN["alpha"]}, 1, "a tensor reads tensors.*degree_out.* to 2"),
        ({"field": OWN["field"]}, 0, "a vector reads vectors.*degree_out.* to 1"),
        ({"a.b": OWN["logS"]}, 2, "cannot name a target"),
        ({"x": {"kind": "best", "unit": ""}}, 2, "kind='best'; choose from extensive, intensive"),
        ({"x": {"kind": "tensor", "unit": 3}}, 2, "unit of the target x is 3"),
    ],
)
def test_own_targets_that_cannot_be(targets, degree_out, message):
    with pytest.raises(InputError, match=message):
        own(targets, degree_out)


def test_dipole_moments_of_periodic_structures_are_refused():
    atoms = molecule("CH3OH", cell=[9.0] * 3, pbc=True)
    with pytest.raises(InputError, match=r"moment \(dipole\) is a property of molecules"):
        predict(own(), atoms)
    assert predict(own({"alpha": OWN["alpha"]}), atoms)["alpha"].shape == (1, 3, 3)
