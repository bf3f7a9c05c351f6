"""The potential's door: modes, precision, bad input, repulsion."""

import math
from itertools import pairwise

import pytest
import torch
from ase import Atoms
from ase.units import Bohr, Hartree

from eqmol import threads
from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.models import MACE, Potential, potential
from eqmol.models.repulsion import UNIVERSAL, make_repulsion
from tests.models.systems import CUTOFF, E0, ELEMENTS, graph_of, make_model, structures
from tests.models.test_mace import ARGUMENTS


def test_training_keeps_the_graph_and_evaluation_does_not() -> None:
    model, graph = make_model(), graph_of(structures()["bulk"])
    assert not any(value.requires_grad for value in model(graph, stress=True).values())
    with torch.no_grad():
        assert not model(graph, stress=True)["forces"].requires_grad
    with torch.inference_mode():
        inside = model(graph, stress=True)
    torch.testing.assert_close(inside["forces"], model(graph)["forces"])
    assert all(value.requires_grad for value in model.train()(graph, stress=True).values())
    assert model(graph, forces=False).keys() == {"energy", "energies"}


def test_forces_do_not_depend_on_gradients_of_parameters() -> None:
    model, graph = make_model(), graph_of(structures()["molecule"])
    before = model(graph, stress=True)
    after = model.requires_grad_(False)(graph, stress=True)
    torch.testing.assert_close(after, before, equal_nan=True)
    assert not graph.pos.requires_grad


def test_input_is_left_alone() -> None:
    model, graph = make_model(), graph_of(structures()["triclinic"])
    before = graph.clone()
    model.train()(graph, stress=True)["energy"].sum().backward()
    for key in before.to_dict():
        value = before[key]
        assert torch.equal(graph[key], value) if torch.is_tensor(value) else graph[key] == value
    assert graph.pos.grad is None


def test_reference_energies_keep_double_precision() -> None:
    elements, e0 = [79], [-517_034.123456789]
    model = Potential(MACE(**ARGUMENTS | {"elements": elements}), elements, e0, scale=1.0, zbl=True)
    for change in (lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.double().float()):
        model = change(model)
        assert model.dtype == torch.float32
        assert model.eval()(graph_of(Atoms("Au")))["energy"].item() == e0[0]
    assert model.repulsion.screened.dtype == torch.float64
    with torch.device("meta"):
        empty = Potential(MACE(**ARGUMENTS | {"elements": elements}), elements, e0, scale=1.0)
    assert empty.to(torch.float32).to_empty(device="cpu").reference.e0.dtype == torch.float64


