"""Shared fixtures: precision, seeds, and the switch for real data."""

import os
from collections.abc import Iterator

import pytest
import torch

from eqmol.ops.registry import BACKENDS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("EQMOL_DATA"):
        return
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason="EQMOL_DATA is not set"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Modules and tensors made in the test are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param
