"""Compiled tensor products through every door: chosen, refused, and the same results."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from torch.utils._python_dispatch import TorchDispatchMode

import eqmol
from eqmol.checkpoint import build, save
from eqmol.cli.predict import main
from eqmol.errors import InputError
from eqmol.ops.kernels import compiler, library
from eqmol.tuning import operations
from tests.recipes import model, recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model(), file)
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every call of compiled code."""
    called, call = list[int](), library.Kernel.__call__
    monkeypatch.setattr(library.Kernel, "__call__", lambda self, *args: (called.append(1), call(self, *args))[1])
    return called


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find", lambda: None)
    monkeypatch.delenv("EQMOL_KERNELS", raising=False)
    library.say.cache_clear()


def forces(source, **options) -> np.ndarray:
    atoms = molecule("CH3CH2OH")
    atoms.calc = eqmol.Calculator(source, **options)
    return atoms.get_forces()


@pytest.mark.usefixtures("kernels")
def test_the_calculator_may_choose(path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = forces(path, kernels="off")
    assert not calls
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    np.testing.assert_allclose(forces(path, kernels="require"), expected, atol=1e-5)
    assert calls


@pytest.mark.usefixtures("kernels")
def test_a_copy_of_a_model_keeps_what_it_was_told(path: Path, calls: list[int]) -> None:
    loaded = eqmol.load(path, kernels="off")
    forces(loaded)
    eqmol.predict(molecule("H2O"), loaded)
    forces(loaded, backend="auto")
    assert {operation.kernels for operation in operations(eqmol.Calculator(loaded).model).values()} == {"off"}
    assert not calls
    eqmol.predict(molecule("H2O"), loaded, kernels="auto")
    assert calls


@pytest.mark.usefixtures("kernels")
def test_nothing_is_compiled_after_the_first_forces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calculator = eqmol.Calculator(path)
    atoms = molecule("CH3CH2OH")
    calculator.get_forces(atoms)
    monkeypatch.setattr(library, "load", lambda *_, **__: pytest.fail("compiled"))
    atoms.rattle(0.01)
    calculator.get_forces(atoms)


@pytest.mark.usefixtures("kernels")
def test_a_step_of_dynamics_takes_few_calls() -> None:
    """Each costs microseconds, a small molecule's arithmetic little more."""
    calculator, atoms = eqmol.Calculator(build(recipe() | {"zbl": False}), radial_table="auto"), molecule("CH3CH2OH")
    calculator.get_forces(atoms)
    atoms.rattle(0.01)
    with _Calls() as calls:
        calculator.get_forces(atoms)
    assert 100 < calls.number < 300


class _Calls(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **kwargs or {})


def test_without_a_compiler_one_line_says_what_is_lost(path: Path, no_compiler, caplog) -> None:
    assert np.isfinite(forces(path)).all()
    forces(path)
    (message,) = caplog.messages
    assert "run several times slower" in message
    assert "g++" in message
    assert "clang" in message
    assert "pip install ziglang" in message


def test_without_a_compiler_required_kernels_are_refused(path: Path, no_compiler, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="compiled kernels are required"):
        eqmol.load(path, kernels="require")
    ase.io.write(tmp_path / "in.xyz", molecule("H2O"))
    command = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz"), "--kernels"]
    assert main([*command, "require"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.xyz").exists()
    assert main([*command, "off"]) == 0


def test_unknown_modes_are_refused(path: Path, capsys) -> None:
    with pytest.raises(InputError, match="kernels=fast is unknown; choose from auto, off, require"):
        eqmol.Calculator(path, kernels="fast")
    with pytest.raises(InputError, match="kernels=True is unknown"):
        eqmol.predict(molecule("H2O"), path, kernels=True)  # type: ignore[arg-type]
    assert main([str(path), "in.xyz", "-o", "out.xyz", "--kernels", "fast"]) == 2
    assert "invalid choice: 'fast'" in capsys.readouterr().err