def test_unknown_elements_are_named() -> None:
    atoms = structures()["molecule"].copy()
    atoms.numbers[4] = 9
    graph = graph_of(atoms)
    graph.source = "a.xyz, frame 3"
    with pytest.raises(InputError, match=r"a\.xyz, frame 3: atom 4 \(F\) is of an element .*knows H, C, O"):
        make_model()(graph)
    other = graph_of(structures()["molecule"])
    other.source = "a.xyz, frame 2"
    with pytest.raises(InputError, match=r"a\.xyz, frame 3: atom 4 \(F\)"):
        make_model()(collate([other, graph]))
    graph.atomic_numbers[4] = 200
    with pytest.raises(InputError, match="atomic number 200"):
        make_model()(graph)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, r"atom 0 \(H\) and atom 1 \(O\) are at the same place \(0 Å apart"),
        (5e-4, r"atom 0 \(H\) and atom 1 \(O\) are at the same place \(0.00087 Å apart"),
        (float("nan"), r"the distance of atom 0 \(H\) and atom 1 \(O\) is not finite"),
    ],
)
def test_coincident_atoms_are_named(value: float, message: str) -> None:
    graph = graph_of(Atoms("HO", positions=[[0, 0, 0], [0, 0, 1]]))
    graph.pos[1] = value
    with pytest.raises(InputError, match=message):
        make_model()(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": [1, 6]}, "differ from those of the backbone"),
        ({"e0": [0.0]}, "1 energies for 3 elements"),
        ({"e0": [0.0, math.nan, 0.0]}, "each of e0=nan"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": "1"}, "scale='1'"),
        ({"zbl": "yes"}, "zbl='yes'"),
        ({"readout_hidden": 0}, "readout_hidden=0"),
        ({"backbone": torch.nn.Linear(1, 1)}, "backbone"),
        ({"forces": "both"}, "forces='both' is unknown; choose from conservative, direct"),
        ({"pooling": "most"}, "pooling='most' is unknown; choose from"),
        ({"pooling": ["mean"]}, r"pooling=\['mean'\] is unknown; choose from"),
        ({"forces": "direct"}, "last features have degree 0; set degree_out of the backbone"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    arguments = {"backbone": MACE(**ARGUMENTS), "elements": ELEMENTS, "e0": E0, "scale": 1.0}
    with pytest.raises(InputError, match=message):
        Potential(**arguments | change)


@pytest.mark.parametrize("variant", ["mace", "equiformer"])
def test_direct_forces_need_no_derivative(variant: str) -> None:
    model, graph = make_model(variant=variant, forces="direct"), graph_of(structures()["triclinic"])
    assert not model.conservative
    with torch.no_grad():
        results = model(graph)
    assert results.keys() == {"energy", "energies", "forces"}
    assert model(graph, forces=False).keys() == {"energy", "energies"}
    assert not graph.pos.requires_grad
    results = model.train()(graph)
    (results["forces"].square().sum() + results["energy"].sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(InputError, match=r"predicts forces directly .* has no stress"):
        model(graph, stress=True)


def test_direct_forces_start_from_the_same_parameters() -> None:
    # pre-training on direct forces, then conservative fine-tuning, shares all but the head
    direct, conservative = make_model(forces="direct", degree_out=1), make_model(degree_out=1)
    extra = direct.state_dict().keys() - conservative.state_dict().keys()
    assert {name.split(".")[0] for name in extra} == {"force_head"}
    conservative.load_state_dict({k: v for k, v in direct.state_dict().items() if k not in extra})
    graph = graph_of(structures()["molecule"])
    torch.testing.assert_close(conservative(graph)["energy"], direct(graph)["energy"])


def test_direct_forces_refuse_repulsion() -> None:
    with pytest.raises(InputError, match=r"zbl=True .* direct forces"):
        make_model(forces="direct", zbl=True)
    assert make_model(forces="direct", zbl="auto").repulsion is None


def pair_energy(distance: float, elements: tuple[int, int] = (0, 2), zbl: object = True) -> float:
    repulsion = make_repulsion(zbl, ELEMENTS, CUTOFF)
    assert repulsion is not None
    lengths = torch.full((2,), distance, dtype=torch.float64)
    energies = repulsion(lengths, torch.tensor(elements), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert energies[0] == energies[1]
    return energies.sum().item()


def test_repulsion_is_the_universal_potential_at_short_distance() -> None:
    assert abs(sum(c for c, _ in UNIVERSAL.terms) - 1) < 1e-5
    # H-O: a = 0.8854 · 0.529177 / (1 + 8^0.23) = 0.178978 Å; the envelope takes off 28 (r/0.97 Å)^6
    r = 0.1
    x = r / (0.8854 * Bohr / (1 + 8**0.23))
    phi = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x)
    phi += 0.28022 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.20162 * x)
    assert abs(pair_energy(r) / (8 * Hartree * Bohr / r * phi) - 1) < 1e-4
    # closer, it becomes the bare Coulomb repulsion of the nuclei
    assert abs(pair_energy(1e-5) / (8 * 14.399645 / 1e-5) - 1) < 1e-3


def test_repulsion_with_the_constants_of_mace() -> None:
    # C-O: a = 0.4543 · 0.529 Å / (6^0.3 + 8^0.3)
    r, reach = 0.9, 0.76 + 0.66
    x = r * (6**0.3 + 8**0.3) / (0.4543 * 0.529)
    phi = 0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
    phi += 0.2802 * math.exp(-0.4028 * x) + 0.02817 * math.exp(-0.2016 * x)
    u = 1 - 21 * (r / reach) ** 5 + 35 * (r / reach) ** 6 - 15 * (r / reach) ** 7
    expected = 0.7 * 14.3996 * 48 / r * phi * u
    given = {"screening": "mace", "scale": 0.7, "envelope_exponent": 5}
    assert pair_energy(r, (1, 2), given) == pytest.approx(expected, rel=1e-12)
    assert pair_energy(r, (1, 2), "mace") != pair_energy(r, (1, 2), True)


def test_a_repulsion_beside_data() -> None:
    """Pair by pair the potential itself with another end, which is never above the data, and smooth there."""
    repulsion = make_repulsion("auto", ELEMENTS, CUTOFF)
    assert repulsion is not None
    assert not repulsion.reach.any()
    # close, bonded, longer than bonds; lacking, bonded; longer than bonds
    shortest = torch.tensor([[0.15, 1.0, 1.3], [1.0, 0.0, 1.2], [1.3, 1.2, 2.0]], dtype=torch.float64)
    h_o, c_c, o_o = 0.75 * (0.31 + 0.66), 0.75 * 1.52, 0.75 * 1.32
    expected = torch.tensor([[0.0, 0.9, h_o], [0.9, c_c, 1.08], [h_o, 1.08, o_o]], dtype=torch.float64)
    repulsion.settle(shortest)
    torch.testing.assert_close(repulsion.reach, expected)
    x = torch.tensor([0.3, 0.7, 0.999, 1.0, 1.2], dtype=torch.float64)
    lengths, edges, species = 0.9 * x, torch.arange(5), torch.tensor([0] * 5 + [1] * 5)
    found = repulsion(lengths, species, edges, edges + 5)[5:]
    whole = make_repulsion(True, ELEMENTS, CUTOFF)
    assert whole is not None
    whole.reach.fill_(1e6)  # the envelope of the whole potential is 1
    bare = whole(lengths, species, edges, edges + 5)[5:]
    slow = bare * torch.where(x < 1, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, 0.0)
    torch.testing.assert_close(found, slow, rtol=1e-10, atol=1e-12)
    assert (found[3:] == 0).all()
    assert 0 < found[2] < 1e-6


def test_a_repulsion_beside_data_says_why() -> None:
    repulsion = make_repulsion("auto", ELEMENTS, CUTOFF)
    assert repulsion is not None
    shortest = torch.tensor([[0.2, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    repulsion.settle(shortest)
    assert repulsion.words(shortest) == (
        "repulsion of nuclei (ZBL) where the training set has no close contacts: below 0.9 of its shortest distance for H-C "
        "(0.90 Å); below 0.75 of the covalent radii for H-O (0.73 Å), C-C (1.14 Å), C-O (1.06 Å), O-O (0.99 Å), which it never has "
        "bonded; none for H-H, of which it has close contacts (predictor.zbl=false: none)"
    )


@pytest.mark.parametrize(
    "zbl", ["MACE", 1, {"screening": "other"}, {"power": 0.3}, {"scale": -1.0}, {"envelope_exponent": 1}]
)
def test_other_repulsions_are_refused(zbl: object) -> None:
    with pytest.raises(InputError, match="zbl"):
        make_repulsion(zbl, ELEMENTS, CUTOFF)


def test_repulsion_ends_smoothly_at_the_sum_of_covalent_radii() -> None:
    reach = 0.31 + 0.66
    assert pair_energy(reach) == 0
    assert pair_energy(reach + 1) == 0
    assert 0 < pair_energy(reach - 1e-3) < 1e-4
    distances = [0.2 + 0.01 * i for i in range(80)]
    energies = [pair_energy(r) for r in distances]
    assert all(a >= b for a, b in pairwise(energies))


def test_forces_of_many_edges(monkeypatch) -> None:
    """Those of both ends are summed by two threads, to the same bits."""
    graph = graph_of(structures()["molecule"])
    gradient = torch.randn(graph.edge_index.shape[1], 3, dtype=torch.float64)
    expected = potential.forces_of(graph, gradient)
    monkeypatch.setattr(potential, "CHUNK", 0)
    monkeypatch.setattr(threads, "number", lambda: 2)
    assert torch.equal(potential.forces_of(graph, gradient), expected)
