"""The one command, its help, and what an installed package holds."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import eqmol
from eqmol.cli import main as command
from eqmol.cli.help import page
from eqmol.files import shipped

ROOT = Path(__file__).parents[2]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"eqmol {eqmol.__version__}\n"
    assert command.main([]) == command.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in command.COMMANDS)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert command.main([name, "--help"]) == 0
    except SystemExit as end:  # as argparse ends
        assert end.code == 0  # noqa: PT017
    assert f"eqmol {name}" in capsys.readouterr().out


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'trian'; did you mean train?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepare", ".", "--files", "/abs/*"],
            "the pattern '/abs/*' is none for paths below .; give one like '**/*.lmdb'",
        ),
        (["prepare", ".", "--files", ""], "the pattern '' is none"),
        (["prepare", "gone*"], "argument SOURCE: no file matches 'gone*'"),
        (["report", "-o", "file", "--degree", "1", "--no-cost"], "cannot write to the folder file: File exists"),
        (
            ["report", "-o", "file/a", "--degree", "1", "--no-cost"],
            "cannot write to the folder file/a: Not a directory",
        ),
        (["report", "--degree", "1.5"], "argument --degree: '1.5' is not an integer from 1 to 8"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert command.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- help of train


@pytest.mark.parametrize("data", ["qm9", "qm9_sample"])  # which builds on qm9
def test_help_shows_the_keys_of_what_is_chosen(data: str) -> None:
    lines = page(shipped("conf"), [f"data={data}", "model=gaunt"], "eqmol train").splitlines()
    assert any(line.startswith(f"   *{data} ") for line in lines)
    assert any(line.startswith("   *properties ") for line in lines)  # which data=qm9 chooses
    for key in ("seed=0", "model.heads=4", "model.degree_out=1", "task.optimizer.lr=0.005", f"data.folder={data}"):
        assert any(line.split()[:1] == [key] for line in lines), key
    assert not any("targets.forces" in line or "train_file" in line for line in lines)


def choices() -> list[str]:
    conf = shipped("conf")
    return sorted(f"{path.parent.relative_to(conf)}={path.stem}" for path in conf.glob("*/**/*.yaml"))


@pytest.mark.parametrize("choice", choices())
def test_help_tells_what_every_key_means(choice: str) -> None:
    lines = page(shipped("conf"), [choice], "eqmol train").splitlines()
    groups, keys = lines[: lines.index("Keys")], [line for line in lines[lines.index("Keys") :] if line[:1] == " "]
    assert not [line for line in groups if line.startswith("   ") and len(line.split()) < 2 + ("*" in line)]
    assert not [line for line in keys if len(re.split(r"(?<=\S) +(?=\S)", line.strip())) < 2]


def test_help_shows_the_values_of_what_builds_on_another() -> None:
    lines = page(shipped("conf"), ["data=oc20_sample"], "eqmol train").splitlines()
    (line,) = [line for line in lines if line.split()[:1] == ["data.num_workers=0"]]
    assert line.endswith("processes that make graphs and batches")


def test_help_reads_every_file() -> None:
    for path in shipped("conf").glob("*/*.yaml"):
        words = page(shipped("conf"), [f"{path.parent.name}={path.stem}"], "eqmol train")
        assert f"   *{path.stem}" in words or path.parent.name in ("debug", "experiment")


# --- the package


def names_of(wheel: str) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_configuration_and_embedded_data(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path / "a"), versions=["standard"])
    names = names_of(wheel)
    conf = {f"eqmol/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf == {name for name in names if name.startswith("eqmol/conf/")}
    for sample in (
        "sample/train_300K.xyz",
        "qm9_sample/gdb9.sdf",
        "oc20_sample/emt_0.extxyz.xz",
        "oc20_sample/emt_1.txt",
    ):
        assert f"eqmol/_data/{sample}" in names
    assert "eqmol/py.typed" in names
    assert not any("prepared" in name or name.startswith(("tests", "data/")) for name in names)

    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path / "b"), versions=["standard"])
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "c", filter="data")
    (unpacked,) = (tmp_path / "c").iterdir()
    (again,) = WheelBuilder(str(unpacked)).build(directory=str(tmp_path / "d"), versions=["standard"])
    assert names_of(again) == names

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from eqmol.data.places import find\nfrom eqmol.files import shipped\n"
        "assert (shipped('conf') / 'train.yaml').is_file()\nprint(find('sample', ['train_300K.xyz']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "eqmol" / "_data" / "sample"), done.stderr
