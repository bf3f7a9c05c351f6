"""Whole networks of e3nn before and after."""

import runpy
from pathlib import Path

import pytest
import torch

from benchmarks.e3nn_network import Network, cluster, forces, training, with_convolutions, with_products

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """e3nn's own message passing with both parities, and what takes its place."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    old = Network(channels=4, degree=2, layers=2, neighbors=6.0)
    found = {"e3nn": old, "product": with_products(old)}
    found |= {algorithm: with_convolutions(old, algorithm) for algorithm in ("cg", "escn")}
    torch.set_default_dtype(before)
    return found


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("products", ["product", "cg", "escn"])
def test_same_energies_forces_and_training(networks, products):
    graph = cluster(7)
    for task in (forces, training):
        for new, old in zip(task(networks[products], *graph), task(networks["e3nn"], *graph), strict=True):
            torch.testing.assert_close(new, old, atol=1e-10 * old.detach().abs().max().item(), rtol=0)


@pytest.mark.usefixtures("float64")
def test_network_depends_on_its_products(networks):
    energy, force = forces(networks["e3nn"], *cluster(7))
    assert force.abs().max() > 1e-3 * energy.abs()


@pytest.mark.usefixtures("float64")
def test_example(capsys):
    script = ROOT / "docs" / "examples" / "e3nn_door.py"
    assert len(script.read_text().splitlines()) <= 40
    found = runpy.run_path(str(script))
    torch.testing.assert_close(found["after"], found["before"], atol=1e-10, rtol=0)
    torch.testing.assert_close(found["forces_after"], found["forces_before"], atol=1e-10, rtol=0)
    assert found["forces_before"].abs().max() > 1e-3
    assert "replaced: product" in capsys.readouterr().out
