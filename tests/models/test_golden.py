"""Results of small models that stay the same from version to version.

``tests/stored/golden.json`` holds recipes, structures and what the models gave. Where numbers change on purpose, a line under
*Numerics* of the CHANGELOG says so, and

    python -m tests.models.test_golden "first words of that line"

writes the results anew.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from eqmol.checkpoint import build, default_dtype
from eqmol.graph import collate, from_atoms
from eqmol.models import Potential

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "stored" / "golden.json"
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
#: Of numbers of order one: rounding, which depends on the processor and its libraries, stays a thousand times below it, and a
#: constant that is wrong in its sixth digit lies a thousand times above.
TOLERANCE = 1e-9


def results(recipe: dict[str, Any], structures: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model of a recipe gives in float64, with weights from a stream of random numbers that NumPy has frozen."""
    with default_dtype(torch.float64):
        model = build(recipe).eval()
    stream = np.random.RandomState(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(stream.standard_normal(tuple(parameter.shape))))
    batch = collate([from_atoms(ase.Atoms(**structure), model.cutoff) for structure in structures])
    found = model(batch, stress=model.conservative) if isinstance(model, Potential) else model(batch)
    return {name: np.nan_to_num(value.detach().numpy()).tolist() for name, value in sorted(found.items())}


def numerics() -> str:
    """All that the CHANGELOG says of changed numbers, in one line."""
    return " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("### Numerics", 1)[1].split())


@pytest.mark.parametrize("name", GOLDEN["models"])
def test_results_are_those_of_the_file(name: str) -> None:
    entry = GOLDEN["models"][name]
    found = results(entry["recipe"], [GOLDEN["structures"][structure] for structure in entry["structures"]])
    assert found.keys() == entry["results"].keys()
    for key, expected in entry["results"].items():
        np.testing.assert_allclose(found[key], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


def test_the_file_was_written_for_a_reason() -> None:
    assert f"- {GOLDEN['because']}" in numerics()


def test_results_depend_on_every_constant() -> None:
    """A radius that is wrong in its seventh digit is found."""
    entry = GOLDEN["models"]["mace-coupled"]
    recipe = entry["recipe"] | {"backbone": entry["recipe"]["backbone"] | {"cutoff": 3.0 * (1 + 1e-7)}}
    found = results(recipe, [GOLDEN["structures"][structure] for structure in entry["structures"]])
    assert np.abs(np.subtract(found["forces"], entry["results"]["forces"])).max() > 10 * TOLERANCE


def write(because: str) -> None:
    """Write the results of the stored recipes and structures anew."""
    if not because or f"- {because}" not in numerics():
        sys.exit(
            f"no line under Numerics of CHANGELOG.md begins with {because!r}; write there what changes, by how much and why"
        )
    for entry in GOLDEN["models"].values():
        entry["results"] = results(entry["recipe"], [GOLDEN["structures"][name] for name in entry["structures"]])
    text = json.dumps(GOLDEN | {"because": because}, indent=1, ensure_ascii=False)
    text = re.sub(
        r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text
    )  # a row of numbers, a line
    FILE.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["EQMOL_KERNELS"] = "off"  # as in the tests
    write(" ".join(" ".join(sys.argv[1:]).split()))
