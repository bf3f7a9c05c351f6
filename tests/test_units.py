"""Numbers for people: the unit changes, and no exponent appears, where errors are large or small."""

import doctest

import pytest

from eqmol import units
from eqmol.units import number, quantity, shown_unit


def test_examples() -> None:
    assert doctest.testmod(units).failed == 0
    assert doctest.testmod(units).attempted >= 4


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.2e5, "meV/Å", "120 eV/Å"),
        (999.4, "meV", "999 meV"),
        (1000.0, "meV/atom", "1 eV/atom"),
        (1.65e7, "meV", "16,500 eV"),
        (0.0123, "meV/Å³", "12.3 µeV/Å³"),
        (0.0, "meV", "0 meV"),
        (1.2e5, "D", "120,000 D"),
        (0.51234, "", "0.512"),
        (3.9e16, "", "3.9e+16"),
        (float("nan"), "meV", "nan meV"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
    assert quantity(-value, unit).removeprefix("-") == text


def test_one_unit_for_a_column() -> None:
    assert shown_unit([2.0, 30_000.0, float("nan")], "meV") == ("eV", 0.001)
    assert shown_unit([2.0, 0.01], "meV") == ("meV", 1.0)
    assert shown_unit([], "meV") == ("meV", 1.0)
    assert number(12345.6, 4) == "12,346"
    assert number(9999.4, 4) == "9999"
