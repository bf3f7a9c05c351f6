"""A twin learns what its teacher says, goes on where it was stopped, and is judged by structures held out."""

import json
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

import eqmol
from eqmol.cli.main import main
from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.train.objectives import DistilObjective
from eqmol.train.schedule import Cosine
from eqmol.trust.report import Report
from eqmol.trust.subject import seconds
from eqmol.trust.twin import HELD_OUT, TRAIN, Teacher, label, split
from tests.recipes import model as small_model

STORED = Path(__file__).parents[1] / "stored"
TINY = [
    *("model.channels=2", "model.layers=1", "model.degree=0", "model.filter_degree=1", "model.correlation=1"),
    *("model.radial_hidden=[4]", "trainer.max_epochs=1", "logger=csv"),
]


def ethanol(number: int) -> list[ase.Atoms]:
    frames = [molecule("CH3CH2OH") for _ in range(number)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


def named(structures: list[ase.Atoms]) -> list[tuple[ase.Atoms, dict[str, Any], str]]:
    return [(atoms, {}, f"structure {number}") for number, atoms in enumerate(structures)]


# --- labels


def test_labels_are_the_teachers(tmp_path: Path) -> None:
    structures = ethanol(5)
    structures[0].info["energy"] = 17.0  # of another level of theory
    structures[1].set_constraint(ase.constraints.FixAtoms([0]))
    sets = dict(zip((TRAIN, HELD_OUT), split(named(structures), None, seed=0), strict=True))
    assert label(Teacher.of(EMT()), sets, tmp_path) == []
    for name, frames in sets.items():
        found = [frame for frame in read_frames(tmp_path / name) if len(frame[0]) > 1]
        assert len(found) == len(frames)
        for (given, _, _), (atoms, labels, _) in zip(frames, found, strict=True):
            bare = ase.Atoms(given.numbers, given.positions)
            bare.calc = EMT()
            assert labels["energy"] == pytest.approx(bare.get_potential_energy(), abs=1e-12)
            np.testing.assert_allclose(labels["forces"], bare.get_forces(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(atoms.calc.results["energies"], bare.get_potential_energies(), atol=1e-12)
            assert not atoms.constraints
    free = [frame for frame in read_frames(tmp_path / TRAIN) if len(frame[0]) == 1]
    assert sorted(str(atoms.symbols) for atoms, _, _ in free) == ["C", "H", "O"]


@pytest.mark.parametrize("left", [0.2, 0.55, 0.999])
def test_labels_go_on_after_any_end(tmp_path: Path, left: float) -> None:
    sets = {TRAIN: named(ethanol(3)), HELD_OUT: named(ethanol(4))}
    label(Teacher.of(EMT()), sets, tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in sets}
    asked: list[int] = []
    (tmp_path / TRAIN).write_bytes(whole[TRAIN][: int(left * len(whole[TRAIN]))])
    (tmp_path / HELD_OUT).unlink()
    label(Teacher.of(EMT()), sets, tmp_path, tell=asked.append)
    assert {name: (tmp_path / name).read_bytes() for name in sets} == whole
    assert asked[-1] == 7


@pytest.mark.parametrize(
    ("teacher", "number", "what"), [(EMT(fixed_cutoff=False), 3, "teacher"), (EMT(), 2, "structure")]
)
def test_labels_of_two_teachers_are_not_mixed(tmp_path: Path, teacher: EMT, number: int, what: str) -> None:
    label(Teacher.of(EMT()), {TRAIN: named(ethanol(3))}, tmp_path)
    with pytest.raises(InputError, match=f"holds labels of another {what}; give another folder"):
        label(Teacher.of(teacher), {TRAIN: named(ethanol(number))}, tmp_path)


class Strange(Calculator):
    """Knows no free atoms, and other energies of atoms than those that make up the energy."""

    implemented_properties = ("energy", "forces", "energies")

    def calculate(self, atoms, properties, changes):
        super().calculate(atoms, properties, changes)
        if len(atoms) == 1:
            raise RuntimeError("no free atoms")
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3)), "energies": np.ones(len(atoms))}
        self.results["forces"][0] = np.nan if len(atoms) == 2 else 0.0


def test_strange_teachers(tmp_path: Path) -> None:
    teacher = Teacher.of(Strange())
    assert label(teacher, {TRAIN: named(ethanol(2))}, tmp_path) == [1, 6, 8]
    assert all("energies" not in atoms.calc.results for atoms, _, _ in read_frames(tmp_path / TRAIN))
    with pytest.raises(InputError, match="structure 0: what the teacher says is not finite"):
        label(teacher, {TRAIN: named([molecule("OH")])}, tmp_path / "other")
    with pytest.raises(InputError, match="a teacher is a model file or a calculator of ASE, not a str"):
        Teacher.of("model.pt")
    with pytest.raises(InputError, match="1 structures are too few"):
        split(named([ethanol(1)[0], ase.Atoms("H")]), None, 0)


def test_time_is_not_that_of_a_memory() -> None:
    calls = []
    seconds([lambda structures: calls.append(structures[0].positions.copy())], molecule("H2O"), number=2)
    assert len(calls) == 3
    assert all(np.abs(calls[0] - other).max() > 0 for other in calls[1:])


