"""ASE's own tests as a judge of the calculator: those that use EMT, with an eqmol model of EMT in its place.

    python benchmarks/ase_tests.py record FOLDER    structures.xyz: what the tests ask EMT, with its answers
    python benchmarks/ase_tests.py train FOLDER     a model of that
    python benchmarks/ase_tests.py judge FOLDER     the tests with that model; ase_tests.csv lists them

``all`` does the three. As a plug-in of pytest (``-p benchmarks.ase_tests``) this module puts another class in the place of
``ase.calculators.emt.EMT`` before any test is imported.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import ase
import ase.calculators.emt
import ase.test
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import eqmol
from eqmol.cli.train import main as train_command

PARTS = ("md", "optimize", "neb", "constraints", "filter", "vibrations", "calculator/socketio", "test_phonons.py")
TESTS = Path(next(iter(ase.test.__path__)))
ROOT = Path(__file__).parents[1]
#: Where the plug-in finds a file to append structures to, or a model.
RECORD, MODEL = "EQMOL_ASE_RECORD", "EQMOL_ASE_MODEL"
#: Atoms and eV/Å that recorded structures have at most.
LARGEST, HARDEST = 60, 20.0
CHANNELS, MINUTES = 16, "00:00:07:00"

Original = ase.calculators.emt.EMT


class Recorder(Original):  # type: ignore[misc]
    """EMT that writes down what it is asked."""

    asked: ClassVar[Counter[str]] = Counter()

    def calculate(self, *arguments: Any, **options: Any) -> None:
        """Answer, and append every structure whose number in its test is a new power of 1.3."""
        super().calculate(*arguments, **options)
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        self.asked[test] += 1
        number, atoms = self.asked[test], self.atoms
        steps = [int(np.log(n) / np.log(1.3)) for n in (number, number + 1)]
        kept = number <= 3 or steps[0] != steps[1]
        if kept and len(atoms) <= LARGEST and np.abs(self.results["forces"]).max() < HARDEST:
            frame = ase.Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info={"test": test})
            names = ("energy", "forces", *(("stress",) if atoms.pbc.all() else ()))
            frame.calc = SinglePointCalculator(frame, **{name: self.results[name] for name in names})
            write(os.environ[RECORD], frame, format="extxyz", append=True)


class Learnt(eqmol.Calculator):
    """An eqmol model, made as EMT is."""

    def __init__(self, **_: Any) -> None:
        super().__init__(os.environ[MODEL], dtype="float64", radial_table="off", close_contacts="warn")


def pytest_configure() -> None:
    """Put the other class in EMT's place."""
    if RECORD in os.environ:
        ase.calculators.emt.EMT = Recorder
    elif MODEL in os.environ:
        Learnt()  # an error here is clearer than in every test
        ase.calculators.emt.EMT = Learnt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors there; atoms that are nearer than any of the training set are none of the tests' matter."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:.*is an extrapolation"))


def files() -> list[Path]:
    """Return the test files that use EMT."""
    found = [path for part in PARTS for path in sorted((TESTS / part).rglob("test_*.py") or [TESTS / part])]
    found += [TESTS / part for part in PARTS if part.endswith(".py")]
    return [path for path in found if re.search(r"\bEMT\b", path.read_text(encoding="utf-8"))]


def run_tests(folder: Path, report: str, environment: dict[str, str]) -> None:
    """Run the tests with the plug-in; their failures are no failure of this."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "benchmarks.ase_tests",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    command += ["--tb=short", f"--junitxml={(folder / report).resolve()}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*command, *map(str, files())], cwd=folder, env={**os.environ, "PYTHONPATH": path, **environment}, check=False
    )


def record(folder: Path) -> None:
    """Write structures.xyz and atoms.xyz."""
    (folder / "structures.xyz").unlink(missing_ok=True)
    run_tests(folder, "emt.xml", {RECORD: str((folder / "structures.xyz").resolve())})
    once = {(str(a.symbols), round(a.get_potential_energy(), 6)): a for a in read(folder / "structures.xyz", ":")}
    write(folder / "structures.xyz", list(once.values()))
    atoms = []
    for symbol in sorted(ase.calculators.emt.parameters):
        atom = ase.Atoms(symbol)
        atom.calc = Original()
        atom.get_forces()
        atoms.append(atom)
    write(folder / "atoms.xyz", atoms)


def train(folder: Path) -> None:
    """Write model.safetensors."""
    options = {
        "data": "xyz",
        "data.train_file": folder / "structures.xyz",
        "data.isolated_atoms_file": folder / "atoms.xyz",
        "data.batch_size": 8,
        "model.channels": CHANNELS,
        "backend": "grid",
        "trainer.max_epochs": "null",
        "trainer.max_time": MINUTES,
        "output_dir": folder / "run",
    }
    code = train_command([f"{name}={value}" for name, value in options.items()])
    if code:
        raise SystemExit(code)


def judge(folder: Path) -> None:
    """Write ase_tests.csv: every test, what became of it with EMT and with the model, and why it failed."""
    run_tests(folder, "eqmol.xml", {MODEL: str((folder / "run" / "model.safetensors").resolve())})
    expected, found = outcomes(folder / "emt.xml"), outcomes(folder / "eqmol.xml")
    rows = [(*test, expected.get(test, ("absent", ""))[0], *found[test]) for test in sorted(found)]
    with open(folder / "ase_tests.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "test", "emt", "eqmol", "message"), *rows])
    print(Counter((emt, eqmol) for _, _, emt, eqmol, _ in rows))


def outcomes(report: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """File and name of each test of a report -> "passed", "failed", "error" or "skipped", and the first line of its message."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        place = case.get("classname", "").split("ase.test.")[-1]
        result = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if result is None else {"failure": "failed"}.get(result.tag, result.tag)
        message = "" if result is None else next(iter((result.get("message") or "").splitlines()), "")
        found[place, case.get("name", "")] = (kind, message)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "train", "judge", "all"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = {"record": record, "train": train, "judge": judge}
    for name in steps if options.what == "all" else [options.what]:
        steps[name](options.folder)


if __name__ == "__main__":
    main()
