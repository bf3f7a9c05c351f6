"""Models of mace-torch: read without it, equal to what it gave, refused where they are something else.

``tests/stored/mace_*.model.xz`` are models with random weights as mace-torch 0.3.16 writes them; ``mace.json`` has what it computed
with them in float64.
"""

import io
import json
import lzma
import pickle
import pickletools
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

import eqmol
from eqmol.checkpoint import build, default_dtype, load
from eqmol.cli import convert_mace as command
from eqmol.cli.convert import main
from eqmol.convert.convert import EXACT, differences
from eqmol.convert.mace_torch import proof
from eqmol.convert.mace_torch.export import config_of, weights_of
from eqmol.convert.mace_torch.model import convert_mace
from eqmol.convert.mace_torch.parts import KNOWN, Part, Thing, read_model
from eqmol.convert.mace_torch.proof import ask_mace, evaluate, invariances, isolated_atoms
from eqmol.errors import InputError
from tests.recipes import model as small_model
from tests.recipes import recipe

STORED = Path(__file__).parents[1] / "stored"
EXPECTED = json.loads((STORED / "mace.json").read_text())
STRUCTURES = {name: ase.Atoms(**given) for name, given in EXPECTED["structures"].items()}
NAMES = ("mace_residual", "mace_density")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mace")
    for name in NAMES:
        (folder / f"{name}.model").write_bytes(lzma.decompress((STORED / f"{name}.model.xz").read_bytes()))
    return {name: folder / f"{name}.model" for name in NAMES}


