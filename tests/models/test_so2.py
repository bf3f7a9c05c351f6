"""Models whose messages mix channels and degrees: one function by both algorithms, the laws of physics, sizes and files."""

import copy

import pytest
import torch
from ase import Atoms

from eqmol.checkpoint import build
from eqmol.convert.convert import convert
from eqmol.errors import InputError
from eqmol.models import Equiformer
from eqmol.tuning.tune import tune
from tests.conf.test_compose import recipe
from tests.models.systems import CUTOFF, MIXING, graph_of, make_model, random_rotation, structures, transformed
from tests.models.test_equiformer import ARGUMENTS
from tests.models.test_same_function import training_step

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("variant", "parity"), list(zip(MIXING, ["o3", "so3", "so3"], strict=True)))
def test_algorithms_agree_in_a_training_step(variant: str, parity: str) -> None:
    sizes = {"degree": 2} | ({"filter_degree": 2} if variant == "mace-so2" else {"filter_degree": 4, "order_max": 1})
    first = make_model("cg", "coupled", parity, variant, **sizes)
    second = make_model("escn", "coupled", parity, variant, seed=1, **sizes)
    second.load_state_dict(first.state_dict())
    for found, expected in zip(training_step(second, "triclinic"), training_step(first, "triclinic"), strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("equiformer-so2", {}),
        ("equiformer-so2", {"forces": "direct", "force_attention": True}),
        ("mace-so2", {"widen": 2}),
    ],
    ids=str,
)
def test_rotations_reflections_and_permutations(variant: str, options: dict) -> None:
    model = make_model("escn", "coupled", "o3", variant, **options)
    atoms, matrix = structures()["molecule"], -random_rotation(7)
    before, after = model(graph_of(atoms)), model(graph_of(transformed(atoms, matrix)[::-1]))
    assert before["forces"].abs().max() > 1e-3
    torch.testing.assert_close(after["energy"], before["energy"], atol=1e-10, rtol=1e-15)
    expected = before["forces"].flip(0) @ torch.tensor(matrix)
    torch.testing.assert_close(after["forces"], expected, atol=1e-10, rtol=1e-12)


def rotation_error(resolution: int) -> float:
    """Change of the site energies of the published form under a rotation, relative to the largest energy."""
    model = make_model("escn", "coupled", "so3", "equiformer-v2", grid_resolution=resolution)
    atoms = structures()["molecule"]
    one, other = (model(graph_of(a), forces=False)["energies"] for a in (atoms, transformed(atoms, random_rotation(3))))
    alone = torch.cat([model(graph_of(Atoms([z])), forces=False)["energies"] for z in atoms.numbers])
    return float((other - one).abs().max() / (one - alone).abs().max())


def test_the_published_form_is_as_equivariant_as_its_grid_is_fine() -> None:
    coarse, middle, fine = (rotation_error(resolution) for resolution in (3, 7, 21))
    assert coarse > 10 * middle > 100 * fine


@pytest.mark.parametrize("variant", ["equiformer-v2", "mace-so2"])
def test_forces_are_slopes_and_energies_end_smoothly(variant: str) -> None:
    model = make_model("escn", "coupled", "so3", variant)

    def at(distance: float) -> tuple[float, float]:
        results = model(graph_of(Atoms("COH", positions=[[-1.2, 0, 0], [0, 0, 0], [distance, 0.1, 0]])))
        return results["energy"].item(), results["forces"][-1, 0].item()

    step = 1e-4
    assert abs((at(1.1 - step)[0] - at(1.1 + step)[0]) / (2 * step) - at(1.1)[1]) < 1e-6
    inside, outside = at(CUTOFF - 1e-4), at(CUTOFF + 1e-4)
    assert abs(inside[0] - outside[0]) < 1e-9
    assert abs(inside[1] - outside[1]) < 1e-5


@pytest.mark.parametrize("variant", ["equiformer-so2", "equiformer-v2"])
def test_activations_have_unit_scale_at_initialisation(variant: str) -> None:
    model = make_model("escn", "coupled", "so3", variant, degree=3, filter_degree=6, channels=16)
    scales = {}
    for name, part in model.backbone.named_modules():
        if name.endswith((".inner", ".invariants", ".outer")):
            part.register_forward_hook(lambda _, __, y, name=name: scales.update({name: y.square().mean().sqrt()}))
    model(graph_of(structures()["bulk"]), forces=False)
    assert len(scales) == 6
    assert all(0.1 < scale < 8 for scale in scales.values()), scales


