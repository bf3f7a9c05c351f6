"""What the tests of runs share."""

from pathlib import Path

import pytest

from eqmol import plots


@pytest.fixture
def figures() -> None:
    """Runs of this test draw their figures."""


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave the last step of their figures out: it takes longer than they do."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(plots, "write_png", lambda figure, path: Path(path).touch())