@pytest.mark.parametrize("result", EXPECTED["results"])
def test_results_are_those_of_mace(files: dict[str, Path], result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mace", "e3nn"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises
    name, _, head = result.partition(":")
    root = read_model(files[name])
    found = convert_mace(root, head or None)
    for key, expected in EXPECTED["results"][result].items():
        (values,) = evaluate(found.model, [STRUCTURES[key]])
        assert values["energy"] == pytest.approx(expected["energy"], abs=1e-10)
        np.testing.assert_allclose(values["energies"], expected["energies"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(values["forces"], expected["forces"], rtol=0, atol=1e-12)
        if "stress" in expected:
            np.testing.assert_allclose(values["stress"], expected["stress"], rtol=0, atol=1e-12)
    assert isolated_atoms(root, found).acceptable
    assert all(difference.acceptable for difference in invariances(found.model, list(STRUCTURES.values())))


def test_proof_sees_a_wrong_constant(files: dict[str, Path]) -> None:
    root = read_model(files["mace_density"])
    found = convert_mace(root)
    found.model.reference.e0[1] += 1e-4
    assert not isolated_atoms(root, found).acceptable


# --- command line


def run(files: dict[str, Path], name: str, target: Path, *options: str) -> int:
    return main([str(files[name]), str(target), *options])


def test_command(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, structures = tmp_path / "out.safetensors", tmp_path / "some.xyz"
    ase.io.write(structures, [STRUCTURES["molecule"], STRUCTURES["crystal"]])
    options = ["--structures", str(structures)]
    assert run(files, "mace_residual", target, "--head", "second", *options) == 0
    printed = capsys.readouterr().out
    for words in (
        "second, of first, second",
        "RealAgnosticResidualInteractionBlock",
        "isolated atoms",
        "not compared with mace",
    ):
        assert words in " ".join(printed.split())
    energy = eqmol.predict(STRUCTURES["molecule"], target)["energy"]
    assert energy == pytest.approx(EXPECTED["results"]["mace_residual:second"]["molecule"]["energy"], abs=1e-9)
    # what trains it further describes the same model
    line = next(line for line in printed.splitlines() if line.startswith("to train it further"))
    recipe = load(target).recipe
    assert line.endswith(command.training_command(recipe, target))
    assert "model.widen=paths" in line
    assert "'model.radial_hidden=[8,8]'" in line
    assert run(files, "mace_residual", target, "--head", "second") == 2
    assert "exists; give another name, or --overwrite" in capsys.readouterr().err
    assert run(files, "mace_density", target, "--overwrite", "--dtype", "float32", *options) == 0
    assert load(target).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mace_residual", [], "has several heads; choose one with --head: first, second"),
        ("mace_residual", ["--head", "third"], "has no head 'third'; it has first, second"),
        ("mace_density", ["--channels", "8"], "--channels enlarge models of eqmol; convert"),
        ("mace_density", ["--mace-python", "/nowhere/python"], "--mace-python /nowhere/python cannot be run"),
        ("mace_density", ["--mace-python", sys.executable], "No module named 'mace'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands(
    files: dict[str, Path],
    tmp_path: Path,
    name: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(files, name, tmp_path / "out.safetensors", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_what_differs_is_not_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(*_: Any) -> list[dict[str, Any]]:
        return [{**result, "forces": result["forces"] + 1e-4} for result in results]

    structures = tmp_path / "some.xyz"
    ase.io.write(structures, STRUCTURES["molecule"])
    results = evaluate(convert_mace(read_model(files["mace_density"])).model, [ase.io.read(structures)])
    monkeypatch.setattr(proof, "ask_mace", other)
    options = ["--mace-python", sys.executable, "--structures", str(structures)]
    assert run(files, "mace_density", tmp_path / "out.safetensors", *options) == 1
    assert "forces differ by 1.00e-04 eV/Å (mace-torch)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [structures]


def test_other_interpreters_are_asked(files: dict[str, Path], tmp_path: Path) -> None:
    """A stand-in for mace-torch shows what crosses the border; it knows where it was called from."""
    package = tmp_path / "mace"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "calculators.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class MACECalculator(EMT):\n"
        "    def __init__(self, model_paths, device, default_dtype, head):\n"
        "        assert model_paths.endswith('mace_residual.model')\n"
        "        assert (device, default_dtype, head) == ('cpu', 'float64', 'first')\n"
        "        super().__init__()\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    crystal = ase.Atoms("C2", positions=[[0, 0, 0], [1.3, 1.2, 1.1]], cell=[3.0, 3.1, 3.2], pbc=True)
    found = ask_mace(python, files["mace_residual"], "first", [crystal, STRUCTURES["molecule"]])
    from ase.calculators.emt import EMT

    crystal.calc = EMT()
    assert found[0]["energy"] == crystal.get_potential_energy()
    assert np.array_equal(found[0]["forces"], crystal.get_forces())
    assert found[0]["stress"].shape == (3, 3)
    assert "stress" not in found[1]


def test_options_for_mace_are_refused_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(STORED / "potential-1.safetensors"), str(tmp_path / "out"), "--head", "first"]) == 2
    assert "--head is for models of mace-torch" in capsys.readouterr().err


# --- the way back


def put_back(root: Part, weights: dict[str, np.ndarray]) -> None:
    """Set parameters and buffers of the modules of a file by their names."""
    for name, values in weights.items():
        path, _, last = name.rpartition(".")
        state = root.part(path)._thing.state
        group = "_parameters" if last in state["_parameters"] else "_buffers"
        state[group][last] = values.reshape(state[group][last].shape)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mace_residual", {}),
        ("mace_density", {"bessel_decay": 1.0}),
        ("mace_residual", {"widen": 1, "bessel_decay": 0.5}),
    ],
)
def test_weights_go_back(files: dict[str, Path], name: str, changes: dict[str, Any]) -> None:
    root = read_model(files[name])
    if name == "mace_residual":  # of two heads, which models of eqmol do not have
        kept = thing(root, "scale_shift").state["_buffers"]
        kept |= {key: kept[key][:1] for key in ("scale", "shift")}
        root._thing.state["heads"] = ["only"]
        for readout, width in (("readouts.0.linear", 1), ("readouts.1.linear_1", 8), ("readouts.1.linear_2", 1)):
            weight = thing(root, readout).state["_parameters"]
            weight["weight"] = weight["weight"][: 4 * width if width == 8 or "0" in readout else 8]
        thing(root, "readouts.1").state["hidden_irreps"] = "8x0e"
        thing(root, "readouts.1").state["num_heads"] = 1
    model = convert_mace(Part(root._thing, "")).model
    with default_dtype(torch.float64):
        new = build(model.recipe | {"backbone": model.recipe["backbone"] | changes}).eval().requires_grad_(False)
    config = config_of(new)
    assert config["interaction_cls_first"] == root.parts("interactions")[0].kind
    put_back(root, weights_of(new, root))
    energies = np.array(config["atomic_energies"])
    thing(root, "atomic_energies_fn").state["_buffers"]["atomic_energies"] = energies
    thing(root, "scale_shift").state["_buffers"]["shift"] = np.zeros(1)
    again = convert_mace(Part(root._thing, "")).model
    found = differences(new, again, STRUCTURES.values(), EXACT)
    assert max(difference.largest for difference in found) <= 1e-10


def test_the_constant_of_bonded_atoms_goes_into_their_e0() -> None:
    """Exact where neighbours are near, which a free atom has not."""
    with default_dtype(torch.float64):
        torch.manual_seed(0)
        plain = {**recipe(), "zbl": False}
        model = build({**plain, "binding": [1.0, -2.0, 3.0, -4.0]}).eval()
        e0 = np.array(config_of(model)["atomic_energies"])
        shifted = build(plain).eval()
    shifted.load_state_dict(model.state_dict())
    shifted.reference.e0.copy_(
        torch.from_numpy(e0 - np.array(config_of(shifted)["atomic_energies"])) + shifted.reference.e0
    )
    crystal = [bulk("Cu", a=3.0)]
    assert evaluate(shifted, crystal)[0]["energy"] == pytest.approx(evaluate(model, crystal)[0]["energy"], abs=1e-9)
    free = [ase.Atoms("Cu")]
    assert evaluate(shifted, free)[0]["energy"] == pytest.approx(evaluate(model, free)[0]["energy"] - 4.0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gaunt"}, "model.family='gaunt'; it has coupled"),
        ({"fields": 2}, "model.fields=2; it has 1"),
        ({"widen": 2}, "model.widen=2; it has widen=1 or widen=paths"),
        ({"layers": 1}, "model.layers=1; it has two layers or more"),
        ({}, "a repulsion with its own constants"),
    ],
    ids=str,
)
def test_what_mace_cannot_hold_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_of(small_model(**changes))


def test_the_way_back_needs_an_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(STORED / "potential-1.safetensors")
    assert main([source, str(tmp_path / "out.model"), "--to", "mace"]) == 2
    assert "--to mace needs --mace-python PATH" in capsys.readouterr().err


# --- what has no counterpart


def thing(root: Part, path: str) -> Thing:
    """The object of a module."""
    *above, last = path.split(".")
    return root.part(".".join(above)).value(last) if above else root.value(last)


def renamed(path: str, kind: str) -> Callable[[Part], None]:
    def change(root: Part) -> None:
        thing(root, path).kind = kind

    return change


def replaced(path: str, group: str, key: str, value: Any) -> Callable[[Part], None]:
    def change(root: Part) -> None:
        state = thing(root, path).state
        (state[group] if group else state)[key] = value(state[group][key]) if callable(value) else value

    return change


def not_invariant(table: np.ndarray) -> np.ndarray:
    return table + np.diag(np.arange(9.0))[:, :, None]


UNKNOWN = [
    (renamed("interactions.1", "RealAgnosticResidualNonLinearInteractionBlock"), "interactions.1 is a RealAgnosticResidualNonL"),
    (renamed("interactions.1", "RealAgnosticDensityInteractionBlock"), "only the first may be without residual"),
    (renamed("interactions.0", "RealAgnosticInteractionBlock"), "some of the model's interaction blocks divide by a density"),
    (renamed("readouts.1", "NonLinearBiasReadoutBlock"), "readouts.1 is a NonLinearBiasReadoutBlock"),
    (renamed("radial_embedding.bessel_fn", "GaussianBasis"), "radial basis is a GaussianBasis"),
    (renamed("pair_repulsion_fn", "Other"), "pair_repulsion_fn is a Other"),
    (renamed("radial_embedding.distance_transform", "Other"), "distance_transform is a Other"),
    (renamed("products.0.symmetric_contractions", "CuEquivariance"), "symmetric_contractions is a CuEquivariance"),
    (replaced("radial_embedding.bessel_fn", "_buffers", "bessel_weights", lambda a: a * 1.01), "BesselBasis were trained"),
    (replaced("pair_repulsion_fn", "_buffers", "a_exp", np.array(0.23)), "ZBLBasis were trained"),
    (replaced("radial_embedding", "", "apply_cutoff", False), "apply_cutoff=False"),
    (replaced("scale_shift", "_buffers", "scale", np.array(-1.0)), "scale is -1; it must be positive"),
    (replaced("scale_shift", "_buffers", "scale", np.array(np.nan)), "scale_shift.scale has numbers that are not finite"),
    (replaced("interactions.0", "", "hidden_irreps", "4x0e+2x1o"), r"hidden irreps are 4x0e\+2x1o"),
    (replaced("interactions.0", "", "hidden_irreps", "4x0e+4x1e"), r"hidden irreps are 4x0e\+4x1e"),
    (replaced("interactions.1", "", "hidden_irreps", "4x0e+4x1o"), "here the last are scalars"),
    (replaced("interactions.0.linear", "_parameters", "weight", np.zeros(7)), "interactions.0.linear.weight has 7 numbers"),
    (
        replaced("products.0.symmetric_contractions.contractions.0", "_buffers", "U_matrix_2", not_invariant),
        "are not equivariant ones of natural parity",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), UNKNOWN, ids=[message[:40] for _, message in UNKNOWN])
def test_what_has_no_counterpart_is_named(files: dict[str, Path], change: Callable[[Part], None], message: str) -> None:
    root = read_model(files["mace_density"])
    change(root)
    with pytest.raises(InputError, match=message) as error:
        convert_mace(Part(root._thing, ""))
    assert "\n" not in str(error.value)


# --- hostile files


class Canary:
    """Runs something when unpickled."""

    touched: ClassVar[list[str]] = []

    @classmethod
    def touch(cls, *_: Any) -> None:
        cls.touched.append("touched")


def archive(
    path: Path, content: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("m/data.pkl", content)
        file.writestr("m/byteorder", "little")
        for key, numbers in (storages or {}).items():
            file.writestr(f"m/data/{key}", numbers)
    return path


def text(word: str) -> bytes:
    raw = word.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def calls() -> dict[str, bytes]:
    """Every way in which a pickle can ask for a call, of several functions."""
    found: dict[str, bytes] = {}
    own = (__name__, "Canary.touch")
    for module, name in (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
                         ("builtins", "__import__"), ("subprocess", "Popen"), ("torch", "load"), ("mace.tools", "scripts"),
                         ("e3nn.util.codegen", "CodeGenMixin"), ("mace.modules", "models"), own):  # fmt: skip
        found[f"GLOBAL {module}.{name}"] = f"c{module}\n{name}\n".encode() + text("touch x") + b"\x85R."
    global_ = f"c{own[0]}\n{own[1]}\n".encode()
    found["STACK_GLOBAL"] = b"\x80\x04" + text(own[0]) + text(own[1]) + b"\x93)R."
    found["INST"] = f"(S'x'\ni{own[0]}\n{own[1]}\n.".encode()
    found["OBJ"] = b"(" + global_ + b"o."
    found["NEWOBJ"] = b"\x80\x02" + global_ + b")\x81."
    found["NEWOBJ_EX"] = b"\x80\x04" + global_ + b")}\x92."
    found["EXT1"] = b"\x80\x02\x82\x01)R."
    found["EXT2"] = b"\x80\x02\x83\x01\x00)R."
    found["EXT4"] = b"\x80\x02\x84\x01\x00\x00\x00)R."
    found["PERSID"] = b"Pos.system\n."
    found["BINPERSID"] = text("os.system") + b"Q."
    found["BUILD of a function"] = global_ + b"}b."
    found["BUILD of a list"] = b"]}b."
    found["a call of what is data"] = b"ctorch.nn.functional\nsilu\n)R."
    found["a call of a module"] = b"cmace.modules.models\nMACE\n)\x81)R)R)R."
    found["a state that is a list"] = b"cmace.modules.models\nMACE\n)\x81]b."
    found["READONLY_BUFFER"] = b"\x80\x05\x98."
    found["NEXT_BUFFER"] = b"\x80\x05\x97."
    return found


def tensor(key: str, count: int, size: int, stride: int = 1, offset: int = 0) -> bytes:
    """A tensor [size] of a storage that is said to have count numbers."""
    integer = lambda n: b"\x8a\x08" + struct.pack("<q", n)  # noqa: E731
    storage = b"(" + text("storage") + b"ctorch\nDoubleStorage\n" + text(key) + text("cpu") + integer(count) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset)
        + integer(size) + b"\x85" + integer(stride) + b"\x85" + b"\x89" + b"ccollections\nOrderedDict\n)Rt" + b"R"
    )  # fmt: skip


