"""One set of parameters is one function under every algorithm: values, forces and gradients of a training step."""

import pytest
import torch

from eqmol.models import Potential
from eqmol.ops.registry import ALGORITHMS, can_run
from tests.models.systems import VARIANTS, graph_of, make_model, structures

pytestmark = pytest.mark.usefixtures("float64")


def training_step(model: Potential, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    graph = graph_of(structures()[name])
    results = model.train()(graph, stress=True)
    loss = results["forces"].pow(2).mean() + results["energy"].sum() / len(graph.pos) + results["virial"].pow(2).mean()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    return {k: v.detach() for k, v in results.items()}, {k: p.grad for k, p in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("parity", ["o3", "so3"])
@pytest.mark.parametrize("family", ["coupled", "gaunt"])
@pytest.mark.parametrize("name", ["molecule", "triclinic"])
def test_algorithms_of_one_family_agree(family: str, parity: str, name: str, variant: str) -> None:
    sizes = {"degree": 2, "filter_degree": 3, "layers": 3}
    sizes |= {"correlation": 3, "fields": 2} if variant == "mace" else {}
    sizes |= {"widen": "paths"} if variant == "mace-density" and family == "coupled" else {}
    first = make_model("cg", family, parity, variant, **sizes)
    results, gradients = training_step(first, name)
    for backend in ALGORITHMS:
        if backend == "cg" or not can_run(backend, family):
            continue
        model = make_model(backend, family, parity, variant, seed=1, **sizes)
        model.load_state_dict(first.state_dict())
        others, other_gradients = training_step(model, name)
        for key, value in results.items():
            torch.testing.assert_close(others[key], value, atol=1e-9, rtol=1e-11, equal_nan=True)
        for key, value in gradients.items():
            torch.testing.assert_close(other_gradients[key], value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["coupled", "gaunt"])
def test_equal_seeds_give_equal_parameters(family: str, variant: str) -> None:
    states = [make_model(b, family, "so3", variant).state_dict() for b in ALGORITHMS if can_run(b, family)]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[key], states[0][key]) for key in state)


def test_a_backend_per_operation() -> None:
    mixed = {"convolution": "grid", "product": "cg", "power": "gaunt"}
    graph = graph_of(structures()["bulk"])
    for variant in VARIANTS:
        whole, parts = make_model("cg", "gaunt", variant=variant), make_model(mixed, "gaunt", variant=variant)
        torch.testing.assert_close(parts(graph)["forces"], whole(graph)["forces"], atol=1e-9, rtol=0)


def test_a_family_per_operation() -> None:
    # products of the gaunt family among convolutions of the coupled one
    family = {"convolution": "coupled", "product": "gaunt"}
    graph = graph_of(structures()["bulk"])
    reference = make_model("cg", family, variant="equiformer-nonlinear")
    for backend in ({"convolution": "escn", "product": "grid"}, {"convolution": "escn", "product": "gaunt"}, "escn"):
        model = make_model(backend, family, variant="equiformer-nonlinear")
        torch.testing.assert_close(model(graph)["forces"], reference(graph)["forces"], atol=1e-9, rtol=0)
