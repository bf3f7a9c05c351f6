"""Shared fixtures: precision, seeds, and the switch for real data."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore

from eqmol import plots
from eqmol.models.registry import BACKBONES
from eqmol.ops.kernels import compiler as compilers
from eqmol.ops.registry import ALGORITHMS

# compiling takes seconds a spec: only tests of kernels use them, and all tests where this is set to something else
os.environ.setdefault("EQMOL_KERNELS", "off")
# laws hold to the last digits: tables have tests of their own
os.environ.setdefault("EQMOL_RADIAL_TABLE", "off")

FIGURES = {name: getattr(plots, name) for name in ("parity", "learning_curve", "calibration", "write_png")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("EQMOL_DATA"):
        return
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason="EQMOL_DATA is not set"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: compressed ones hold the time, and every worker must collect the same tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_figures() -> Iterator[None]:
    """Runs leave their figures out: they take longer than the rest."""

    def leave_out(*arguments: Any, **_: Any) -> None:
        next(Path(path) for path in arguments if str(path).endswith(".png")).touch()

    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr(plots, name, leave_out)
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test draws figures."""
    for name, draw in FIGURES.items():
        monkeypatch.setattr(plots, name, draw)


@pytest.fixture
def float64() -> Iterator[None]:
    """Modules and tensors made in the test are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=ALGORITHMS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def registration() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    tables: tuple[dict[str, Any], ...] = (ALGORITHMS, BACKBONES)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for group in ("backend", "model"):  # Hydra has the others from files
        ConfigStore.instance().repo.pop(group, None)


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels lie during the tests, the same for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def kernels(kernel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor products are compiled; skips where there is no compiler."""
    monkeypatch.setenv("EQMOL_CACHE", str(kernel_cache))
    monkeypatch.setenv("EQMOL_KERNELS", "auto")
    if compilers.find() is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setenv("EQMOL_KERNELS", "require")
