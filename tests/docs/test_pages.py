"""README and pages: what they show runs, and what they name exists."""

import doctest
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.emt import EMT

from benchmarks import degree
from eqmol.cli import convert, predict, relax
from eqmol.cli.help import page
from eqmol.cli.main import COMMANDS
from eqmol.cli.main import main as eqmol
from eqmol.files import shipped
from tests.docs.test_examples import SHORT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<kind>\w*).*?\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
#: Groups of the configuration that a page adds itself.
OWN = ("data=slabs", "data=rmd17", "data=alpha")


def commands() -> list[tuple[str, str]]:
    """File and text of every command of eqmol in a block of a page."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = [block["text"] for block in BLOCK.finditer(text) if block["kind"] in ("", "sh")]
        lines = {re.sub(r"^EQMOL_DATA=\S+ | +#.*", "", line) for block in blocks for line in block.splitlines()}
        found += [(str(path.relative_to(ROOT)), line) for line in sorted(lines) if line.startswith("eqmol ")]
    return found


COMMAND_LINES = commands()


def test_there_are_commands() -> None:
    assert len(COMMAND_LINES) > 30
    assert {line.split()[1] for _, line in COMMAND_LINES} >= set(COMMANDS)


@pytest.mark.parametrize(("file", "line"), COMMAND_LINES)
def test_commands_have_options_that_exist(file: str, line: str) -> None:
    command, *arguments = shlex.split(line)[1:]
    if command == "train":
        options = [argument for argument in arguments if "=" in argument]
        keys = set(re.findall(r"^  ([\w.]+)[=:]", page(shipped("conf"), options, ""), re.MULTILINE))
        for option in options:
            name, value = option.split("=", 1)
            is_group = (shipped("conf") / name / f"{value}.yaml").is_file() or option in OWN
            assert is_group or name in keys, f"{file}: {option}"
    elif command in ("predict", "relax", "convert"):
        module = {"predict": predict, "relax": relax, "convert": convert}[command]
        module._parser("eqmol").parse_args(arguments)  # exits with an option that it does not know
    else:
        assert command in COMMANDS or command == "--help"


def test_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, "README.md", None, 0)
    assert len(example.examples) == 6
    assert doctest.DocTestRunner().run(example).failed == 0


def test_landing_page_runs(tmp_path: Path) -> None:
    blocks = [
        b["text"] for b in BLOCK.finditer((DOCS / "index.md").read_text(encoding="utf-8")) if "product(" in b["text"]
    ]
    assert len(blocks) == 1
    (tmp_path / "index.py").write_text(blocks[0], encoding="utf-8")
    assert len(runpy.run_path(str(tmp_path / "index.py"))["z"]) == 5


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_a_data_set_of_the_page_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "add_a_data_set.md").read_text(encoding="utf-8")
    (source,) = (b["text"] for b in BLOCK.finditer(text) if b["kind"] == "python")
    (settings,) = (b["text"] for b in BLOCK.finditer(text) if "my_data." in b["text"] and b["kind"] == "yaml")
    (command,) = (line for _, line in COMMAND_LINES if "data=rmd17" in line)
    (tmp_path / "my_conf" / "data").mkdir(parents=True)
    (tmp_path / "my_data.py").write_text(source, encoding="utf-8")
    (tmp_path / "my_conf" / "data" / "rmd17.yaml").write_text(settings, encoding="utf-8")
    frames = [molecule("C2H4") for _ in range(8)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=number)
        atoms.calc = EMT()
    factor = units.kcal / units.mol
    np.savez(
        tmp_path / "rmd17_benzene.npz",
        nuclear_charges=frames[0].numbers,
        coords=[atoms.positions for atoms in frames],
        energies=np.array([atoms.get_potential_energy() for atoms in frames]) / factor,
        forces=np.array([atoms.get_forces() for atoms in frames]) / factor,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert eqmol([*shlex.split(command)[1:], *SHORT]) == 0
    assert (tmp_path / "runs" / "rmd17" / "model.safetensors").exists()


def test_links_within_the_repository() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} -> {target}"


def test_figure_shows_the_stored_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = degree.curves()
    degrees = {name: [l for l, _ in points] for name, points in curves.items()}
    assert degrees == {name: [1, 2, 3, 4, 5, 6][: 4 if name == "compiled" else 6] for name in degree.LABELS}
    monkeypatch.setattr("sys.argv", ["degree.py", str(tmp_path)])
    degree.main()
    assert (
        {path.name for path in tmp_path.iterdir()}
        == set(degree.THEMES)
        == {p.name for p in (DOCS / "figures").iterdir()}
    )
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    for row, said in ((1, "at degree 2 the grid takes 0.49"), (2, "at degree 3 0.28")):
        assert said in " ".join(text.split())
        assert curves["grid"][row][1] / curves["cg"][row][1] == pytest.approx(float(said.split()[-1]), abs=0.006)
