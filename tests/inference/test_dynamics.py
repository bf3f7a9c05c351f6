"""Runs that go on where they were, and that stop themselves."""

from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write

from eqmol import predict
from eqmol.checkpoint import save
from eqmol.cli import md
from eqmol.errors import InputError
from eqmol.inference.dynamics import PLOT, STATE, STOPPED, TABLE, TRAJECTORY, Settings, Simulation
from eqmol.inference.guards import Limits
from tests.inference.test_uncertainty import sure
from tests.recipes import model

SHORT = Settings(interval=5.0, temperature=300.0, seed=3)


def start(name: str = "bulk") -> ase.Atoms:
    atoms = bulk("Cu", cubic=True) if name == "bulk" else molecule("C2H6")
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "langevin", "npt", "npt-full"])
def test_a_run_that_was_killed_is_the_same_as_one_that_was_not(ensemble: str, tmp_path: Path) -> None:
    settings = replace(SHORT, ensemble=ensemble)
    whole = Simulation(start(), tmp_path / "whole", settings)
    assert whole.run(0.04).picoseconds == pytest.approx(0.04)
    Simulation(start(), tmp_path / "cut", settings).run(0.02)
    for name in (TRAJECTORY, TABLE):  # what a kill leaves: a frame that is not in the state
        with open(tmp_path / "cut" / name, "a") as file:
            file.write("4\nLattice=")
    assert Simulation(start(), tmp_path / "cut", settings).run(0.04).stopped == ""
    for name in (TRAJECTORY, TABLE):
        cut, uncut = ((tmp_path / part / name).read_text().split() for part in ("cut", "whole"))
        assert len(cut) == len(uncut)
    tables = [np.genfromtxt(tmp_path / part / TABLE, delimiter=",", skip_header=1) for part in ("cut", "whole")]
    np.testing.assert_allclose(*tables, rtol=1e-9, atol=1e-9)  # neighbour lists sum in another order
    frames = read(tmp_path / "whole" / TRAJECTORY, ":")
    assert [atoms.info["time_ps"] for atoms in frames] == pytest.approx(np.arange(9) * 0.005)
    assert len((tmp_path / "whole" / TABLE).read_text().splitlines()) == 10
    last = whole.atoms
    np.testing.assert_array_equal(frames[-1].positions, last.positions)
    np.testing.assert_array_equal(frames[-1].get_momenta(), last.get_momenta())


