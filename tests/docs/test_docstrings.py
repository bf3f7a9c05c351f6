"""The examples in docstrings of the rooms where a newcomer types first."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("so3", "ops", "graph") for path in sorted((ROOT / "eqmol" / room).rglob("*.py"))]
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_true(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_every_room_has_examples() -> None:
    assert {name.split(".")[1] for name in EXAMPLES} == {"so3", "ops", "graph"}
