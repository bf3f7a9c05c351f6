"""London dispersion by D3, which a model is trained without and which its predictions have.

Two-body energies with C6 and C8 from coordination numbers, damped rationally ("bj", Grimme, Ehrlich and Goerigk 2011,
doi:10.1002/jcc.21759) or to zero ("zero", Grimme et al. 2010, doi:10.1063/1.3382344), with Axilrod and Teller's three-body term
where s9 is not 0; by s-dftd3 (Ehlert 2024, doi:10.21105/joss.07169), also periodic. Interactions reach 32 Å, far beyond a model's
cutoff.

The parameters, not only the name of the functional, stand in the section ``dispersion`` of a model file::

    {"method": "d3", "functional": "pbe", "damping": "bj", "parameters": {"s6": 1.0, "s8": 0.7875, "s9": 0.0, ...}}

A model with this section is not read without s-dftd3: it would leave the dispersion out.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, NamedTuple, Self

import numpy as np
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from eqmol.errors import InputError, short
from eqmol.graph.neighbors import complete_cell

SECTION = "dispersion"
#: Parameters of each damping, and the class of s-dftd3.
DAMPINGS = {
    "bj": (("s6", "s8", "s9", "a1", "a2", "alp"), "RationalDampingParam"),
    "zero": (("s6", "s8", "s9", "rs6", "rs8", "alp"), "ZeroDampingParam"),
}
#: Highest atomic number that D3 has coefficients of, and what no parameter exceeds.
HEAVIEST, LARGEST = 94, 100.0
#: Bohr; where two-body energies, three-body energies and coordination numbers end, as in s-dftd3 by itself, and over which range
#: the energies go to zero there. By itself they end at once, which puts jumps of 0.2 µeV into the energy of a strained crystal of
#: two atoms and 1e-3 eV into its slope; so much smoother they change by 0.03 meV per atom in copper.
CUTOFFS, WIDTH = (60.0, 40.0, 30.0), 2.0
_EXAMPLE = "{functional: pbe, damping: bj, atm: false}"


class Corrected(NamedTuple):
    """Dispersion of one structure.

    Attributes:
        energies: [N] eV, half of each pair's to each of its atoms.
        forces: [N, 3] eV/Å.
        strain: [3, 3] derivative of the energy by a strain, eV.
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    strain: NDArray[np.float64]


