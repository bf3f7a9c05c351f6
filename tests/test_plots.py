"""Figures of a run show every set, and the errors of the whole of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from eqmol import plots
from eqmol.plots import COLUMNS, Quantity

QUANTITIES = (
    Quantity("energy", "energies", "eV", "energy_rmse", "meV", 1000.0),
    Quantity("forces", "forces", "eV/Å", "forces_rmse", "meV/Å", 1000.0),
    Quantity("absent", "nothing", "eV", "absent_rmse", "meV", 1000.0),
)


@pytest.fixture
def drawn(figures: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    monkeypatch.setattr(plots, "write_png", lambda figure, path: found.append(figure))
    return found


def files(folder: Path, names: list[str]) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """Points of sets of growing errors, and the errors of the sets that they are a part of."""
    rng = np.random.default_rng(0)
    points, errors = {}, {}
    for k, name in enumerate(names):
        for quantity in ("energy", "forces"):
            reference = rng.normal(size=30)
            points[f"{name}/{quantity}"] = np.stack((reference, reference + 0.01 * (k + 1)))
        errors[name] = {"energy_rmse": 20.0 + k, "forces_rmse": 1234.0 * (k + 1)}
    points[f"{names[0]}/energy"][:, 3] = np.nan
    np.savez(folder / "parity.npz", **points)
    train, val, *tests = names
    document = {"train": errors[train], "val": errors[val], "test": {name: errors[name] for name in tests}, "steps": 7}
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder / "parity.npz", folder / "metrics.json", points


@pytest.mark.parametrize("tests", [0, 2, 4])
def test_every_set_has_its_place_and_the_error_of_the_table(tmp_path: Path, drawn: list[Figure], tests: int) -> None:
    names = ["train", "val", *(f"{300 * (k + 1)}K/a" for k in range(tests))]
    data, metrics, points = files(tmp_path, names)
    plots.parity(data, metrics, tmp_path / "parity.png", QUANTITIES)
    (figure,) = drawn
    titled = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    expected = [f"{name}: RMSE {20 + k} meV" for k, name in enumerate(names)]
    expected += [f"{name}: RMSE {1.234 * (k + 1):.3g} eV/Å" for k, name in enumerate(names)]
    assert list(titled) == expected
    shown = [[c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)] for axes in titled.values()]
    for (offsets,), source in zip(shown, [f"{n}/{q}" for q in ("energy", "forces") for n in names], strict=True):
        known = points[source][:, np.isfinite(points[source]).all(axis=0)]
        np.testing.assert_allclose(offsets, known.T)
    limits = {axes.get_xlim() for title, axes in titled.items() if title.endswith("meV")}
    assert len(limits) == 1  # the same for all sets
    assert len(figure.axes) == 2 * 2 * len(names)
    assert len({round(axes.get_position().x0, 3) for axes in titled.values()}) == min(len(names), COLUMNS)


@pytest.mark.usefixtures("figures")
def test_a_figure_is_written(tmp_path: Path) -> None:
    data, metrics, _ = files(tmp_path, ["train", "val", "test"])
    plots.parity(data, metrics, tmp_path / "parity.png", QUANTITIES)
    assert (tmp_path / "parity.png").read_bytes()[:4] == b"\x89PNG"