@pytest.mark.slow
def test_temperature_and_energy(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.calc = EMT()
    settings = replace(SHORT, interval=50.0, timestep=5.0, temperature=400.0)
    Simulation(atoms, tmp_path / "nvt", settings).run(4.0)
    temperatures = np.loadtxt(tmp_path / "nvt" / TABLE, delimiter=",", skiprows=20, usecols=1)
    assert abs(temperatures.mean() / 400.0 - 1) < 0.15
    Simulation(atoms, tmp_path / "nve", replace(settings, ensemble="nve")).run(0.5)
    totals = np.loadtxt(tmp_path / "nve" / TABLE, delimiter=",", skiprows=1, usecols=3)
    assert np.ptp(totals) < 0.01


def test_it_stops_itself(tmp_path: Path) -> None:
    atoms = start()
    atoms.positions[1] += [0.0, 0.9, 0.9]
    outcome = Simulation(atoms, tmp_path, replace(SHORT, largest_force=5.0)).run(0.1)
    assert "more than largest_force=5" in outcome.stopped
    assert outcome.picoseconds < 0.1
    assert read(tmp_path / STOPPED).info["stopped"] == outcome.stopped


def test_broken_bonds_are_named(tmp_path: Path) -> None:
    simulation = Simulation(start("molecule"), tmp_path, SHORT)
    assert simulation.bonds.changes(simulation.atoms) == ()
    assert len(simulation.bonds.pairs) == 7
    hydrogen = int(np.flatnonzero(simulation.atoms.numbers == 1)[0])
    simulation.atoms.positions[hydrogen] *= 3.0
    (words,) = simulation.bonds.changes(simulation.atoms)
    assert words.startswith(f"C0-H{hydrogen} broken (")


def test_it_stops_at_the_step_where_a_bond_breaks(tmp_path: Path) -> None:
    hydrogen = int(np.flatnonzero(start("molecule").numbers == 1)[0])

    def flying() -> ase.Atoms:
        atoms = start("molecule")
        momenta = np.zeros((len(atoms), 3))
        momenta[hydrogen] = 6.0 * (atoms.positions[hydrogen] - atoms.positions[0])
        atoms.set_momenta(momenta)
        return atoms

    settings = replace(SHORT, ensemble="nve", timestep=0.5)
    outcome = Simulation(flying(), tmp_path, settings).run(0.05)
    assert outcome.stopped.startswith(f"bonds of the molecule changed: C0-H{hydrogen} broken (")
    stopped, at_start = read(tmp_path / STOPPED), start("molecule")
    ratio = stopped.get_distance(0, hydrogen) / at_start.get_distance(0, hydrogen)
    assert 1.5 < ratio < 1.6
    assert 0 < outcome.picoseconds < 0.05
    goes_on = Simulation(flying(), tmp_path, replace(settings, bonds="warn", largest_force=1e3)).run(0.05)
    assert (goes_on.picoseconds, goes_on.stopped) == (pytest.approx(0.05), "")
    assert goes_on.bonds


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="whole number of steps"):
        Settings(interval=2.5)
    with pytest.raises(InputError, match="bonds='hope' is unknown; choose stop or warn"):
        Settings(bonds="hope")
    with pytest.raises(InputError, match="periodic in three directions"):
        Simulation(start("molecule"), tmp_path / "a", replace(SHORT, ensemble="npt"))
    Simulation(start(), tmp_path / "b", SHORT).run(0.005)
    with pytest.raises(InputError, match=r"temperature=300\.0, not 400\.0"):
        Simulation(start(), tmp_path / "b", replace(SHORT, temperature=400.0))
    with pytest.raises(InputError, match="other atoms"):
        Simulation(start("molecule"), tmp_path / "b", SHORT)
    (tmp_path / "b" / STATE).unlink()
    with pytest.raises(InputError, match="holds another run"):
        Simulation(start(), tmp_path / "b", SHORT)


@pytest.mark.usefixtures("figures")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(model(), tmp_path / "model.safetensors")
    write(tmp_path / "start.xyz", molecule("CH3OH"))
    options = [str(tmp_path / "model.safetensors"), str(tmp_path / "start.xyz"), "-o", str(tmp_path / "run")]
    short = ["--time", "0.004", "--interval", "1", "--timestep", "0.5", "--temperature", "50", "--largest-force", "1e4"]
    assert md.main([*options, *short]) == 0
    assert capsys.readouterr().out.startswith("0.004 ps in ")
    assert (tmp_path / "run" / PLOT).read_bytes()[:4] == b"\x89PNG"
    assert md.main([*options[:3], str(tmp_path / "other"), *short[:-1], "1e-3"]) == 1
    assert "more than largest_force=0.001" in capsys.readouterr().err
    assert (tmp_path / "other" / STOPPED).is_file()


def test_a_run_stops_at_the_step_where_the_model_is_unsure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.safetensors"
    save(sure(), file)
    write(tmp_path / "start.xyz", molecule("CH3CH2OH"))
    short = ["--time", "0.02", "--interval", "5", "--timestep", "0.5", "--temperature", "300", "--largest-force", "1e4"]
    warn = ["--close-contacts", "warn", "--bonds", "warn"]
    command = [str(file), str(tmp_path / "start.xyz"), *short, *warn]
    assert md.main([*command, "-o", str(tmp_path / "free"), "--largest-uncertainty", "1e6"]) == 0
    column = np.genfromtxt(tmp_path / "free" / TABLE, delimiter=",", names=True)["largest_force_std_eV_A"]
    assert (column > 0).all()
    assert md.main([*command, "-o", str(tmp_path / "run"), "--largest-uncertainty", f"{0.999 * column.max()}"]) == 1
    assert "the std of the force on atom" in capsys.readouterr().err
    stopped = read(tmp_path / "run" / STOPPED)
    steps = stopped.info["time_ps"] / 0.0005
    assert steps == pytest.approx(round(steps))
    sizes = Limits(None, 0.999 * column.max())
    with pytest.raises(InputError, match="more than largest_uncertainty"):
        sizes.check(predict(stopped, file), stopped)
