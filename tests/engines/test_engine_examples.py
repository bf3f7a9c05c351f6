"""The examples of engines in the documentation, with an untrained model of 3BPA's elements, where their engine is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read, write

from eqmol.checkpoint import default_dtype, save
from eqmol.cli.main import main
from eqmol.engines import installed
from eqmol.errors import InputError
from eqmol.files import shipped
from tests.recipes import recipe, seeded

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DRIVER = Path(installed.__file__).with_name("ipi_driver.py")
FRAMES = shipped("data") / "sample" / "test_300K.xyz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and a structure of 3BPA."""
    elements = [1, 6, 7, 8]
    own = recipe(elements=elements) | {"elements": elements, "e0": [-13.6, -1029.5, -1480.2, -2041.8]}
    with default_dtype(torch.float64):
        save(seeded(own, seed=1), tmp_path / "model.safetensors")
    atoms = read(FRAMES, "0")
    atoms.calc = None
    write(tmp_path / "init.xyz", atoms)
    return tmp_path


def engine(name: str) -> pytest.MarkDecorator:
    lacking = installed.missing(name)
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "script", "arguments", "printed"),
    [
        pytest.param(
            "openmm", "openmm_mixed", [], r"mixed system: .* eV, -?\d\.\de-(0[7-9]|1\d) eV from", marks=engine("openmm")
        ),
        pytest.param(
            "openmm", "openmm_metadynamics", ["40"], r"highest bias [1-9]\.\d+ kJ/mol", marks=engine("openmm")
        ),
        pytest.param("torch-sim", "torch_sim_relax", [], r"down by [1-9][\d.]*, .* eV", marks=engine("torch-sim")),
    ],
)
def test_scripts(folder: Path, name: str, script: str, arguments: list[str], printed: str) -> None:
    found = run(folder, sys.executable, str(EXAMPLES / f"{script}.py"), "model.safetensors", *arguments)
    assert re.search(printed, found)


@engine("i-pi")
@pytest.mark.parametrize(("name", "output"), [("path_integral", ""), ("replica_exchange", "replica-0_")])
def test_ipi(folder: Path, name: str, output: str) -> None:
    shutil.copy(DRIVER, folder / "driver.py")
    shutil.copy(EXAMPLES / "ipi" / f"{name}.xml", folder)
    run(folder, sys.executable, str(Path(sys.executable).with_name("i-pi")), f"{name}.xml")
    rows = np.loadtxt(folder / f"{output}{name}.out")
    assert rows[-1, 0] == 10
    assert np.isfinite(rows).all()
    if name == "path_integral":
        assert np.ptp(rows[:, 2]) < 1e-3 * 27  # what is conserved


@engine("i-pi")
def test_ipi_through_a_socket(folder: Path) -> None:
    shutil.copy(DRIVER, folder / "driver.py")
    text = (EXAMPLES / "ipi" / "path_integral.xml").read_text()
    address = f"eqmol-{os.getpid()}"
    socket = f"<ffsocket name='eqmol' mode='unix'><address>{address}</address></ffsocket>"
    text, found = re.subn(r"<ffdirect.*</ffdirect>", socket, text, flags=re.DOTALL)
    assert found == 1
    (folder / "socket.xml").write_text(text)
    binaries = Path(sys.executable).parent
    options = "model=model.safetensors,template=init.xyz"
    client = ["i-pi-driver-py", "-u", "-a", address, "-m", "custom", "-P", "driver.py", "-o", options]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1])}
    with subprocess.Popen(
        [sys.executable, str(binaries / "i-pi"), "socket.xml"], cwd=folder, env=environment
    ) as server:
        while not Path(f"/tmp/ipi_{address}").exists():
            assert server.poll() is None
        run(folder, sys.executable, str(binaries / client[0]), *client[1:])
        assert server.wait(60) == 0
    assert np.loadtxt(folder / "path_integral.out")[-1, 0] == 10


@engine("i-pi")
def test_an_error_ends_ipi(folder: Path) -> None:
    shutil.copy(DRIVER, folder / "driver.py")
    atoms = read(folder / "init.xyz")
    atoms.symbols[0] = "F"
    write(folder / "init.xyz", atoms)
    shutil.copy(EXAMPLES / "ipi" / "path_integral.xml", folder)
    command = [sys.executable, str(Path(sys.executable).with_name("i-pi")), "path_integral.xml"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1])}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "atom 0 (F) is of an element that the model does not know" in done.stdout + done.stderr


@engine("lammps")
@pytest.mark.parametrize("name", ["npt", "metadynamics"])
def test_lammps(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    for path in (EXAMPLES / "lammps").iterdir():
        shutil.copy(path, folder)
    atoms = read("init.xyz")
    if name == "npt":
        atoms.center(3.0)
    write("data.lmp", atoms, format="lammps-data", masses=True, atom_style="atomic")
    assert main(["lammps", "model.safetensors", "data.lmp", f"{name}.lmp"]) == 0
    assert "Total wall time" in capfd.readouterr().out
    if name == "npt":
        assert Path("npt.data").exists()
        assert Path("npt.dump").read_text().count("\n") == 9 + len(atoms)
    else:
        rows = np.loadtxt("meta.colvars.traj")
        assert rows[-1, 0] == 200
        assert len(rows) == 21
        assert Path("meta.pmf").exists()


@engine("torch-sim")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch-sim
def test_torch_sim_is_validated() -> None:
    from torch_sim.models.interface import validate_model_outputs

    from eqmol.engines.torch_sim import TorchSimModel

    elements = [14, 26]
    own = recipe(elements=elements) | {"elements": elements, "e0": [-1.0, -2.0]}
    with default_dtype(torch.float64):
        model = TorchSimModel(seeded(own, seed=1))
    validate_model_outputs(model, torch.device("cpu"), torch.float64)
    with pytest.raises(InputError, match="make it with dtype="):
        validate_model_outputs(model, torch.device("cpu"), torch.float32)