# --- training


def test_energies_of_atoms_are_learnt() -> None:
    make = lambda groups: torch.optim.SGD(groups, lr=0.1)  # noqa: E731
    weights = {"energy": {"weight": 1.0}, "forces": {"weight": 0.0}, "site_energy": {"weight": 3.0}}
    objective = DistilObjective(weights, make, Cosine())
    model = small_model()
    graphs = [from_atoms(atoms, model.cutoff) for atoms in ethanol(2)]
    batch = collate(graphs)
    output = objective.ask(model, batch, ())
    batch.energy = output["energy"].clone()
    batch.target_site_energy = output["energies"] + torch.linspace(-1, 1, 18, dtype=torch.float64)
    batch.target_site_energy[3] = torch.nan
    loss = objective.loss_of(objective.targets(model)).settled({"site_energy": 0.5})(output, batch, 1.0)
    rest = np.delete(np.linspace(-1, 1, 18), 3)
    assert loss.item() == pytest.approx(3 * np.mean((rest / 0.5) ** 2), rel=1e-12)
    with pytest.raises(InputError, match="unknown target 'other'"):
        DistilObjective({**weights, "other": {"weight": 1.0}}, make, Cosine()).targets(model)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given, out, teacher = tmp_path / "given.xyz", tmp_path / "twin", tmp_path / "teacher.safetensors"
    eqmol.save(small_model(), teacher)
    ase.io.write(given, ethanol(8))
    asked: list[str] = []

    def train(options: list[str], program: str) -> int:
        if "--cfg" in options:
            return 0
        asked.extend(options)
        (out / "student").mkdir()
        (out / "student" / "model.safetensors").write_bytes(teacher.read_bytes())
        return 0

    monkeypatch.setattr("eqmol.cli.train.main", train)
    monkeypatch.setattr("eqmol.trust.twin.examination", lambda *_, **__: Report("student"))
    options = ["model.cutoff=4.5", "backend=cg"]
    assert main(["distil", str(teacher), str(given), *options, "-o", str(out), "--seed", "3"]) == 0
    assert asked[-2:] == options
    assert sum(option.startswith(("model.cutoff=", "backend=")) for option in asked) == 2
    assert {"seed=3", "task=distil", "resume=auto", f"output_dir='{out / 'student'}'"} <= set(asked)
    found = json.loads((out / "twin.json").read_text())
    assert found["force_rmse_mev_per_a"] == pytest.approx(0.0, abs=1e-6)
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(0.0, abs=1e-6)
    forces = eqmol.predict(list(ase.io.read(out / "held_out.xyz", ":")), teacher)[0]["forces"]
    assert found["force_rms_mev_per_a"] == pytest.approx(1000 * np.sqrt(np.mean(forces**2)), rel=1e-9)
    assert "7 structures to learn from, 1 held out" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_from_a_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    given, out = tmp_path / "given.xyz", tmp_path / "twin of = me"
    teacher = tmp_path / "teacher.safetensors"
    eqmol.save(small_model(), teacher)
    ase.io.write(given, ethanol(8))
    command = ["distil", str(teacher), str(given), "-o", str(out), *TINY]
    assert main(command) in (0, 1)  # one epoch makes no sound model
    text = capsys.readouterr().out
    assert "7 structures to learn from, 1 held out" in text
    found = json.loads((out / "twin.json").read_text())
    student = eqmol.load(out / "student" / "model.safetensors")
    assert student.cutoff == 3.5  # the teacher's
    assert student.targets == {}
    metrics = json.loads((out / "student" / "metrics.json").read_text())
    assert found["force_rmse_mev_per_a"] == pytest.approx(
        metrics["test"]["held_out"]["forces_rmse_mev_per_a"], rel=1e-3
    )
    assert metrics["test"]["held_out"]["site_energy_mae"] > 0
    assert {"report.html", "report.json", "train.xyz", "held_out.xyz"} <= {path.name for path in out.iterdir()}
    (out / "twin.json").unlink()
    assert main(command) in (0, 1)  # nothing is labelled or trained again
    assert json.loads((out / "twin.json").read_text())["force_rmse_mev_per_a"] == found["force_rmse_mev_per_a"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.max_epochs=1"], "give the structures that the teacher labels"),
        (["GIVEN", "data.train_file=a.xyz"], "data.train_file of the student follows from its labels"),
        (["GIVEN", "model.channelz=3"], "there is no option model.channelz; did you mean model.channels?"),
        (["GIVEN", "task.targets.site_energy.weight=2", "model.channelz=3"], "there is no option model.channelz"),
        (["GIVEN", "task=forces"], "task of the student follows from its labels"),
        (["nowhere.xyz"], "nowhere.xyz"),
        (["GIVEN", "--head", "pbe"], "--head is for models of mace-torch"),
        (["GIVEN", "--held-out", "nowhere.xyz"], "nowhere.xyz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "given.xyz"
    ase.io.write(given, ethanol(3))
    arguments = [str(given) if word == "GIVEN" else word for word in words]
    assert main(["distil", str(STORED / "potential-1.safetensors"), *arguments, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [given]
