"""Charge and spin that structures state, which no model here knows: one model is for one state.

What is read, ASE's ``info`` first: the total charge in e (:data:`CHARGE`), else the sum of ``initial_charges``, as ASE's
calculators take it; the spin as multiplicity 2S+1 (:data:`MULTIPLICITY`), as number of unpaired electrons 2S
(:data:`UNPAIRED`), or under the names of :data:`SPIN`, which some programs use for 2S+1 (OMol25), others for 2S (PySCF): the
number of electrons is even or odd, and only one of the two fits. Of molecules, not of periodic structures, also the magnetic
moment in Bohr magnetons, which is 2S.

A structure that states nothing is neutral and has as few unpaired electrons as its number of electrons allows.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import ase
import numpy as np

from eqmol.errors import InputError, at, check_mode

CHARGE: Final = ("charge", "total_charge", "net_charge", "tot_charge", "molecular_charge", "system_charge")
MULTIPLICITY: Final = ("multiplicity", "spin_multiplicity", "molecular_multiplicity", "mult")
UNPAIRED: Final = ("unpaired_electrons", "num_unpaired", "n_unpaired", "unpaired", "uhf")
SPIN: Final = ("spin", "total_spin")
MAGNETIC_MOMENT: Final = ("magmom", "total_magmom")
LOWEST: Final = "lowest"
#: e; a sum of charges per atom that is further from an integer is no total charge but an analysis of a density.
_ROUNDING = 0.1

#: Number of unpaired electrons, or "lowest" for 0 or 1 as the number of electrons is even or odd.
Spin = int | Literal["lowest"]


class ElectronicState(NamedTuple):
    """Charge and spin; None where nothing is stated.

    Attributes:
        charge: e.
        spin: see :data:`Spin`.
    """

    charge: float | None = None
    spin: Spin | None = None

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> "ElectronicState":
        """The state that the section ``domain`` of a model file names; the default where it names none.

        Raises:
            InputError: values that are none of a charge or spin.
        """
        charge, spin = (section.get(key, default) for key, default in DEFAULT._asdict().items())
        if charge is not None and type(charge) not in (int, float):
            raise InputError(f"domain.charge={charge!r} must be a number or null")
        if spin not in (None, LOWEST) and (type(spin) is not int or spin < 0):
            raise InputError(f"domain.spin={spin!r} must be a number of unpaired electrons, 'lowest' or null")
        return cls(charge, spin)

    def completed(self) -> "ElectronicState":
        """The same with the defaults for what is not stated."""
        return ElectronicState(self.charge or 0.0, LOWEST if self.spin is None else self.spin)

    def fits(self, other: "ElectronicState") -> bool:
        """Whether everything that both state is the same."""
        charges = self.charge is None or other.charge is None or abs(self.charge - other.charge) < 1e-3
        return charges and (self.spin is None or other.spin is None or self.spin == other.spin)

    def words(self) -> str:
        """For a person: "charge +1, 2 unpaired electrons"."""
        charge, spin = self.completed()
        number = {LOWEST: "lowest spin", 1: "1 unpaired electron"}
        sign = f"{charge:+g}" if charge else "0"
        return f"charge {sign}, {number.get(spin, f'{spin} unpaired electrons')}"


#: Of structures that state nothing.
DEFAULT: Final = ElectronicState(0.0, LOWEST)


def stated(atoms: ase.Atoms, source: str = "") -> ElectronicState:
    """Return what a structure says about its charge and spin.

    Args:
        atoms: valid atomic numbers; with ``info``, arrays and, where a file was read, results.
        source: where the structure comes from, for messages.

    Raises:
        InputError: a charge or spin that is not a number, an impossible spin, or two different charges.
    """
    charge = _charge(atoms, source)
    unpaired = _unpaired(atoms, charge or 0.0, source)
    if unpaired is None:
        return ElectronicState(charge)
    electrons = int(atoms.numbers.sum()) - (charge or 0.0)
    return ElectronicState(charge, LOWEST if unpaired == electrons % 2 else unpaired)


def _charge(atoms: ase.Atoms, source: str) -> float | None:
    found = _numbers(atoms, CHARGE, source)
    if len(set(found.values())) > 1:
        given = " and ".join(f"{key}={value:g}" for key, value in found.items())
        raise InputError(f"{at(source)}info has {given}, two different charges; remove one of them")
    if found:
        return next(iter(found.values()))
    if "initial_charges" not in atoms.arrays:
        return None
    total = float(np.sum(atoms.arrays["initial_charges"]))
    return float(round(total)) if abs(total - round(total)) < _ROUNDING else None


def _unpaired(atoms: ase.Atoms, charge: float, source: str) -> int | None:
    """Number of unpaired electrons, where one is stated."""
    for keys, offset in ((MULTIPLICITY, 1), (UNPAIRED, 0)):
        for key, value in _numbers(atoms, keys, source).items():
            if offset == 1 and value == 0:
                continue  # as some programs write it where it is not known
            return _count(value - offset, key, value, source)
    for key, value in _numbers(atoms, SPIN, source).items():
        if value == 0:
            continue
        if value % 1:  # S
            return _count(2 * value, key, value, source)
        electrons = int(atoms.numbers.sum()) - round(charge)
        return _count(value if (electrons - value) % 2 == 0 else value - 1, key, value, source)
    # single atoms serve as references, and have their own ground states; crystals have magnetic orders
    if atoms.pbc.any() or len(atoms) == 1:
        return None
    moment = _magnetic_moment(atoms, source)
    return None if moment is None else abs(round(moment))


def _magnetic_moment(atoms: ase.Atoms, source: str) -> float | None:
    """Total magnetic moment of a molecule (Bohr magnetons), where one is stated; zeros are ASE's default."""
    results: dict[str, Any] = {} if atoms.calc is None else atoms.calc.results
    per_atom = [np.asarray(v) for v in (results.get("magmoms"), atoms.arrays.get("initial_magmoms")) if v is not None]
    found = [*_numbers(atoms, MAGNETIC_MOMENT, source).values(), results.get("magmom")]
    found += [float(moments.sum()) for moments in per_atom if moments.ndim == 1]
    return next((float(value) for value in found if value is not None and math.isfinite(value) and value), None)


