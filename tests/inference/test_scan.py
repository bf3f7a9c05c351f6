"""Energies along a coordinate: which points are one scan, and the figure."""

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from matplotlib.figure import Figure

import eqmol
from eqmol import plots
from eqmol.checkpoint import save
from eqmol.cli.predict import main
from eqmol.errors import InputError
from eqmol.inference.scan import Profile
from tests.recipes import model

ANGLES = [-170.0, -90.0, -10.0, 80.0, 170.0]


def peroxide(angle: float, energy: float | None = None) -> ase.Atoms:
    """H2O2 with a dihedral angle."""
    atoms = ase.Atoms("HOOH", [[0.9, 0, -0.2], [0, 0, 0], [0, 0, 1.45], [0.9, 0, 1.65]])
    atoms.set_dihedral(0, 1, 2, 3, angle, indices=[3])
    atoms.info["torsion"] = angle
    if energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


@pytest.mark.parametrize("coordinate", ["torsion", "0,1,2,3"])
def test_scans_of_a_file_and_what_they_are_relative_to(coordinate: str) -> None:
    profile = Profile(coordinate)
    for number, angle in enumerate(2 * ANGLES):
        reference = 5.0 + np.cos(np.radians(angle)) + number // 5
        profile.add(
            (peroxide(angle), {"energy": reference}, f"a/b.xyz, frame {number}"), {"energy": 2 * reference - 3.0}
        )
    profile.add((peroxide(50.0), {}, "c.xyz, frame 0"), {"energy": -1.0})
    curves = profile.curves()
    assert list(curves) == ["b.xyz 1", "b.xyz 2", "c.xyz"]
    expected = np.cos(np.radians(ANGLES)) - np.cos(np.radians(170.0))
    for name in list(curves)[:2]:
        np.testing.assert_allclose(curves[name], [ANGLES, expected, 2 * expected], atol=1e-9)
    assert np.isnan(curves["c.xyz"][1, 0])
    assert curves["c.xyz"][2, 0] == 0.0


def test_distances_and_angles() -> None:
    atoms = peroxide(90.0)
    for coordinate, expected in (("1,2", 1.45), ("0,1,2", atoms.get_angle(0, 1, 2))):
        profile = Profile(coordinate)
        profile.add((atoms, {}, "a.xyz, frame 0"), {"energy": 0.0})
        assert profile.curves()["a.xyz"][0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("coordinate", "message"),
    [
        ("nothing", "has no number 'nothing' for --scan; it has .*torsion"),
        ("0,9", "none of the index 9"),
        ("1,1", "two to four different atoms"),
        ("1,2,3,4,5", "two to four different atoms"),
    ],
)
def test_coordinates_that_are_not_there(coordinate: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Profile(coordinate).add((peroxide(0.0), {}, "a.xyz, frame 0"), {"energy": 0.0})


@pytest.mark.usefixtures("figures")
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[Figure] = []
    write_png = plots.write_png
    monkeypatch.setattr(plots, "write_png", lambda figure, path: (drawn.append(figure), write_png(figure, path)))
    save(model(), tmp_path / "model.safetensors")
    energies = [0.1 * k for k in range(5)]
    write(tmp_path / "scan.xyz", [peroxide(a, e) for a, e in zip(ANGLES, energies, strict=True)])
    arguments = [str(tmp_path / "model.safetensors"), str(tmp_path / "scan.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--scan", "0,1,2,3", "--profile", str(tmp_path / "profile.png")]) == 0
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"
    (axes,) = drawn[0].axes
    reference, prediction = axes.get_lines()
    np.testing.assert_allclose(reference.get_xdata(), ANGLES, atol=1e-6)
    predicted = [r["energy"] for r in eqmol.predict([peroxide(a) for a in ANGLES], tmp_path / "model.safetensors")]
    unit = {"relative energy (eV)": 1.0, "relative energy (meV)": 1000.0}[axes.get_ylabel()]
    np.testing.assert_allclose(reference.get_ydata(), unit * np.array(energies), atol=1e-9)
    np.testing.assert_allclose(prediction.get_ydata(), unit * (np.array(predicted) - predicted[0]), atol=1e-5)
    assert axes.get_xlabel() == "dihedral angle 0-1-2-3 (°)"
    assert axes.get_title().startswith("scan.xyz: RMSE ")
    capsys.readouterr()
    assert main([*arguments, "--scan", "torsion"]) == 2
    assert "give both" in capsys.readouterr().err
