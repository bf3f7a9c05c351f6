"""Dynamics without a thermostat: whether the energy stays, as that of smooth forces with a slope does."""

from collections.abc import Iterator, Sequence

import ase
import numpy as np
from ase import units
from numpy.typing import NDArray

from eqmol.inference.dynamics import thermal_momenta
from eqmol.trust.report import Curve, Line, judge
from eqmol.trust.subject import Subject

#: fs; the shorter step belongs to the long run.
STEPS = (0.5, 0.25)
#: fs; length of the two runs that are compared.
COMPARED = 20.0
TEMPERATURE = 300.0
#: Blocks that the error of the drift is estimated from.
BLOCKS = 10
#: Standard errors within which a drift is compatible with zero.
COMPATIBLE = 3.0


def trajectory(subject: Subject, atoms: ase.Atoms, step: float, number: int) -> NDArray[np.float64]:
    """Total energies (eV) of so many steps (fs) of velocity Verlet from the same velocities of 300 K; also the first."""
    atoms = atoms.copy()
    evaluate = subject.moving()
    masses = atoms.get_masses()[:, None]
    velocities = thermal_momenta(atoms, TEMPERATURE, seed=3) / masses
    potential, forces = evaluate(atoms)
    energies = [potential + 0.5 * float((masses * velocities**2).sum())]
    for _ in range(number):
        velocities = velocities + 0.5 * step * units.fs * forces / masses
        atoms.positions = atoms.positions + step * units.fs * velocities
        potential, forces = evaluate(atoms)
        velocities = velocities + 0.5 * step * units.fs * forces / masses
        energies.append(potential + 0.5 * float((masses * velocities**2).sum()))
    return np.array(energies)


def conservation(subject: Subject, atoms: ase.Atoms, picoseconds: float, curves: list[Curve]) -> Iterator[Line]:
    """Compare two steps, and look for a drift over some time."""
    runs = [trajectory(subject, atoms, step, round(COMPARED / step)) for step in STEPS]
    coarse, fine = runs[0], runs[1][::2]
    ratio = float(np.std(coarse)) / max(float(np.std(fine)), 1e-15)
    words = f"fluctuations fall by {ratio:.2f} from {STEPS[0]} to {STEPS[1]} fs"
    yield judge("order of the integrator", abs(ratio - 4.0), subject.kinds, words)
    step = STEPS[0]
    energies = 1000 * trajectory(subject, atoms, step, max(round(1000 * picoseconds / step), 10 * BLOCKS)) / len(atoms)
    times = step * np.arange(len(energies)) / 1000
    shown = slice(None, None, max(1, len(energies) // 400))
    lines = {"total energy": (times[shown].tolist(), (energies - energies[0])[shown].tolist())}
    curves.append(Curve("Dynamics without a thermostat", "time / ps", "change of the energy / meV per atom", lines))
    drift, error = slope_of(times, energies)
    words = f"{drift:.1e} ± {error:.1e} over {times[-1]:.3g} ps"
    if abs(drift) <= COMPATIBLE * error:
        words += ", compatible with zero"
    line = judge("drift", abs(drift), subject.kinds, words)
    yield (
        line._replace(status="fail")
        if line.status == "warn" and line.limit < np.inf and "compatible" not in words
        else line
    )


def slope_of(times: Sequence[float] | NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of a line through the means of blocks, and its standard error from what the line leaves."""
    usable = len(values) // BLOCKS * BLOCKS
    x = np.asarray(times)[:usable].reshape(BLOCKS, -1).mean(axis=1)
    y = values[:usable].reshape(BLOCKS, -1).mean(axis=1)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / (BLOCKS - 2) / (x @ x)))
