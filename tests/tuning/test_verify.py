"""Verification at first use: a broken algorithm never gets to give a result, through whatever door."""

import re
from contextlib import contextmanager
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write

import eqmol
from eqmol.checkpoint import build, save
from eqmol.cli.predict import main
from eqmol.errors import InputError, VerificationError
from eqmol.graph import collate, from_atoms
from eqmol.ops import register
from eqmol.ops.cg import CGPower
from eqmol.ops.kernels import compiler, forms
from eqmol.ops.registry import ALGORITHMS, algorithm, can_run
from eqmol.ops.spec import Spec
from eqmol.tuning import verify as verification
from eqmol.tuning.verify import verify
from tests.inference.test_molecules import properties_recipe
from tests.models.test_properties import model as properties
from tests.recipes import model
from tests.train.runs import train

GRID = {"family": "gaunt", "backend": "grid"}
Convolution = algorithm(Spec("convolution", "gaunt", "o3", 1, 2, 2), "grid")
Power = algorithm(Spec("power", "gaunt", "o3", 2, 0, 1, 2), "grid")


@pytest.fixture(autouse=True)
def _unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_verified", set())


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution on the grid is one percent off."""
    forward = Convolution.forward
    monkeypatch.setattr(Convolution, "forward", lambda self, *args, **kwargs: 1.01 * forward(self, *args, **kwargs))


class WrongBackward(torch.autograd.Function):
    """The identity with a derivative of 1.01."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.01 * gradient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(model(torch.float32, **GRID), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def batch(*structures: ase.Atoms):
    return collate([from_atoms(atoms, 3.5) for atoms in structures or (molecule("CH3CH2OH"), copper())])


def copper() -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("family", "backend"), [(f, b) for f in ("coupled", "gaunt") for b in ALGORITHMS if b != "cg" and can_run(b, f)]
)
def test_sound_algorithms_pass_with_room_to_spare(family, backend, dtype) -> None:
    potential = model(dtype, family=family, backend=backend, parity="so3").train()
    draws = torch.get_rng_state()
    differences = verify(potential, batch())
    assert {difference.quantity for difference in differences} == {"energies", "forces", "virial"}
    assert all(difference.largest < 0.1 * difference.tolerance for difference in differences)
    assert any(difference.largest > 0 for difference in differences)
    assert torch.equal(torch.get_rng_state(), draws)
    assert potential.training
    assert all(parameter.grad is None for parameter in potential.parameters())
    assert verify(potential, batch()) == []  # once per process and model


def test_a_perfect_crystal_without_forces_passes() -> None:
    assert verify(model(**GRID), batch(bulk("Cu", cubic=True)))


@pytest.mark.parametrize("name", ["CH4", "CO2", "H2"])
def test_a_molecule_without_a_dipole_moment_passes(name: str) -> None:
    recipe = properties_recipe()
    net = build(recipe | {"backbone": recipe["backbone"] | {"backend": "escn"}}).eval()
    assert net.dtype == torch.float32
    differences = {difference.quantity: difference for difference in verify(net, batch(molecule(name)))}
    assert differences["dipole"].tolerance >= 1e-4  # of 0.5 D
    assert all(difference.largest < 0.1 * difference.tolerance for difference in differences.values())


