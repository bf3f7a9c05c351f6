"""Whether kernels are used, and what happens where they cannot be made."""

import os
import re
from pathlib import Path

import pytest
import torch

from benchmarks.operations import limits
from eqmol.errors import InputError
from eqmol.ops import Spec, kernels
from eqmol.ops.kernels import compiler, forms, library
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create

SPEC = Spec("product", "coupled", "o3", 1, 1, 1)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known of earlier kernels and messages."""
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))
    for remembered in (forms.product_kernel, library.say):
        remembered.cache_clear()
    yield
    forms.product_kernel.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    compiler._find.cache_clear()
    yield
    compiler._find.cache_clear()


@pytest.fixture
def failing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It answers who it is, and then fails."""
    program = tmp_path / "g++"
    program.write_text(
        '#!/bin/sh\nif [ $# = 1 ]; then echo "g++ 1.0"; exit 0; fi\necho "error: no space" >&2\nexit 1\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CXX", raising=False)


def run() -> torch.Tensor:
    case = make_case(SPEC, dtype=torch.float32)
    found = case.run(create(SPEC, "cg"))
    assert found.shape == (4, 4, 3)
    return found


def test_without_a_compiler_torch_does_it_and_says_so_once(no_compiler, monkeypatch, caplog):
    monkeypatch.setenv("EQMOL_KERNELS", "auto")
    run()
    run()
    (message,) = caplog.messages
    assert "no C++ compiler was found" in message
    assert "pip install ziglang" in message
    assert "EQMOL_KERNELS=off" in message
    assert "\n" not in message


def test_without_a_compiler_require_fails(no_compiler, monkeypatch):
    monkeypatch.setenv("EQMOL_KERNELS", "require")
    with pytest.raises(
        InputError, match=r"compiled kernels are required \(EQMOL_KERNELS=require or kernels=require\), but no C"
    ):
        run()


@pytest.mark.slow
def test_ziglang_is_used_where_there_is_no_other(monkeypatch, capsys):
    """Its first use on a machine takes about a minute."""
    pytest.importorskip("ziglang", reason="the package ziglang is not installed")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("EQMOL_KERNELS", "require")
    compiler._find.cache_clear()
    library._announce_runtime.cache_clear()
    torch.manual_seed(0)
    found = run()
    compiler._find.cache_clear()
    announced, made = capsys.readouterr().err.splitlines()
    assert "builds its own runtime, about a minute" in announced
    assert "compiled a kernel" in made
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    torch.manual_seed(0)
    torch.testing.assert_close(found, run())


def test_a_compiler_that_fails_is_named_once(failing_compiler, monkeypatch, caplog):
    monkeypatch.setenv("EQMOL_KERNELS", "auto")
    run()
    run()
    (message,) = caplog.messages
    assert "error: no space" in message
    monkeypatch.setenv("EQMOL_KERNELS", "require")
    forms.product_kernel.cache_clear()
    with pytest.raises(InputError, match=r"cannot be made by .*error: no space"):
        run()


@pytest.mark.usefixtures("kernels")
def test_compilation_is_said_with_its_seconds(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path))
    for _ in range(2):  # the second time from the cache
        forms.product_kernel.cache_clear()
        run()
    assert re.fullmatch(r"compiled a kernel of tensor products for this machine in [\d.]+ s\n", capsys.readouterr().err)


@pytest.mark.usefixtures("kernels")
def test_the_kernels_of_a_model_are_made_at_a_time(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path))
    op = create(SPEC, "cg")
    made = kernels.build([op, op], torch.device("cpu"), torch.float32, learned=False, training=False)
    assert [kernel.writes for kernel in made] == [("d_v",), ("d_x", "d_y")]
    assert "compiled 2 kernels of tensor products" in capsys.readouterr().err
    monkeypatch.setattr(compiler, "compile_source", lambda *_: pytest.fail("compiled later"))
    case = make_case(SPEC, dtype=torch.float32)
    x = case.features[0].requires_grad_()
    torch.autograd.grad(op(x, *case.features[1:], *case.weights).sum(), x)


@pytest.mark.usefixtures("kernels")
def test_identity_of_the_compiled_code(monkeypatch):
    ops, cpu = [create(SPEC, "cg")], torch.device("cpu")
    found = kernels.identity(ops, cpu, torch.float32)
    assert found.keys() == {"compiler", "flags", "processor", "kernels"}
    assert found == kernels.identity(ops, cpu, torch.float32)
    assert found["kernels"] != kernels.identity(ops, cpu, torch.float64)["kernels"]
    ops[0].kernels = "off"
    assert kernels.identity(ops, cpu, torch.float32) == {}


@pytest.mark.usefixtures("kernels")
def test_an_operation_may_say_itself(monkeypatch):
    op = create(SPEC, "cg")
    assert kernels.mode(op) == "require"
    op.kernels = "off"
    assert not kernels.apply(op, torch.device("cpu"), torch.float32)
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    op.kernels = "auto"
    assert kernels.apply(op, torch.device("cpu"), torch.float32)


def test_kernels_are_used_where_nothing_is_said(monkeypatch):
    monkeypatch.delenv("EQMOL_KERNELS")
    assert library.mode() == "auto"


def test_off_is_off(monkeypatch):
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    monkeypatch.setattr(compiler, "find", lambda: pytest.fail("looked for a compiler"))
    run()


def test_unknown_modes_are_refused(monkeypatch):
    monkeypatch.setenv("EQMOL_KERNELS", "fast")
    with pytest.raises(InputError, match="EQMOL_KERNELS=fast is unknown; choose from auto, off, require"):
        run()


def test_the_key_has_all_that_matters(monkeypatch):
    one = compiler.Compiler(("/usr/bin/g++",), "g++ 12")
    keys = {library.identity("source", one), library.identity("Source", one)}
    keys.add(library.identity("source", compiler.Compiler(("/usr/bin/g++",), "g++ 13")))
    for name, value in (("processor", "another"), ("flags", ("-O0",))):
        with monkeypatch.context() as patched:
            patched.setattr(compiler, name, lambda value=value: value)
            keys.add(library.identity("source", one))
    monkeypatch.setattr(library.cpp, "ABI", 999)
    keys.add(library.identity("source", one))
    assert len(keys) == 6


def test_no_part_of_fast_math():
    """Its start-up code flushes denormals in the whole process."""
    assert not [flag for flag in compiler.flags() if "fast" in flag and flag != "-ffp-contract=fast"]
    assert not {"-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only"} & set(compiler.flags())


@pytest.mark.usefixtures("kernels")
def test_cxx_names_one_program_and_no_command(monkeypatch, tmp_path):
    """It is never given to a shell."""
    monkeypatch.setenv("CXX", f"g++; touch {tmp_path}/executed")
    found = compiler.find()
    assert found is not None
    assert all(os.path.isabs(part) for part in found.command[:1])
    assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("kernels")
def test_a_library_that_cannot_be_opened(monkeypatch, tmp_path, caplog):
    """Made by a compiler that succeeds, and is none."""
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EQMOL_KERNELS", "auto")
    monkeypatch.setattr(compiler, "compile_source", lambda _compiler, _source, output: output.write_bytes(b"none"))
    run()
    assert "a kernel cannot be made" in caplog.text
    assert kernels.apply(create(SPEC, "cg"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "spec", [Spec("product", "coupled", "o3", 0, 0, 0), Spec("convolution", "coupled", "o3", 0, 1, 0)]
)
def test_the_benchmark_of_kernels_runs(kernels, spec) -> None:
    found = limits(spec, 4, 1, 1e9)
    assert len(found) > 2
    assert all(row["us"] > 0 for row in found)
