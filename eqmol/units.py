"""Units of the project: Å, eV and what is made of them (eV/Å, eV/Å³), everywhere but at the doors."""

import math
from collections.abc import Iterable
from typing import Final

MEV: Final = 1000.0  #: meV in an eV; error tables are in milli-units
HARTREE: Final = 27.211386246  #: eV in a Hartree (CODATA 2018), as torch_geometric.datasets.QM9 has it
KCAL_PER_MOL: Final = 0.04336414  #: eV in a kcal/mol, as torch_geometric.datasets.QM9 has it
BOHR: Final = 0.529177210903  #: Å in a Bohr radius (CODATA 2018)
DEBYE: Final = 0.20819433270  #: e·Å in a Debye
GPA: Final = 1.0 / 160.2176634  #: eV/Å³ in a GPa, exact since 2019

_MILLI = "meV"
#: Smaller and larger units of energies beside meV, how much of them a meV is, and between which sizes in meV they are used.
_OTHERS = (("µeV", 1000.0, 0.0, 0.1), ("eV", 0.001, 1000.0, math.inf))


def shown_unit(values: Iterable[float], unit: str) -> tuple[str, float]:
    """Return the unit in which a person reads numbers best, and how much of it ``unit`` is.

    >>> shown_unit([120_000.0, 3.0], "meV/atom")
    ('eV/atom', 0.001)
    >>> shown_unit([0.2], "D")
    ('D', 1.0)

    Args:
        values: the numbers; the largest decides.
        unit: theirs; "meV" at its beginning may become "eV" or "µeV".
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    for other, factor, low, high in _OTHERS:
        if unit.startswith(_MILLI) and largest > 0.0 and low <= largest < high:
            return other + unit.removeprefix(_MILLI), factor
    return unit, 1.0


def number(value: float, digits: int = 3) -> str:
    """Return a number with some digits, without an exponent where that would be no shorter.

    >>> [number(value) for value in (0.012345, 12.345, 12345.6, 1.2345e9)]
    ['0.0123', '12.3', '12,346', '1.23e+09']
    """
    return f"{value:,.0f}" if 10**digits - 0.5 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """Return a number with the unit in which it reads best.

    >>> quantity(120_000.0, "meV/Å")
    '120 eV/Å'
    """
    shown, factor = shown_unit([value], unit)
    return f"{number(factor * value, digits)} {shown}".rstrip()
