"""Rules about the code itself: who imports whom, what is public, what never happens."""

import ast
import inspect
import logging.config
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ase.build import molecule
from ase.calculators.calculator import get_calculator_class
from ase.io import formats, read, write
from importlinter.cli import lint_imports

import eqmol
from eqmol.checkpoint import save
from tests.recipes import model

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("eqmol/**/*.py"), *ROOT.glob("benchmarks/*.py")])


# --- doors


def test_rooms_are_entered_by_their_doors(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        logging.config, "dictConfig", lambda _settings: None
    )  # it would disable the loggers of other tests
    assert lint_imports(no_cache=True, no_logo=True) == 0, capfd.readouterr().out


def test_public_names() -> None:
    assert sorted(eqmol.__all__) == sorted([*SIGNATURES, "Spec", "__version__"])
    assert eqmol.__version__ == PROJECT["project"]["version"]
    for name in eqmol.__all__:
        assert getattr(eqmol, name) is not None
        assert name in dir(eqmol)
    with pytest.raises(AttributeError, match="'eqmol' has no attribute 'nothing'"):
        eqmol.nothing  # noqa: B018


SIGNATURES = {
    "load": ["path", "backend=None", "device='cpu'", "dtype=None", "verify=True", "kernels=None", "head=None"],
    "save": ["model", "path", "recipe=None", "metrics=None"],
    "Calculator": [
        "path_or_model",
        "backend=None",
        "device='cpu'",
        "dtype=None",
        "skin=0.5",
        "verify=True",
        "close_contacts='stop'",
        "electronic_state='stop'",
        "kernels=None",
        "radial_table=None",
        "uncertainty='auto'",
        "largest_force=None",
        "largest_uncertainty=None",
        "limits='stop'",
        "head=None",
    ],
    "predict": [
        "atoms",
        "model",
        "batch_size=16",
        "backend=None",
        "device='cpu'",
        "dtype=None",
        "verify=True",
        "close_contacts='stop'",
        "electronic_state='stop'",
        "kernels=None",
        "radial_table=None",
        "uncertainty='auto'",
        "head=None",
    ],
    "distil": ["calculator", "structures", "output", "options=()", "held_out=None", "seed=0"],
    "vibrations": ["atoms", "model", "indices=None", "options"],
    "examine": ["model", "structures=None", "picoseconds=10.0"],
    **{operation: ["spec", "backend='cg'"] for operation in ("convolution", "product", "power")},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(eqmol, name)).parameters.values()
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty, kind=parameter.KEYWORD_ONLY) for parameter in parameters
    ]
    assert [str(parameter) for parameter in plain] == SIGNATURES[name]


# --- what never happens


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """File, dotted name and node of every call in the package."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), ast.unparse(node.func), node


def test_nothing_is_unpickled() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"} & {
                n.split(".")[0] for n in names
            }, path
    for path, name, node in calls():
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        # Triton takes functions: theirs are printed from programs, and have nothing of a user, see its tests
        printed = name == "exec" and path == "eqmol/ops/kernels/triton.py"
        assert name not in ("eval", "exec", "os.system", "pandas.read_pickle") or printed, path
        assert keywords.get("allow_pickle", "False") == "False", path
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", path
        assert keywords.get("weights_only", "True") == "True", path


def test_classes_have_no_optional_attributes() -> None:
    assert not [path for path, name, _ in calls() if name == "hasattr"]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Global), path
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                assert "ImportError" not in ast.unparse(node.type), path


# --- ASE


def in_fresh_process(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["eqmol", "ase.io, eqmol.inference.ase_plugin", "eqmol.inference.ase_plugin, ase.io"])
def test_import_is_light(first: str) -> None:
    code = f"import sys, {first}\nprint(sorted({{'torch', 'rdkit', 'e3nn'}} & set(sys.modules)))"
    assert in_fresh_process(code).strip() == "[]"


def test_calculator_is_registered() -> None:
    code = "import eqmol\nfrom ase.calculators.calculator import get_calculator_class as g\nprint(g('eqmol').__name__)"
    assert in_fresh_process(code).strip() == "LazyCalculator"


def test_entry_point_is_what_ase_expects() -> None:
    # as ase.io does when the package is installed; ASE warns, and warnings are errors, if the object is of a wrong type
    (name, value), *others = PROJECT["project"]["entry-points"]["ase.ioformats"].items()
    assert not others
    code = (
        "import sys, ase.io.formats as f\nfrom importlib.metadata import EntryPoint\n"
        f"if {name!r} not in f.ioformats: f.define_external_io_format(EntryPoint({name!r}, {value!r}, 'ase.ioformats'))\n"
        "from ase.calculators.calculator import get_calculator_class as g\n"
        f"print(f.ioformats[{name!r}].can_read, g('eqmol').__name__, 'torch' in sys.modules)"
    )
    assert in_fresh_process(code).strip() == "True LazyCalculator False"


def test_ase_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase.cli.main import main

    save(model(), tmp_path / "model.safetensors")
    write(tmp_path / "in.xyz", molecule("H2O"))
    monkeypatch.chdir(tmp_path)
    main(
        args=["run", "eqmol", "in.xyz", "-p", "path_or_model=model.safetensors,backend=escn,skin=0.2", "-o", "out.xyz"]
    )
    expected = eqmol.predict(molecule("H2O"), tmp_path / "model.safetensors")
    assert abs(read(tmp_path / "out.xyz").get_potential_energy() - expected["energy"]) < 1e-6


def test_calculator_by_name(tmp_path: Path) -> None:
    save(model(), tmp_path / "model.safetensors")
    calc = get_calculator_class("eqmol")(tmp_path / "model.safetensors", dtype="float32")
    assert isinstance(calc, eqmol.Calculator)


def test_predictions_as_an_ase_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "eqmol" not in formats.ioformats:  # the package is not installed here
        value = PROJECT["project"]["entry-points"]["ase.ioformats"]["eqmol"]
        monkeypatch.setattr(formats, "ioformats", dict(formats.ioformats))
        formats.define_external_io_format(EntryPoint("eqmol", value, "ase.ioformats"))
    atoms = molecule("H2O")
    atoms.info["eqmol_energy"] = -1.5
    write(tmp_path / "predictions.xyz", atoms)
    assert read(tmp_path / "predictions.xyz", format="eqmol").get_potential_energy() == -1.5


def test_readme_names_what_exists() -> None:
    readme = ROOT / "README.md"
    for name in set(re.findall(r"eqmol\.(\w+)\(", readme.read_text())):
        assert name in eqmol.__all__
