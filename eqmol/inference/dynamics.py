"""Molecular dynamics that can be killed at any moment and goes on, and that stops itself where the model is not to be trusted.

A folder holds ``trajectory.xyz`` (every frame whole, with momenta), ``md.csv``, and ``state.npz``, which is replaced in one piece
after each interval: positions, momenta and cell, and how long the other two files were then. A run that goes on cuts them to that
length. Random numbers are drawn anew from seed and step for every interval, so that an interrupted run is the same as one that was
not, up to the rounding of neighbour lists.
"""

import csv
import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import units
from ase.md.bussi import Bussi
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from eqmol.errors import InputError, check_mode
from eqmol.files import read_npz, replacing
from eqmol.inference.extxyz import write_frame
from eqmol.inference.guards import Bonds, Limits

ENSEMBLES = ("nve", "nvt", "langevin", "npt", "npt-full")
TRAJECTORY, TABLE, STATE, STOPPED, PLOT = "trajectory.xyz", "md.csv", "state.npz", "stopped.xyz", "md.png"
COLUMNS = (
    "time_ps",
    "temperature_K",
    "potential_eV",
    "total_eV",
    "largest_force_eV_A",
    "largest_force_std_eV_A",
    "volume_A3",
    "changed_bonds",
)
#: Settings that only stop a run, and may be others when it is continued.
GUARDS = ("largest_force", "largest_uncertainty", "bonds")
#: fs; time constants of thermostat and barostat.
THERMOSTAT, BAROSTAT = 100.0, 1000.0


@dataclass(frozen=True)
class Settings:
    """How to simulate.

    Args:
        ensemble: "nve" (velocity Verlet), "nvt" (with the thermostat of Bussi, Donadio and Parrinello 2007), "langevin" (BAOAB,
            Leimkuhler and Matthews 2013), or "npt" and "npt-full" (Langevin with a barostat that is isotropic or moves the whole
            cell, Quigley and Probert 2004; periodic in three directions).
        temperature: K, also of the first velocities where the start has none.
        pressure: bar.
        timestep: fs.
        interval: fs, between frames.
        largest_force, largest_uncertainty: eV/Å; a force, or a ``forces_std`` of the calculator, beyond it stops the run at once.
            None for no limit of the latter.
        bonds: "stop" where a bond of a molecule breaks or forms (:class:`eqmol.inference.guards.Bonds`), or "warn" to count it and
            go on, for reactions that the model was trained on.
        seed: of random numbers.

    Raises:
        InputError: a value of the wrong kind or out of range.
    """

    ensemble: str = "nvt"
    temperature: float = 300.0
    pressure: float = 1.0
    timestep: float = 1.0
    interval: float = 100.0
    largest_force: float = 50.0
    largest_uncertainty: float | None = None
    bonds: str = "stop"
    seed: int = 0

    def __post_init__(self) -> None:
        check_mode(self.bonds, "bonds")
        if self.ensemble not in ENSEMBLES:
            raise InputError(f"ensemble {self.ensemble!r} is unknown; choose {', '.join(ENSEMBLES)}")
        for name in ("temperature", "timestep", "interval", "largest_force"):
            if not 0 < getattr(self, name) < 1e9:
                raise InputError(f"{name}={getattr(self, name)} must be positive")
        if self.steps < 1 or abs(self.steps * self.timestep - self.interval) > 1e-6 * self.interval:
            raise InputError(f"interval={self.interval:g} fs must be a whole number of steps of {self.timestep:g} fs")

    @property
    def steps(self) -> int:
        """Steps between frames."""
        return round(self.interval / self.timestep)


@dataclass(frozen=True)
class Outcome:
    """How a simulation ended.

    Attributes:
        picoseconds: how far it came.
        stopped: why it stopped itself, or "".
        bonds: those that were broken or new at the last frame, in words.
    """

    picoseconds: float
    stopped: str
    bonds: tuple[str, ...]