def bombs() -> dict[str, tuple[bytes, dict[str, bytes]]]:
    """Pickles that would become large, deep or slow, and tensors that lie about their size."""
    eight = {"0": bytes(64)}
    doubled = b"]q\x00" + b"".join(b"(h" + bytes([n]) + b"h" + bytes([n]) + b"lq" + bytes([n + 1]) for n in range(250))
    many = tensor("0", 2**13, 2**13)
    return {
        "doubled lists": (doubled + b".", {}),
        "nested lists": (b"]" * 20_000 + b"a" * 19_999 + b".", {}),
        "nested tuples": (b")" + b"\x85" * 50_000 + b".", {}),
        "a nested key": (b"}" + b")" + b"\x85" * 10_000 + b"Ns.", {}),
        "memo without end": (b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(2**14)) + b".", {}),
        "a memo of a large index": (b"Nr\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff.", {}),
        "nothing, very often": (b"N0" * 30_000 + b"N.", {}),
        "a long number": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.", {}),
        "long text": (b"X\xff\xff\xff\xffx.", {}),
        "a large text of eight bytes of length": (b"\x8d" + b"\xff" * 8 + b".", {}),
        "no end": (b"]" * 1000, {}),
        "nothing": (b"", {}),
        "noise": (bytes(range(256)) * 10, {}),
        "only a number": (b"K\x01.", {}),
        "a list of models": (b"]cmace.modules.models\nMACE\n)\x81a.", {}),
        "a storage larger than it is": (tensor("0", 2**40, 8) + b".", eight),
        "a storage smaller than it is": (tensor("0", 4, 4) + b".", eight),
        "a tensor beyond its storage": (tensor("0", 8, 9) + b".", eight),
        "a tensor of one number repeated": (tensor("0", 8, 2**40, stride=0) + b".", eight),
        "a tensor before its storage": (tensor("0", 8, 4, offset=-8) + b".", eight),
        "a tensor with steps backwards": (tensor("0", 8, 4, stride=-1) + b".", eight),
        "a missing storage": (tensor("1", 8, 8) + b".", eight),
        "a storage beside the archive": (tensor("../../etc/passwd", 8, 8) + b".", eight),
        "one tensor, very often": (b"(" + many * 500 + b"l.", {"0": bytes(2**16)}),
        "a large pickle": (b"N0" * 2**21 + b"N.", {}),
        "a model of nothing": (b"cmace.modules.models\nMACE\n)\x81}b.", {}),
        "a model of itself": (
            b"cmace.modules.models\nMACE\n)\x81q\x00}" + text("_modules") + b"}" + text("interactions") + b"h\x00ssb.",
            {},
        ),
    }