@dataclass(frozen=True)
class Dispersion:
    """D3 with its parameters.

    Args:
        functional: whose parameters they are, or "" for one's own.
        damping: "bj" or "zero".
        parameters: as s-dftd3 names them, lengths in Bohr.
        method: "d3".

    Raises:
        InputError: a value that cannot be.
    """

    functional: str
    damping: str
    parameters: Mapping[str, float]
    method: str = "d3"

    def __post_init__(self) -> None:
        named = isinstance(self.functional, str) and isinstance(self.damping, str) and self.damping in DAMPINGS
        if self.method != "d3" or not named:
            raise InputError(f"dispersion={short(asdict(self))} must be d3 with damping {' or '.join(DAMPINGS)}")
        names, _ = DAMPINGS[self.damping]
        if not isinstance(self.parameters, Mapping) or set(self.parameters) != set(names):
            raise InputError(
                f"dispersion.parameters={short(self.parameters)} must be {', '.join(names)} for damping {self.damping}"
            )
        for name, value in self.parameters.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
                raise InputError(f"dispersion.parameters.{name}={short(value)} must be a number within ±{LARGEST:g}")

    @classmethod
    def choose(cls, settings: Any) -> Self | None:
        """Return what ``data.dispersion`` says: null, a functional of s-dftd3's table, or one's own parameters.

        Raises:
            InputError: it is something else, the functional is not there, or s-dftd3 is missing.
        """
        if settings is None:
            return None
        given: Any = {"functional": settings} if isinstance(settings, str) else settings
        if not isinstance(given, Mapping) or not given or set(given) - {"functional", "damping", "atm", "parameters"}:
            shown = str(settings).lower() if isinstance(settings, bool) else short(settings)
            raise InputError(f"data.dispersion={shown} must be like {_EXAMPLE}, or have parameters of its own")
        library()
        damping, name = given.get("damping", "bj"), given.get("functional", "")
        if "parameters" in given:
            return cls(name, damping, given["parameters"])
        if damping not in DAMPINGS:
            raise InputError(f"data.dispersion.damping={short(damping)} is unknown; choose {' or '.join(DAMPINGS)}")
        if type(given.get("atm", False)) is not bool:
            raise InputError(f"data.dispersion.atm={short(given['atm'])} must be true or false")
        return cls(str(name), damping, _table(str(name), damping, given.get("atm", False)))

    @classmethod
    def read(cls, section: Any) -> Self | None:
        """Return what a section of a model file says; None without one."""
        if section is None:
            return None
        if not isinstance(section, Mapping) or set(section) != {"method", "functional", "damping", "parameters"}:
            raise InputError(f"the section dispersion {short(section)} is not one of D3")
        return cls(**section)

    def section(self) -> dict[str, Any]:
        """Return the section of a model file."""
        return {**asdict(self), "parameters": dict(self.parameters)}

    def option(self) -> str:
        """Return what ``data.dispersion`` says to get it."""
        numbers = ", ".join(f"{name}: {value}" for name, value in self.parameters.items())
        return f"{{functional: {self.functional}, damping: {self.damping}, parameters: {{{numbers}}}}}"

    def words(self) -> str:
        """Return what it is, for a person."""
        three = "with" if self.parameters["s9"] else "without"
        return f"D3 ({self.functional or 'own parameters'}, damping {self.damping}, {three} three-body terms)"

    def __call__(
        self, numbers: NDArray[Any], positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> Corrected:
        """Return the dispersion of a structure in Å.

        Args:
            numbers: [N] atomic numbers.
            positions: [N, 3].
            cell: [3, 3], rows; without meaning where not periodic.
            pbc: [3].

        Raises:
            InputError: an element without coefficients, atoms at the same place, or s-dftd3 is missing.
        """
        model, damping = self._model(numbers, positions, cell, pbc)
        try:
            result = model.get_dispersion(damping, grad=True)
            pairs = model.get_pairwise_dispersion(damping)
        except RuntimeError as error:
            raise InputError(f"s-dftd3 cannot compute the dispersion of this structure: {error}") from None
        energies = sum(matrix.sum(axis=1) for matrix in pairs.values())
        return Corrected(
            Hartree * np.asarray(energies), -Hartree / Bohr * result["gradient"], Hartree * result["virial"]
        )

    def hessian(
        self, numbers: NDArray[Any], positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return the second derivatives [3 N, 3 N] of the energy by the positions, eV/Å²; arguments as of a call."""
        model, damping = self._model(numbers, positions, cell, pbc)
        found: NDArray[np.float64] = Hartree / Bohr**2 * model.get_hessian(damping)["hessian"]
        return found

    def _model(
        self, numbers: NDArray[Any], positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> tuple[Any, Any]:
        interface = library()
        if numbers.max() > HEAVIEST:
            raise InputError(f"D3 has no coefficients of element {int(numbers.max())}; it has those up to {HEAVIEST}")
        periodic = (None, None) if not pbc.any() else (complete_cell(cell, pbc) / Bohr, pbc)
        _, kind = DAMPINGS[self.damping]
        try:
            model = interface.DispersionModel(numbers, positions / Bohr, *periodic)
            model.set_realspace_cutoff(*CUTOFFS, WIDTH, WIDTH)
        except RuntimeError as error:
            raise InputError(f"s-dftd3 cannot compute the dispersion of this structure: {error}") from None
        return model, getattr(interface, kind)(**self.parameters)


def library() -> Any:
    """Return s-dftd3.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("dftd3") is None:
        raise InputError(
            "D3 dispersion needs s-dftd3, which is not installed here: pip install 'eqmol[dispersion]', or pip install dftd3; "
            "without it energies and forces would lack the dispersion"
        )
    return import_module("dftd3.interface")


def _table(functional: str, damping: str, atm: bool) -> dict[str, float]:
    """Return the published parameters of a functional, as s-dftd3 has them."""
    content = tomllib.loads((files("dftd3") / "parameters.toml").read_text())
    entry = content["parameter"].get(functional, {}).get("d3", {}).get(damping)
    if entry is None:
        known = sorted(name for name, kinds in content["parameter"].items() if damping in kinds.get("d3", {}))
        raise InputError(
            f"data.dispersion.functional={short(functional)} has no parameters for damping {damping}; s-dftd3 has those of "
            f"{', '.join(known)}"
        )
    merged = content["default"]["parameter"]["d3"][damping] | entry | ({} if atm else {"s9": 0.0})
    return {name: float(merged[name]) for name in DAMPINGS[damping][0]}
