"""Relaxations in one graph: the steps of ASE's optimisers one by one, stopping alone, going on after any end."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian
from ase.io import read, write
from ase.optimize import FIRE, LBFGS

import eqmol
from eqmol.checkpoint import save
from eqmol.cli.main import main
from eqmol.data.oc20.anomalies import anomaly
from eqmol.data.oc20.metrics import average_distance_within_threshold, mean_distance
from eqmol.errors import InputError
from eqmol.graph.electronic import StateGuard
from eqmol.inference import relax_files
from eqmol.inference.oc20_server import frames_of
from eqmol.inference.optimizers import OPTIMIZERS
from eqmol.inference.relax import Relaxation, Relaxer, Settings
from eqmol.inference.relax_report import Outcomes
from eqmol.inference.relax_starts import read_starts
from eqmol.models import Potential
from tests.data.oc20.files import record, relaxation, write_lmdb
from tests.recipes import model

ASE = {"lbfgs": LBFGS, "fire": FIRE}


@pytest.fixture(scope="module")
def potential() -> Potential:
    return model()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, potential: Potential) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(potential, file)
    return file


def crystal(seed: int, distance: float = 0.1) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(distance, seed=seed)
    return atoms


def slab() -> ase.Atoms:
    """Copper of which two atoms are fixed, and a third but for its height."""
    atoms = fcc111("Cu", (1, 1, 4), vacuum=5.0)
    atoms.rattle(0.1, seed=1)
    atoms.info.clear()
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian(2, [True, True, False])])
    return atoms


def several() -> list[ase.Atoms]:
    """Structures of different sizes that need different numbers of steps."""
    return [crystal(0), slab(), crystal(1, 0.02)]


def crystals() -> list[ase.Atoms]:
    """Structures that need few steps, and different numbers of them."""
    return [crystal(0, 0.03), crystal(1, 0.01), crystal(2, 0.06)]


def together(potential: Potential, structures: list[ase.Atoms], settings: Settings) -> list[Relaxation]:
    """Relax; in the order of the input."""
    relaxer = Relaxer(potential, settings, "stop", StateGuard(potential.electronic_state, "stop"))
    starts = iter([(atoms, f"structure {i}") for i, atoms in enumerate(structures)])
    finished: list[Relaxation] = []
    while relaxer.fill(starts):
        relaxer.evaluate()
        finished += relaxer.advance()
    return sorted(finished, key=lambda one: one.number)


# --- steps


@pytest.mark.parametrize("optimizer", ASE)
def test_steps_are_those_of_ase(potential: Potential, optimizer: str) -> None:
    calculator = eqmol.Calculator(potential)
    settings = Settings(optimizer, fmax=1e-3, steps=5, max_step=0.05)
    for one, atoms in zip(together(potential, several(), settings), several(), strict=True):
        atoms.calc = calculator
        slow = ASE[optimizer](atoms, logfile=None, maxstep=0.05)
        converged = slow.run(fmax=1e-3, steps=5)
        assert (one.steps, one.converged(1e-3)) == (slow.nsteps, converged)
        assert np.abs(one.atoms.positions - atoms.positions).max() < 1e-10
        assert abs(one.result["energy"] - atoms.get_potential_energy()) < 1e-10


def test_minima_do_not_depend_on_the_batch(potential: Potential) -> None:
    settings = Settings(fmax=1e-1, batch_size=2)
    batched = together(potential, crystals(), settings)
    assert all(one.converged(1e-1) for one in batched)
    assert len({one.steps for one in batched}) > 1
    for one, atoms in zip(batched, crystals(), strict=True):
        (alone,) = together(potential, [atoms], settings)
        assert alone.steps == one.steps
        assert abs(alone.result["energy"] - one.result["energy"]) < 1e-9


def test_fixed_atoms_stay(potential: Potential) -> None:
    before = slab()
    (one,) = together(potential, [slab()], Settings(fmax=1e-2, steps=5))
    moved = one.atoms.positions != before.positions
    assert moved.tolist() == [[False] * 3, [False] * 3, [False, False, True], [True] * 3]
    assert one.largest < np.linalg.norm(one.result["forces"], axis=1).max()


def test_lbfgs_goes_downhill_where_the_curvature_is_negative() -> None:
    # E = (x² - 1)² of one coordinate, from beside its maximum; ASE's goes uphill there
    optimizer, position = OPTIMIZERS["lbfgs"](max_step=0.05), np.array([[0.05, 0.0, 0.0]])
    for _ in range(60):
        x = position[0, 0]
        step = optimizer.step(position, np.array([[4 * x - 4 * x**3, 0.0, 0.0]]))
        assert step[0, 0] * (4 * x - 4 * x**3) >= 0.0
        position = position + step
    assert abs(position[0, 0] - 1.0) < 1e-8


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (molecule("NH3"), "is of an element"),
        (ase.Atoms("Cu2", [[0, 0, 0], [0, 0, np.nan]]), "is not finite"),
        (ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], constraint=FixBondLengths([[0, 1]])), "FixBondLengths"),
        (ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], info={"charge": 1}), "charge"),
    ],
)
def test_a_broken_structure_stops_alone(potential: Potential, broken: ase.Atoms, message: str) -> None:
    first, second = together(potential, [broken, crystal(0)], Settings(steps=1))
    assert message in first.problem
    assert not first.converged(1e9)
    assert (second.problem, second.steps) == ("", 1)


def test_results_that_are_not_finite_stop_alone(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(potential).forward

    def broken(self: Potential, graph: Any, **options: bool) -> Any:
        output = forward(self, graph, **options)
        wrong = (graph.atomic_numbers == 8)[:, None]
        return output | {"forces": output["forces"].masked_fill(wrong, float("nan"))}

    monkeypatch.setattr(type(potential), "forward", broken)
    water, copper = together(potential, [molecule("H2O"), crystal(0)], Settings(steps=1))
    assert "not finite" in water.problem
    assert (copper.problem, copper.steps) == ("", 1)


# --- files


class KilledError(Exception):
    """Ends the work in its midst."""


def run(potential: Potential, out: Path, kill_after: int = 0, **options: Any) -> None:
    def starts() -> Iterator[tuple[ase.Atoms, str]]:
        for i, atoms in enumerate(several()):
            yield atoms, f"structure {i}"

    rounds = 0

    def tell(*_: object) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == kill_after:
            raise KilledError

    settings = Settings(options.pop("optimizer", "lbfgs"), fmax=0.05, steps=4, batch_size=2)
    relax_files.relax_files(potential, starts(), out, settings, tell=tell, **options)


@pytest.mark.parametrize("optimizer", ASE)
def test_killed_and_continued_is_uninterrupted(
    potential: Potential, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("out.xyz", "steps.xyz")
    (tmp_path / "whole").mkdir()
    run(potential, tmp_path / "whole" / names[0], trajectory=tmp_path / "whole" / names[1], optimizer=optimizer)
    for seconds in (0.0, 1e9):  # after every step, and never
        monkeypatch.setattr(relax_files, "SAVE_SECONDS", seconds)
        with pytest.raises(KilledError):
            run(potential, tmp_path / names[0], 3, trajectory=tmp_path / names[1], optimizer=optimizer)
        assert not (tmp_path / names[0]).exists()
    run(potential, tmp_path / names[0], trajectory=tmp_path / names[1], optimizer=optimizer)
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not relax_files.progress_folder(tmp_path / names[0]).exists()


def test_damaged_progress_is_said(potential: Potential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relax_files, "SAVE_SECONDS", 0.0)
    with pytest.raises(KilledError):
        run(potential, tmp_path / "out.xyz", 2)
    state = tmp_path / "out.xyz.progress" / relax_files.STATE
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(InputError, match=r"is damaged .*remove the folder .*progress to begin anew"):
        run(potential, tmp_path / "out.xyz")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.xyz"
    frames = [crystal(0), slab(), molecule("NH3")]
    frames[0].info["label"] = "mine"
    write(file, frames)
    return file


def test_command(path: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, steps = tmp_path / "out.xyz", tmp_path / "steps.xyz"
    arguments = ["relax", str(path), str(source), "-o", str(out), "--trajectory", str(steps), "--steps", "3"]
    assert main([*arguments, "--fmax", "0.001", "--optimizer", "fire"]) == 0
    crystal_out, slab_out, failed = read(out, ":")
    assert crystal_out.info["label"] == "mine"
    assert crystal_out.info["eqmol_source"] == f"{source}, frame 0"
    assert (crystal_out.info["eqmol_steps"], crystal_out.info["eqmol_converged"]) == (3, False)
    expected = eqmol.predict(crystal_out, path)
    assert abs(crystal_out.info["eqmol_energy"] - expected["energy"]) < 1e-9
    assert np.abs(crystal_out.arrays["eqmol_forces"] - expected["forces"]).max() < 1e-9
    assert crystal_out.info["eqmol_fmax"] == np.linalg.norm(expected["forces"], axis=1).max()
    assert len(slab_out.constraints) > 0
    assert "element" in failed.info["eqmol_problem"]
    assert "eqmol_energy" not in failed.info
    frames = read(steps, ":")
    assert [frame.info["eqmol_step"] for frame in frames] == [0, 1, 2, 3] * 2
    assert np.array_equal(frames[3].positions, crystal_out.positions)
    printed = capsys.readouterr().out
    assert "0 of 3 structures are relaxed, 2 ran out of steps, 1 could not be computed" in printed
    assert failed.info["eqmol_problem"] in printed


def test_relaxed_structures_stay(path: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(source, [crystal(1, 0.02)])
    first, second = tmp_path / "first.xyz", tmp_path / "second.xyz"
    assert main(["relax", str(path), str(source), "-o", str(first)]) == 0
    assert main(["relax", str(path), str(first), "-o", str(second)]) == 0
    assert "1 of 1 structures are relaxed after 0 steps" in capsys.readouterr().out
    assert np.array_equal(read(second).positions, read(first).positions)


def test_other_options_do_not_continue(
    path: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relax_files, "SAVE_SECONDS", 0.0)
    advance = Relaxer.advance
    monkeypatch.setattr(Relaxer, "advance", lambda self: advance(self) if self.active[0].steps < 1 else _interrupt())
    arguments = ["relax", str(path), str(source), "-o", str(tmp_path / "out.xyz"), "--fmax", "0.5"]
    assert main(arguments) == 130
    assert "the same command continues" in capsys.readouterr().err
    for change, message in (
        (["--fmax", "0.01"], "was begun with fmax=0.5 and cannot go on with 0.01"),
        (["--trajectory", str(tmp_path / "all.xyz")], "was begun with trajectory=False"),
        (["--optimizer", "fire"], "was begun with optimizer='lbfgs'"),
    ):
        assert main([*arguments, *change]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(Relaxer, "advance", advance)
    assert main(arguments) == 0


def _interrupt() -> None:
    raise KeyboardInterrupt(signal.SIGINT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{source}", "-o", "{tmp}/out.csv"], "extended XYZ"),
        (["{model}", "{source}", "-o", "{source}"], "would overwrite the input"),
        (["{model}", "{source}", "-o", "{tmp}/a.xyz", "--trajectory", "{tmp}/a.xyz"], "give two names"),
        (["{model}", "{source}", "-o", "{tmp}/no/a.xyz"], "cannot write"),
        (["{model}", "{source}", "-o", "{tmp}/a.xyz", "--fmax", "0"], "'0' is not a positive number"),
        (["{model}", "{tmp}/none.xyz", "-o", "{tmp}/a.xyz"], "does not exist"),
        (["{model}", "{broken}", "-o", "{tmp}/a.xyz"], "truncated"),
        (["{model}", "{source}", "-o", "{tmp}/a.xyz", "--optimizer", "newton"], "invalid choice"),
    ],
)
def test_errors_are_a_sentence(
    path: Path, source: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.xyz"
    broken.write_text(source.read_text()[:-200])
    names = {"model": path, "source": source, "tmp": tmp_path, "broken": broken}
    before = sorted(tmp_path.iterdir())
    assert main(["relax", *(text.format(**names) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_relaxed_is_an_error(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", molecule("NH3"))
    assert main(["relax", str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]) == 2
    assert "no structure could be relaxed" in capsys.readouterr().err


@pytest.mark.slow
def test_kill_9(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", [crystal(i) for i in range(6)])
    code = (
        "import sys\nfrom eqmol.cli.main import main\nfrom eqmol.inference import relax_files\n"
        "relax_files.SAVE_SECONDS = 0.0\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "relax", str(path), str(tmp_path / "in.xyz"), "--fmax", "1e-4", "-o"]
    subprocess.run([*command, str(tmp_path / "whole.xyz")], check=True, timeout=300)
    for _ in range(3):
        process = subprocess.Popen([*command, str(tmp_path / "out.xyz")])
        state = tmp_path / "out.xyz.progress" / relax_files.STATE
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(tmp_path / "out.xyz")], check=True, timeout=300)
    assert (tmp_path / "out.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


# --- references and groups


def test_relaxed_references(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the minimum itself as the reference: wrapped into the cell, and with an energy 0.01 eV off
    write(tmp_path / "in.xyz", [slab(), crystal(1, 0.02)])
    first = ["relax", str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "minima.xyz"), "--fmax", "0.3"]
    assert main(first) == 0
    minima = read(tmp_path / "minima.xyz", ":")
    starts = [slab(), crystal(1, 0.02)]
    for start, minimum in zip(starts, minima, strict=True):
        start.arrays["pos_relaxed"] = minimum.positions + start.cell.array[0]
        start.info["y_relaxed"] = minimum.info["eqmol_energy"] + 0.01
    write(tmp_path / "in.xyz", starts)
    assert main(first) == 0
    printed = capsys.readouterr().out
    outcomes = Outcomes.read(tmp_path / "minima.xyz", read_starts([tmp_path / "in.xyz"]))
    named = outcomes.named()
    assert named["average_distance_within_threshold"] == 1.0
    assert named["mean_distance"] < 1e-8
    assert named["start_average_distance_within_threshold"] < 1.0
    assert named["energy_mae"] == pytest.approx(0.01, abs=1e-8)
    assert named["energy_within_threshold"] == 1.0
    assert "100.00%" in printed
    assert "0.0100" in printed


def test_first_of_a_relaxation(path: Path, tmp_path: Path) -> None:
    frames = [slab() for _ in range(3)]
    for number, atoms in enumerate(frames):
        atoms.positions[3] += [0.0, 0.0, 0.1 * number]
        atoms.calc = SinglePointCalculator(atoms, energy=-float(number), forces=np.zeros((4, 3)))
    write(tmp_path / "one.traj", frames)
    write(tmp_path / "two.traj", frames[:2])
    starts = list(read_starts([tmp_path / "one.traj", tmp_path / "two.traj"], first=True))
    assert [atoms.info["y_relaxed"] for atoms, _ in starts] == [-2.0, -1.0]
    for (atoms, source), last in zip(starts, (frames[2], frames[1]), strict=True):
        assert source.endswith(".traj, frame 0")
        assert np.array_equal(atoms.positions, frames[0].positions)
        assert np.array_equal(atoms.arrays["pos_relaxed"], last.positions)
    write(tmp_path / "bad.traj", [frames[0], molecule("H2O")])
    with pytest.raises(InputError, match="other atoms"):
        list(read_starts([tmp_path / "bad.traj"], first=True))


def test_a_packed_file_of_oc20(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = relaxation()[0]
    relaxed = torch.tensor(atoms.positions)
    torch.save(record(atoms, "random1", 0, pos_relaxed=relaxed, y_relaxed=-1.5), tmp_path / "is2re.pt")
    arguments = ["relax", str(path), str(tmp_path / "is2re.pt"), "-o", str(tmp_path / "out.xyz"), "--steps", "1"]
    assert main([*arguments, "--close-contacts", "warn"]) == 0
    assert "100.00%" in capsys.readouterr().out
    assert read(tmp_path / "out.xyz").info["system"] == "random1"


def test_initial_structures_of_oc20_and_totals_of_oc22(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    atoms = relaxation()[0]
    relaxed = atoms.positions + 0.1
    is2re = record(atoms, "random1", 0, pos_relaxed=torch.tensor(relaxed), y_relaxed=-1.5)
    oc22 = record(atoms, "random2", 0, oc22=1)
    write_lmdb(tmp_path, {b"0": pickle.dumps(is2re)}, "is2re.lmdb")
    write_lmdb(tmp_path, {b"0": pickle.dumps(oc22)}, "oc22.lmdb")
    (start, source), (other, _) = read_starts([tmp_path / "is2re.lmdb", tmp_path / "oc22.lmdb"])
    assert source.endswith("is2re.lmdb, frame 0")
    assert np.array_equal(start.arrays["pos_relaxed"], relaxed)
    assert start.info["y_relaxed"] == -1.5
    assert start.constraints[0].index.tolist() == atoms.constraints[0].index.tolist()
    assert np.array_equal(start.get_tags(), atoms.get_tags())
    assert "pos_relaxed" not in other.arrays
    ((first, _), (total, _)) = (next(frames_of(tmp_path / name)) for name in ("is2re.lmdb", "oc22.lmdb"))
    assert first.reference == 0.0  # an adsorption energy
    assert np.isnan(total.reference)


def test_distances() -> None:
    cell, pbc = np.diag([4.0, 5.0, 20.0]), np.array([True, True, False])
    reference = np.array([[0.1, 0.0, 0.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    moves = np.array([[3.9, 0.0, 0.0], [0.0, 0.3, 0.0], [9.0, 9.0, 9.0]])  # the first by -0.1 to an image
    free = np.array([True, True, False])
    assert mean_distance(reference + moves, reference, cell, pbc, free) == pytest.approx(0.2)
    assert mean_distance(reference + moves, reference, cell, pbc, ~free[[1, 1, 1]]) == 0.0
    slow = [[distance < threshold for threshold in np.arange(0.01, 0.5, 0.001)] for distance in (0.2004, 0.005, np.inf)]
    assert average_distance_within_threshold([0.2004, 0.005, np.inf]) == pytest.approx(np.mean(slow))


def test_groups(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts = [crystal(1, 0.02), slab(), crystal(1, 0.01), molecule("NH3")]
    for atoms, name in zip(starts, ("a", "b", "a", "a"), strict=True):
        atoms.info["system"] = name
    write(tmp_path / "in.xyz", starts)
    out, lowest = tmp_path / "out.xyz", tmp_path / "lowest.xyz"
    arguments = ["relax", str(path), str(tmp_path / "in.xyz"), "-o", str(out), "--steps", "4", "--fmax", "0.1"]
    assert main([*arguments, "--group", "system", "--lowest", str(lowest)]) == 0
    results = read(out, ":")
    assert [bool(atoms.info.get("eqmol_converged")) for atoms in results] == [True, False, True, False]
    (chosen,) = read(lowest, ":")
    assert chosen.info["eqmol_energy"] == min(results[i].info["eqmol_energy"] for i in (0, 2))
    printed = capsys.readouterr().out
    assert "the lowest of 1 of 2 groups" in printed
    assert f"{chosen.info['eqmol_energy']:.4f}" in printed
    assert main([*arguments, "--group", "nothing"]) == 2
    assert "frame 0 has no 'nothing' to group by" in capsys.readouterr().err
    assert main([*arguments, "--lowest", str(lowest)]) == 2
    assert "--group KEY" in capsys.readouterr().err


def test_anomalies_do_not_count(tmp_path: Path) -> None:
    start = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(start, molecule("CO"), 1.9, "ontop")
    start.positions[-2:, 2] = np.array([0.0, 1.15]) + start.positions[:, 2].max()
    start.set_tags([0] * 4 + [1] * 4 + [2] * 2)
    start.info = {"system": "a"}
    kept, broken, gone, rough = (start.copy() for _ in range(4))
    kept.positions += np.random.default_rng(0).normal(0, 0.1, kept.positions.shape)
    broken.positions[-1] += [1.5, 0.0, 0.0]
    gone.positions[-2:, 2] += 3.0
    rough.positions[7, 2] += 4.0  # a metal atom leaves its place
    expected = ["", "dissociated", "desorbed", "surface changed"]
    assert [anomaly(start, atoms) for atoms in (kept, broken, gone, rough)] == expected
    assert anomaly(rough, start) == "surface changed"
    untagged = start.copy()
    untagged.set_tags(0)
    assert anomaly(untagged, gone) == ""
    results = {"kept": (kept, -1.0), "broken": (broken, -3.0), "gone": (gone, -2.0), "rough": (rough, -4.0)}
    for name, (atoms, energy) in results.items():
        atoms.info |= {"eqmol_converged": True, "eqmol_steps": 1, "eqmol_energy": energy, "eqmol_source": name}
    write(tmp_path / "out.xyz", [atoms for atoms, _ in results.values()])
    (group,) = Outcomes.read(tmp_path / "out.xyz", [(start, "")] * 4, "system").groups.values()
    assert (group.starts, group.relaxed, group.energy()) == (4, 4, -1.0)
    assert group.anomalies == {"dissociated": 1, "desorbed": 1, "surface changed": 1}
    assert group.lowest is not None
    assert group.lowest.info["eqmol_source"] == "kept"