def test_whole_graphs_are_dropped_together() -> None:
    one = structures()["molecule"]
    model = make_model("escn", "coupled", variant="equiformer-so2", drop_path=0.5, drop_path_of="graphs").train()
    drops: list[torch.Tensor] = []
    model.backbone.layers[0].drop_path.register_forward_hook(lambda _, given, y: drops.append((y / given[0])[:, 0, 0]))
    model(graph_of(one), forces=False)
    for factors in drops:
        own = factors[: len(one)]
        assert torch.equal(own, own[:1].expand_as(own))


def test_the_choice_by_measurement_and_a_conversion_keep_the_function() -> None:
    model = make_model("cg", "coupled", "o3", "equiformer-so2")
    graph = graph_of(structures()["triclinic"])
    expected = model(graph, stress=True)
    tuned = copy.deepcopy(model)
    names = [name for name in tune(tuned, graph, "energy").choices if name.endswith(".inner.mixing")]
    assert len(names) == 2
    larger = convert(model, {"parity": "so3"})
    assert sum(p.numel() for p in larger.parameters()) > sum(p.numel() for p in model.parameters())
    for other in (tuned, larger):
        results = other(graph, stress=True)
        for key, value in expected.items():
            torch.testing.assert_close(results[key], value, atol=1e-9, rtol=0)


def test_equiformer_v2_has_the_published_size() -> None:
    """31,058,624 parameters of the published model with 90 elements, 640,000 of which act on nothing: outputs of other degrees
    of its two heads.
    """
    elements = list(range(1, 91))
    composed = recipe("experiment=equiformer_v2")
    composed |= {"elements": elements, "e0": [0.0] * 90, "properties": None}
    with torch.device("meta"):
        model = build(composed | {"backbone": composed["backbone"] | {"elements": elements}})
    number = sum(p.numel() for p in model.parameters())
    assert abs(number / 31_058_624 - 1) < 0.02


def test_the_small_form_of_the_experiment_predicts_direct_forces() -> None:
    composed = recipe("experiment=equiformer_v2_small")
    model = build(composed | {"properties": None}).eval()
    assert model(graph_of(Atoms("CH", positions=[[0, 0, 0], [0, 0, 1.1]])))["forces"].abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "grid", "family": "gaunt"}, "'grid' .* cannot mix channels; use backend cg or escn"),
        ({"activation": "relu"}, "activation='relu' is unknown; choose from gate, s2"),
        ({"grid_resolution": 4}, "grid_resolution=4 must be an integer from 5"),
        ({"basis": "sine"}, "basis='sine' is unknown; choose from bessel, gaussian"),
        ({"drop_path_of": "edges"}, "drop_path_of='edges' is unknown; choose from atoms, graphs"),
        ({"force_attention": True}, "force_attention=true makes vectors, but degree_out=0"),
        ({"value_channels": 0}, "value_channels=0"),
        ({"message_channels": 0}, "message_channels=0"),
        ({"element_channels": 0}, "element_channels=0"),
        ({"order_factors": 1}, "order_factors=1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_in_one_sentence(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Equiformer(**ARGUMENTS | {"backend": "escn", "family": "coupled", "messages": "so2"} | change)


def test_a_mace_has_no_tables_of_factors_and_is_not_enlarged() -> None:
    model = make_model("escn", "coupled", variant="mace-so2")
    assert not model.backbone.tabulate(100)
    with pytest.raises(InputError, match="messages=so2 cannot be enlarged yet"):
        convert(model, {"parity": "so3"})
    with pytest.raises(InputError, match="messages='loud' is unknown; choose from depthwise, so2"):
        make_model(variant="mace", messages="loud")


def test_each_operation_may_have_a_backend_of_its_own() -> None:
    mixed = {"convolution": "grid", "product": "grid", "mixing": "escn"}
    sizes = {"messages": "so2", "feedforward": "product"}
    models = [make_model(backend, "gaunt", variant="equiformer-so2", **sizes) for backend in ("cg", mixed)]
    energies = [model(graph_of(structures()["bulk"]))["energy"] for model in models]
    torch.testing.assert_close(*energies, atol=1e-9, rtol=0)
