"""Inputs and data files of LAMMPS, without LAMMPS."""

from pathlib import Path

import pytest

from eqmol.cli.main import main
from eqmol.engines.installed import missing
from eqmol.engines.lammps_input import Script, elements_of, is_restart, split
from eqmol.errors import InputError


def test_commands_for_before_the_structure_are_found() -> None:
    lines = ["# start", "boundary p p &", "  f", "neighbor 0.5 bin", 'print """', "units real", '"""', "run 5"]
    expected = Script(["boundary p p &\n  f"], ["# start", 'print """\nunits real\n"""', "run 5"], 0.5)
    assert split(lines, "in.lmp") == expected


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("read_data x", "has 'read_data'; the structure is the file given before"),
        ("comm_modify mode single cutoff 3.0", "sets how far ghosts reach"),
        ("neighbor far bin", "give neighbor a number"),
    ],
)
def test_commands_that_are_refused(line: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        split([line], "in.lmp")


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (
            "x\n\n2 atom types\n\nAtom Type Labels\n\n1 Cu\n2 O\n\nMasses\n\nCu 63.5\nO 16\n\nAtoms\n\n1 Cu 0 0 0\n",
            ["Cu", "O"],
        ),
        ("x\n\n2 atom types\n\nMasses\n\n1 63.5 # Cu\n2 16 # O\n\nAtoms # atomic\n\n1 2 0 0 0\n", ["Cu", "O"]),
        ("x\n\n2 atom types\n\nMasses\n\n1 63.5\n2 16\n\nAtoms # atomic\n\n1 2 0 0 0 # Fe\n", None),
    ],
)
def test_elements_of_a_data_file(tmp_path: Path, text: str, elements: list[str] | None) -> None:
    (tmp_path / "data.lmp").write_text(text)
    assert elements_of(tmp_path / "data.lmp") == elements
    assert not is_restart(tmp_path / "data.lmp")


@pytest.mark.skipif(not missing("lammps"), reason="LAMMPS is installed")
def test_what_to_do_without_lammps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("model", "data", "in"):
        (tmp_path / name).write_text("x")
    assert main(["lammps", *(str(tmp_path / name) for name in ("model", "data", "in"))]) == 2
    assert "LAMMPS is not installed here" in capsys.readouterr().err