class Simulation:
    """One run in one folder, begun or continued.

    Args:
        start: the structure, with a calculator; with its momenta if it has any.
        folder: where everything is written; a run that is there is continued.
        settings: the same as those of the run that is continued, but for :data:`GUARDS`.

    Raises:
        InputError: a folder of another run, or settings that do not fit the structure.
    """

    def __init__(self, start: ase.Atoms, folder: str | os.PathLike[str], settings: Settings) -> None:
        if settings.ensemble.startswith("npt") and not start.pbc.all():
            raise InputError(
                f"{settings.ensemble} is for structures that are periodic in three directions, and this one has "
                f"{start.pbc.tolist()}"
            )
        self.settings = settings
        self.folder = Path(folder)
        self.atoms = start.copy()
        self.atoms.calc = start.calc
        self.bonds = Bonds(start)
        self._limits = Limits(settings.largest_force, settings.largest_uncertainty)
        self._step = 0  # of the present interval
        self.frames = 0
        self._barostat: Any = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / STATE).exists():
            self._continue()
        elif any((self.folder / name).exists() for name in (TRAJECTORY, TABLE)):
            raise InputError(f"{self.folder} holds another run, without {STATE}; give another folder")
        else:
            self._begin()

    @property
    def picoseconds(self) -> float:
        """How far it is."""
        return 1e-3 * self.frames * self.settings.interval

    def run(self, picoseconds: float, tell: Callable[[float], None] = lambda _: None) -> Outcome:
        """Simulate until so many picoseconds since the start.

        Args:
            picoseconds: of the whole run.
            tell: is told after each interval how far it is.
        """
        total = round(1e3 * picoseconds / self.settings.interval)
        while self.frames < total:
            try:
                if self.frames == 0:
                    self._write(new=True)
                self._step = 0
                integrator = self._integrator()
                integrator.attach(self._check, 1, integrator)
                integrator.run(self.settings.steps)
            except InputError as error:
                when = self.picoseconds + 1e-3 * self.settings.timestep * self._step
                self._save_stopped(str(error), when)
                return Outcome(when, str(error), self.bonds.changes(self.atoms))
            self.frames += 1
            self._write()
            tell(self.picoseconds)
        return Outcome(self.picoseconds, "", self.bonds.changes(self.atoms))

    def _begin(self) -> None:
        if not self.atoms.get_momenta().any():
            self.atoms.set_momenta(thermal_momenta(self.atoms, self.settings.temperature, self.settings.seed))

    def _continue(self) -> None:
        state = read_npz(self.folder / STATE)
        settings = json.loads(str(state["settings"]))
        compared = {name: value for name, value in asdict(self.settings).items() if name not in GUARDS}
        changed = {name: value for name, value in compared.items() if settings.get(name) != value}
        if changed:
            name = next(iter(changed))
            raise InputError(
                f"{self.folder} holds a run with {name}={settings.get(name)}, not {changed[name]}; continue it with its own "
                "settings, or give another folder"
            )
        if not np.array_equal(state["numbers"], self.atoms.numbers):
            raise InputError(f"{self.folder} holds a run of other atoms; give another folder")
        self.atoms.set_cell(state["cell"])
        self.atoms.positions = state["positions"]
        self.atoms.set_momenta(state["momenta"])
        self.frames = int(state["frames"])
        self._barostat = state["barostat"] if state["barostat"].size else None
        for name, size in zip((TRAJECTORY, TABLE), state["sizes"].tolist(), strict=True):
            with open(self.folder / name, "r+b") as file:
                file.truncate(size)

    def _integrator(self) -> MolecularDynamics:
        """What makes the steps of the next interval."""
        settings = self.settings
        step = settings.timestep * units.fs
        rng = np.random.default_rng([settings.seed, self.frames])
        if settings.ensemble == "nve":
            return VelocityVerlet(self.atoms, step)
        if settings.ensemble == "nvt":
            return Bussi(self.atoms, step, temperature_K=settings.temperature, taut=THERMOSTAT * units.fs, rng=rng)
        from ase.md.langevinbaoab import LangevinBAOAB

        thermostat = {"temperature_K": settings.temperature, "T_tau": THERMOSTAT * units.fs, "rng": rng}
        if settings.ensemble == "langevin":
            return LangevinBAOAB(self.atoms, step, **thermostat)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using heuristic P_mass")  # which the time constant gives
            self._npt = LangevinBAOAB(
                self.atoms,
                step,
                externalstress=-settings.pressure * units.bar,
                P_tau=BAROSTAT * units.fs,
                hydrostatic=settings.ensemble == "npt",
                **thermostat,
            )
        if self._barostat is not None:
            self._npt.p_eps = self._barostat if self._barostat.ndim else float(self._barostat)
        return self._npt

    def _check(self, integrator: MolecularDynamics) -> None:
        """Stop at a force or an uncertainty beyond its limit, or where bonds changed."""
        self._step = integrator.nsteps
        self._limits.check({**self.atoms.calc.results, "forces": self.atoms.get_forces()}, self.atoms)
        if self.settings.bonds == "stop" and (changes := self.bonds.changes(self.atoms)):
            raise InputError(f"bonds of the molecule changed: {', '.join(changes)}; --bonds warn goes on nevertheless")

    def _write(self, new: bool = False) -> None:
        """Append a frame and a row, then replace the state."""
        atoms, text = self.atoms, io.StringIO()
        frame = atoms.copy()
        frame.info |= {"time_ps": self.picoseconds}
        frame.calc = atoms.calc
        write_frame(text, frame)
        potential = float(atoms.get_potential_energy())
        std = atoms.calc.results.get("forces_std")
        row = {
            "time_ps": self.picoseconds,
            "temperature_K": float(atoms.get_temperature()),
            "potential_eV": potential,
            "total_eV": potential + float(atoms.get_kinetic_energy()),
            "largest_force_eV_A": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
            "largest_force_std_eV_A": "" if std is None else float(std.max()),
            "volume_A3": float(atoms.get_volume()) if atoms.pbc.all() else "",
            "changed_bonds": len(self.bonds.changes(self.atoms)),
        }
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
        sizes = []
        for name, content in ((TRAJECTORY, text.getvalue()), (TABLE, table.getvalue())):
            with open(self.folder / name, "wb" if new else "ab") as file:
                file.write(content.encode())
                file.flush()
                os.fsync(file.fileno())
                sizes.append(file.tell())
        if self.settings.ensemble.startswith("npt") and not new:
            self._barostat = np.asarray(self._npt.p_eps)
        with replacing(self.folder / STATE, "wb") as file:
            np.savez(
                file,
                settings=json.dumps(asdict(self.settings)),
                numbers=atoms.numbers,
                positions=atoms.positions,
                momenta=atoms.get_momenta(),
                cell=atoms.cell.array,
                frames=self.frames,
                sizes=sizes,
                barostat=np.zeros(0) if self._barostat is None else self._barostat,
            )

    def _save_stopped(self, why: str, when: float) -> None:
        """Write the structure at which it stopped."""
        frame = self.atoms.copy()
        frame.info |= {"time_ps": when, "stopped": why}
        with replacing(self.folder / STOPPED) as file:
            write_frame(file, frame)


def thermal_momenta(atoms: ase.Atoms, temperature: float, seed: int) -> NDArray[np.float64]:
    """Momenta [N, 3] of the Maxwell-Boltzmann distribution at a temperature in K, which add up to zero, in ASE's units."""
    masses = atoms.get_masses()[:, None]
    momenta = np.sqrt(masses * units.kB * temperature) * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return momenta - masses * momenta.sum(axis=0) / masses.sum()
