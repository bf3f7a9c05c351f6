"""Heads of molecular properties: what symmetry and definition demand of them."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.graph.properties import PROPERTIES
from eqmol.models import MACE, Equiformer, Properties
from eqmol.units import BOHR, DEBYE

ELEMENTS = [1, 6, 7, 8]
TARGETS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "U0")


def statistics(*targets):
    return {name: {"e0": [-13.6, -1036.0, -1487.5, -2044.0], "mean": 0.5, "scale": 0.7} for name in targets}


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
        ({"targets": ("mu",), "degree_out": 0}, r"dipole moment \(mu\) reads vectors.*degree_out"),
        ({"targets": ("energy",)}, "'energy' is unknown; choose among mu, alpha"),
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
    found = predict(model(targets=tuple(PROPERTIES)), molecule("H2O"))
    assert all(np.isfinite(found[name]).all() for name in PROPERTIES)