def test_the_reference_needs_no_verification(monkeypatch) -> None:
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    assert verify(model(family="gaunt", backend="cg"), batch()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_message_has_the_numbers_and_the_culprit(broken, dtype) -> None:
    with pytest.raises(VerificationError, match="verify=off") as caught:
        verify(model(dtype, **GRID), batch())
    message = str(caught.value)
    assert "grid disagrees with the reference" in message
    assert "forces by up to" in message
    assert "eV/Å (tolerance" in message
    assert f"backbone.layers.1.convolution ({Convolution.__name__}, relative error 0.01)" in message
    assert "power" not in message


@pytest.mark.usefixtures("registration")
def test_an_algorithm_of_a_user_is_verified_whenever_it_changes() -> None:
    def scaled(factor: float) -> type[CGPower]:
        return type("Own", (CGPower,), {"forward": lambda self, *args: factor * CGPower.forward(self, *args)})

    register("own", scaled(1.0))
    assert verify(model(backend="own"), batch())
    assert verify(model(backend="own"), batch()) == []
    register("own", scaled(1.01))
    with pytest.raises(VerificationError, match=r"backend own disagrees .*layers.0.power \(Own, .* use backend=cg, or"):
        verify(model(backend="own"), batch())


def test_wrong_derivatives_are_found(monkeypatch) -> None:
    forward = Power.forward
    monkeypatch.setattr(Power, "forward", lambda self, *args: WrongBackward.apply(forward(self, *args)))
    with pytest.raises(VerificationError, match=r"backbone\.layers\.0\.power"):
        verify(model(**GRID), batch())


def test_nan_is_a_mismatch(monkeypatch) -> None:
    forward = Power.forward
    monkeypatch.setattr(Power, "forward", lambda self, *args: torch.nan * forward(self, *args))
    with pytest.raises(VerificationError, match="by up to nan"):
        verify(model(**GRID), batch())


def test_weights_that_are_not_finite_are_no_mismatch() -> None:
    """Whoever uses the results says what is wrong with them."""
    potential = model(**GRID)
    with torch.no_grad():
        next(potential.parameters()).fill_(torch.nan)
    assert verify(potential, batch()) == []


# --- compiled code


@pytest.mark.usefixtures("kernels")
def test_compiled_code_is_verified_under_the_reference_too() -> None:
    potential = model(torch.float32)
    differences = verify(potential, batch())
    assert {difference.quantity for difference in differences} == {"energies", "forces", "virial"}
    assert all(difference.largest < 0.1 * difference.tolerance for difference in differences)
    assert any(difference.largest > 0 for difference in differences)


@pytest.mark.usefixtures("kernels")
def test_a_wrong_number_in_a_kept_kernel_is_found(monkeypatch, tmp_path) -> None:
    """The library in the cache, with its digest, is that of a source with one constant changed."""
    with wrong_kernels(monkeypatch, tmp_path, ""):
        model(torch.float32, layers=1)(batch())
    save(model(torch.float32, layers=1), tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match=r"backend cg disagrees with the reference.*use EQMOL_KERNELS=off"):
        eqmol.load(tmp_path / "model.safetensors")(batch())
    forget()


@pytest.mark.usefixtures("kernels")
def test_a_wrong_number_in_a_kernel_of_training_alone_is_found(monkeypatch, tmp_path) -> None:
    """What gives the derivatives of forces: of powers those along a tangent, of convolutions those of all in one sweep."""
    potential = model(torch.float32, layers=1).train()
    names = [f"derivatives of backbone.layers.0.{operation}" for operation in ("power", "convolution")]
    differences = verify(potential, batch())
    assert [difference.quantity for difference in differences[-2:]] == names
    assert all(difference.largest < 0.1 * difference.tolerance for difference in differences)
    with wrong_kernels(monkeypatch, tmp_path, "[wx]0"):
        potential(batch())["forces"].square().sum().backward()
    with torch.no_grad():
        next(potential.parameters()).mul_(1.5)  # not verified before
    with pytest.raises(VerificationError, match=f"{names[1]} by up to") as caught:
        verify(potential, batch())
    assert f"{names[0]} by up to" in str(caught.value)
    assert "forces by up to" in str(caught.value)
    forget()


@pytest.mark.usefixtures("kernels")
def test_compiled_code_is_verified_where_properties_are_trained() -> None:
    """Nothing is differentiated along positions there."""
    net = properties().to(torch.float32).train()
    differences = verify(net, collate([from_atoms(molecule("CH3CH2OH"), net.cutoff)]))
    assert any(difference.quantity == "derivatives of backbone.layers.0.power" for difference in differences)
    assert all(difference.largest < 0.1 * difference.tolerance for difference in differences)


@contextmanager
def wrong_kernels(monkeypatch, folder, word: str):
    """Kernels that are compiled inside, those whose source matches, have another constant than they should."""
    compile_source = compiler.compile_source

    def wrong(chosen, source, output):
        constants = re.findall(r"[\d.]+f \* t", source) if re.search(word, source) else []
        compile_source(chosen, source.replace(constants[0], "0.123f * t", 1) if constants else source, output)

    monkeypatch.setenv("EQMOL_CACHE", str(folder))
    forget()
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "compile_source", wrong)
        yield
    forget()


def forget() -> None:
    """Kernels that were opened."""
    for remembered in (forms.power_kernel, forms.product_kernel, forms.edge_kernel):
        remembered.cache_clear()


# --- through every door


def test_load(path: Path, broken) -> None:
    potential = eqmol.load(path)
    potential(from_atoms(ase.Atoms("H"), potential.cutoff))  # nothing to compare yet
    for _ in range(2):  # a caught error does not make it right
        with pytest.raises(VerificationError):
            potential(batch())
    eqmol.load(path, verify=False)(batch())
    eqmol.load(path, backend="cg")(batch())


def test_calculator(path: Path, broken) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.calc = eqmol.Calculator(path)
    with pytest.raises(VerificationError):
        atoms.get_forces()
    atoms.calc = eqmol.Calculator(path, verify=False)
    assert np.isfinite(atoms.get_forces()).all()


def test_predict(path: Path, tmp_path: Path, broken, capsys) -> None:
    with pytest.raises(VerificationError):
        eqmol.predict(copper(), path)
    assert eqmol.predict(copper(), path, verify=False)
    write(tmp_path / "in.xyz", [copper(), copper()])
    command = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert re.match("error: backend (cg, )?grid disagrees with the reference", error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out.xyz").exists()
    assert main([*command, "--verify", "off"]) == 0


def test_training(tmp_path: Path, broken) -> None:
    options = ["backend=grid", "model.filter_degree=2", "trainer.max_epochs=1"]
    with pytest.raises(VerificationError):
        train(tmp_path, "run", *options)
    assert not (tmp_path / "run").exists()
    train(tmp_path, "run", *options, "verify=off")


def test_verify_is_on_or_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="verify=perhaps is unknown"):
        train(tmp_path, "run", "verify=perhaps")
