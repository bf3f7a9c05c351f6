"""``eqmol select``: unsure structures, far from one another."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import eqmol
from eqmol.cli.main import main
from eqmol.inference.choose import Scores, choose, score
from tests.inference.test_uncertainty import sure
from tests.recipes import model


def pool() -> list[Atoms]:
    """Two molecules, each at rest, shaken a little and much; the last is a copy of the first."""
    found = []
    for name in ("CH3CH2OH", "H2O"):
        for size in (0.0, 0.02, 0.1):
            atoms = molecule(name)
            atoms.rattle(size, seed=3)
            atoms.info["place"] = len(found)
            found.append(atoms)
    return [*found, found[0].copy()]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    eqmol.save(sure(), tmp_path / "model.safetensors")
    write(tmp_path / "pool.xyz", pool())
    return tmp_path / "pool.xyz", tmp_path / "model.safetensors"


def test_the_next_is_unsure_and_far_from_all_others() -> None:
    places = np.array([[0.0, 0], [0.1, 0], [5, 0], [0, 3], [5, 0]])
    scores = Scores(np.array([3.0, 2.9, 1.0, 1.1, 1.0]), places)
    assert choose(scores, 3) == [0, 2, 3]
    assert choose(scores, 5) == [0, 2, 3, 1]  # the last is a copy
    assert choose(scores, 2, known=places[[0, 2]]) == [3, 1]
    slow: list[int] = []
    rng = np.random.default_rng(0)
    random = Scores(rng.uniform(size=30), rng.normal(size=(30, 4)))
    for _ in range(10):
        values = [
            d * min((np.linalg.norm(p - random.places[c]) for c in slow), default=1.0)
            for d, p in zip(random.distances, random.places, strict=True)
        ]
        slow.append(int(np.argmax(values)))
    assert choose(random, 10) == slow


def test_scores_are_of_single_structures_and_of_what_predictions_say(files: tuple[Path, Path]) -> None:
    potential = eqmol.load(files[1])
    frames = [(atoms, {}, "") for atoms in pool()]
    together, alone = score(potential, frames, batch_size=7), score(potential, frames, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a - b).max() < 1e-9 * np.abs(a).max()
    std = [result["forces_std"].max() for result in eqmol.predict(pool(), potential)]
    assert together.distances == pytest.approx(np.array(std) / 0.3, rel=1e-9)


def test_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chosen.xyz"
    command = ["select", *map(str, files), "-o", str(out)]
    assert main([*command, "--number", "3"]) == 0
    frames = read(out, ":")
    places = [atoms.info["place"] for atoms in frames]
    potential = eqmol.load(files[1])
    assert places == choose(score(potential, [(atoms, {}, "") for atoms in pool()]), 3)
    for atoms, place in zip(frames, places, strict=True):
        result = eqmol.predict(pool()[place], potential)
        assert atoms.arrays["eqmol_forces_std"] == pytest.approx(result["forces_std"], rel=1e-6)
        assert atoms.info["eqmol_energy_std"] == pytest.approx(result["energy_std"], rel=1e-6)
        assert "eqmol_forces" not in atoms.arrays
        assert atoms.info["eqmol_source"] == f"{files[0]}, frame {place}"
    assert f"3 of 7 structures -> {out}" in capsys.readouterr().out
    assert main([*command, "--number", "7"]) == 0
    assert len(read(out, ":")) == 6
    assert "all others are copies" in capsys.readouterr().out
    again = tmp_path / "again.xyz"
    assert main(["select", *map(str, files), "-n", "7", "-o", str(again), "--known", str(out)]) == 2
    assert "nothing to choose" in capsys.readouterr().err
    assert not again.exists()


def test_what_cannot_be(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file = files
    out = tmp_path / "chosen.xyz"
    eqmol.save(model(), tmp_path / "plain.safetensors")
    for command, message in (
        ([source, file, "-n", "8"], "--number 8 is more than the 7 structures"),
        ([source, tmp_path / "plain.safetensors", "-n", "2"], "which eqmol train writes into its file"),
        ([source, file, "-n", "0"], "'0' is not a positive integer"),
        ([source, file], "the following arguments are required: -n/--number"),
        ([tmp_path / "no.xyz", file, "-n", "1"], "no.xyz"),
    ):
        assert main(["select", *map(str, command), "-o", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
