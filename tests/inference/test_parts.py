"""Predictions and relaxations in parts: every structure once, in order, also after a part was stopped."""

from pathlib import Path

import ase
import pytest
from ase.build import molecule
from ase.io import read, write

from eqmol.checkpoint import save
from eqmol.cli.predict import main
from eqmol.cli.relax import main as relax_main
from eqmol.errors import InputError
from eqmol.inference.parts import Part
from eqmol.inference.relax import Relaxation, Relaxer
from tests.recipes import model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(model(), tmp_path / "model.safetensors")
    for name, number in (("a", 4), ("b", 3)):
        frames: list[ase.Atoms] = []
        for seed in range(number):
            atoms = molecule("H2O" if seed % 2 else "CH3OH")
            atoms.rattle(0.02, seed=seed)
            atoms.info["kind"] = atoms.get_chemical_formula()
            frames.append(atoms)
        write(tmp_path / f"{name}.xyz", frames)
    return tmp_path


def predict(folder: Path, *options: str, out: str = "out.xyz") -> int:
    return main(
        [
            str(folder / "model.safetensors"),
            str(folder / "?.xyz"),
            "-o",
            str(folder / out),
            "--batch-size",
            "1",
            *options,
        ]
    )


@pytest.mark.parametrize("total", [3, 9])  # of seven structures
def test_parts_are_the_whole(folder: Path, total: int) -> None:
    assert predict(folder, out="whole.extxyz") == 0
    order = [*range(2, total + 1), 1]
    for index in order[:-1]:
        assert predict(folder, "--part", f"{index}/{total}") == 0
        assert not (folder / "out.xyz").exists()
    assert predict(folder, "--part", f"{order[-1]}/{total}") == 0
    assert (folder / "out.xyz").read_text() == (folder / "whole.extxyz").read_text()
    assert sorted(path.name for path in (folder / "out.xyz.parts").iterdir()) == ["job.json", "lock"]


def test_a_part_that_is_there_is_not_predicted_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, "--part", "1/2") == 0
    monkeypatch.setattr("eqmol.cli.predict.load_model", lambda _: pytest.fail("it was predicted"))
    assert predict(folder, "--part", "1/2") == 0
    printed = capsys.readouterr().out
    assert "part 1 is there already" in printed
    assert "1 of 2 parts are missing" in printed
    monkeypatch.undo()
    assert predict(folder, "--part", "2/2") == 0
    assert "7 structures -> " in capsys.readouterr().out
    assert predict(folder, "--part", "1/2") == 0  # after the end
    assert "7 structures -> " in capsys.readouterr().out
    assert len(read(folder / "out.xyz", ":")) == 7


def test_a_part_that_is_stopped_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eqmol.inference.extxyz.write_frame", stop)
    assert predict(folder, "--part", "1/1") == 130
    assert sorted(path.name for path in (folder / "out.xyz.parts").iterdir()) == ["job.json", "lock"]
    monkeypatch.undo()
    assert predict(folder, "--part", "1/1") == 0
    assert len(read(folder / "out.xyz", ":")) == 7


@pytest.mark.parametrize(
    ("change", "sentence"),
    [("parts", "parts differ"), ("model", "model differ"), ("inputs", "inputs differ")],
)
def test_parts_of_another_prediction_are_refused(folder: Path, change: str, sentence: str) -> None:
    inputs = [folder / "a.xyz"]
    Part(folder / "out.xyz", 1, 2, folder / "model.safetensors", inputs)
    if change == "model":
        save(model(channels=2), folder / "model.safetensors")
    with pytest.raises(InputError, match=sentence):
        Part(
            folder / "out.xyz",
            1,
            3 if change == "parts" else 2,
            folder / "model.safetensors",
            inputs * 2 if change == "inputs" else inputs,
        )


def test_parts_are_of_structures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "model.safetensors"), "a.smi", "-o", "out.csv", "--part", "1/2"]) == 2
    assert "--part is for structures" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b"])
def test_what_is_no_part(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "--part", text) == 2
    assert "is no part" in capsys.readouterr().err


# --- relaxations


def relax(folder: Path, *options: str, out: str = "out.xyz") -> int:
    arguments = [str(folder / "model.safetensors"), str(folder / "?.xyz"), "-o", str(folder / out), "--steps", "2"]
    arguments += ["--batch-size", "1"]  # or sums are rounded otherwise
    return relax_main([*arguments, "--group", "kind", "--close-contacts", "warn", *options])


def test_relaxed_parts_are_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of parts that end in any order, one of which was stopped after a step."""
    assert relax(folder, out="whole.xyz") == 0
    capsys.readouterr()
    monkeypatch.setattr("eqmol.inference.relax_files.SAVE_SECONDS", 0.0)
    advance = Relaxer.advance

    def stop(self: Relaxer) -> list[Relaxation]:
        if self.active[0].steps == 1:
            raise KeyboardInterrupt
        return advance(self)

    assert relax(folder, "--part", "2/2") == 0
    assert "part 2: 1 of 2 parts are missing" in capsys.readouterr().out
    monkeypatch.setattr(Relaxer, "advance", stop)
    assert relax(folder, "--part", "1/2") == 130
    assert not (folder / "out.xyz").exists()
    monkeypatch.setattr(Relaxer, "advance", advance)
    for change in (["--fmax", "0.3"], ["--dtype", "float32"], ["--head", "other"]):
        assert relax(folder, "--part", "1/2", *change) == 2
        assert "holds parts of other work (options differ)" in capsys.readouterr().err
    for _ in range(2):  # the second time there is nothing to do
        assert relax(folder, "--part", "1/2") == 0
        printed = capsys.readouterr().out
        assert "part 1: 7 structures -> " in printed
        assert "structures are relaxed" in printed
    assert (folder / "out.xyz").read_bytes() == (folder / "whole.xyz").read_bytes()
    assert sorted(path.name for path in (folder / "out.xyz.parts").iterdir()) == ["job.json", "lock"]


def test_a_part_has_no_trajectory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert relax(folder, "--part", "1/2", "--trajectory", str(folder / "all.xyz")) == 2
    assert "leave it or --part out" in capsys.readouterr().err
    assert not (folder / "out.xyz.parts").exists()