def _numbers(atoms: ase.Atoms, keys: tuple[str, ...], source: str) -> dict[str, float]:
    """The single numbers of ``info`` under some keys, whatever their capitals; flags and values per atom are other things."""
    found = {}
    for key, value in atoms.info.items():
        array = np.asarray(value)
        if str(key).lower() not in keys or array.size != 1 or array.dtype.kind == "b":
            continue
        found[str(key)] = _number(array.reshape(()).item(), str(key), source)
    return found


def _number(value: Any, key: str, source: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{at(source)}info['{key}'] is {value!r}, not a number; correct it or rename the key")
    return number


def _count(unpaired: float, key: str, value: float, source: str) -> int:
    if unpaired < 0 or unpaired % 1:
        raise InputError(f"{at(source)}info['{key}']={value:g} is no possible spin; correct it or rename the key")
    return int(unpaired)


def has_magnetic_moments(atoms: ase.Atoms) -> bool:
    """Whether a periodic structure carries magnetic moments, whose order models do not know."""
    results = {} if atoms.calc is None else atoms.calc.results
    moments = [results.get("magmoms"), results.get("magmom"), atoms.arrays.get("initial_magmoms")]
    return bool(atoms.pbc.any()) and any(m is not None and np.abs(np.asarray(m)).max(initial=0) > 0.1 for m in moments)


class TrainingStates:
    """The states of the structures of one training run, which should be one and the same.

    Args:
        mode: ``stop`` refuses a second state, ``warn`` only counts.
    """

    def __init__(self, mode: str = "stop") -> None:
        self.mode = check_mode(mode, "data.electronic_state")
        self._first: dict[ElectronicState, str] = {}
        self._counts: dict[ElectronicState, int] = {}
        self._magnetic = 0

    def add(self, atoms: ase.Atoms, source: str, isolated: bool = False) -> None:
        """Take note of one structure.

        Args:
            atoms, source: see :func:`stated`.
            isolated: a reference atom, whose spin is its own.

        Raises:
            InputError: another state than that of the structures before; names two structures.
        """
        state = stated(atoms, source).completed()
        if isolated:
            if state.charge and self.mode == "stop":
                raise InputError(
                    f"{source}: the isolated atom has the charge {state.charge:+g}, but energies of elements are those of "
                    f"neutral atoms; remove it, or give data.electronic_state=warn"
                )
            return
        self._magnetic += has_magnetic_moments(atoms)
        self._counts[state] = self._counts.get(state, 0) + 1
        self._first.setdefault(state, source)
        if len(self._first) > 1 and self.mode == "stop":
            (one, there), (other, here) = list(self._first.items())[:2]
            raise InputError(
                f"{here} has {other.words()}, but {there} has {one.words()}, and no model here knows charge or spin: train "
                "on structures of one state, or mix them on purpose with data.electronic_state=warn"
            )

    def state(self) -> ElectronicState:
        """The state of all structures; what differs is None."""
        charges, spins = {s.charge for s in self._counts}, {s.spin for s in self._counts}
        return ElectronicState(charges.pop() if len(charges) == 1 else None, spins.pop() if len(spins) == 1 else None)

    def notes(self) -> list[str]:
        """What a person should know: states other than the usual one, mixed states, magnetic moments."""
        notes = []
        if len(self._counts) > 1:
            shares = "; ".join(f"{number} with {state.words()}" for state, number in self._counts.items())
            notes.append(
                f"structures of different charge or spin are learnt as one, since no model here knows them: {shares}"
            )
        elif self._counts and next(iter(self._counts)) != DEFAULT:
            state = next(iter(self._counts))
            notes.append(f"every structure has {state.words()}: the model does not know it, and is for this state only")
        if self._magnetic:
            notes.append(
                f"{self._magnetic} of the periodic structures have magnetic moments, which no model here knows: different "
                "magnetic orders are learnt as one"
            )
        return notes


class StateGuard:
    """Compares the structures to predict with the state that a model was trained on.

    Args:
        trained: that state; what is None is not compared.
        mode: ``stop`` refuses other states, ``warn`` says so once and counts.

    Attributes:
        different: how many structures stated another state.
    """

    def __init__(self, trained: ElectronicState = DEFAULT, mode: str = "stop") -> None:
        self.trained = trained
        self.mode = check_mode(mode, "electronic_state")
        self.different = 0

    def check(self, atoms: ase.Atoms, source: str = "") -> None:
        """Compare one structure; one that states nothing fits.

        Raises:
            InputError: it states another charge or spin.
        """
        state = stated(atoms, source)
        if state.fits(self.trained):
            return
        sentence = (
            f"{at(source)}the structure has {state.words()}, but the model was trained on {self.trained.words()} and knows "
            "neither charge nor spin"
        )
        if self.mode == "stop":
            raise InputError(
                f"{sentence}; use a model for this state, or accept that with electronic_state=warn (predict.py: "
                "--electronic-state warn)"
            )
        self.different += 1
        if self.different == 1:
            warnings.warn(f"{sentence}; the prediction is for the state of the training set", stacklevel=2)