HOSTILE = {**{name: (content, {}) for name, content in calls().items()}, **bombs()}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, storages = HOSTILE[name]
    path = archive(tmp_path / "in.model", content, storages)
    Canary.touched.clear()
    tracemalloc.start()
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 2
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert not Canary.touched
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_canary_sings() -> None:
    sung = 0
    for name, content in calls().items():
        if __name__ in content.decode("latin1") and "BUILD" not in name:
            Canary.touched.clear()
            try:
                pickle.loads(content)
            except (TypeError, AttributeError, pickle.UnpicklingError):
                continue
            assert Canary.touched
            sung += 1
    assert sung > 0
    assert len(HOSTILE) >= 50


def test_hostile_archives(tmp_path: Path) -> None:
    for number, change in enumerate((_compressed, _overlapping, _twice, _big_endian, _cut)):
        path = tmp_path / f"{number}.model"
        change(path)
        with pytest.raises(InputError) as error:
            read_model(path)
        assert "\n" not in str(error.value)


def _compressed(path: Path) -> None:
    archive(path, b"N0" * 2**20 + b"N.", compression=zipfile.ZIP_DEFLATED)


def _overlapping(path: Path) -> None:
    archive(path, b"N." + bytes(1000))
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 20 : directory + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def _twice(path: Path) -> None:
    archive(path, b"N.")
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("m/data.pkl", b"K\x01.")


def _big_endian(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", b"N.")
        file.writestr("m/byteorder", "big")


def _cut(path: Path) -> None:
    archive(path, b"N." * 100)
    path.write_bytes(path.read_bytes()[:-30])


def test_only_names_of_the_table_are_in_the_files(files: dict[str, Path]) -> None:
    """The table is as small as the files need: every class of mace in it that a stored model names is there."""
    for path in files.values():
        with zipfile.ZipFile(path) as content:
            (root,) = (name for name in content.namelist() if name.endswith("data.pkl"))
            operations = pickletools.genops(io.BytesIO(content.read(root)))
            names = {argument.replace(" ", ".") for operation, argument, _ in operations if operation.name == "GLOBAL"}
        assert names <= KNOWN.keys()
        assert any(name.startswith("mace.modules.models") for name in names)
