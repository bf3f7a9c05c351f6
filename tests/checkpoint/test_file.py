"""Model files: what is saved is what is loaded, and a stranger's file is refused without running anything."""

import copy
import hashlib
import json
import os
import pickle
import struct
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from ase.build import molecule

import eqmol
from eqmol.checkpoint import build, for_prediction, load, save
from eqmol.checkpoint import header as header_module
from eqmol.checkpoint.header import digest
from eqmol.errors import InputError
from eqmol.graph import from_atoms
from eqmol.graph.contacts import SHORTEST
from eqmol.ops.registry import ALGORITHMS, can_run
from eqmol.so3.layout import CONVENTION
from tests.recipes import model, recipe

ETHANOL = molecule("CH3CH2OH")


def energy_and_forces(potential: Any) -> tuple[float, np.ndarray]:
    output = potential(from_atoms(ETHANOL, potential.cutoff))
    return float(output["energy"]), output["forces"].numpy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good model file."""
    file = tmp_path / "model.safetensors"
    save(model(), file, metrics={"rmse": np.float32(0.5), "loss": float("nan")})
    return file


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensor bytes."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path: Path, header: dict[str, Any] | bytes, tensors: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def rewrite(path: Path, change: Any) -> None:
    """Apply ``change`` to the document and the tensors, and sign them anew where that is possible."""
    with safetensors.safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["eqmol"])
    tensors = safetensors.torch.load_file(path)
    change(document, tensors)
    if "digest" in document:
        with suppress(ValueError):  # infinities have no digest
            document["digest"] = digest(document, tensors)
    text = json.dumps(document).replace("Infinity", "1e999").replace("NaN", "1e999")  # valid JSON that overflows
    safetensors.torch.save_file(tensors, path, {"eqmol": text})


def edit(path: Path, change: Any) -> None:
    """Apply ``change`` to the document in the metadata."""
    rewrite(path, lambda document, _: change(document))


def refused(path: Path, match: str, **options: Any) -> str:
    """The one sentence with which loading ends, before anything large is made."""
    begin = time.process_time()
    with pytest.raises(InputError, match=match) as caught:
        load(path, **options)
    assert (
        time.process_time() - begin < 10.0
    )  # a thousand times what it takes: the sizes of a stranger are never allocated
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 1000
    return message


# --- what is saved is what is loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bit_equal(tmp_path: Path, dtype: torch.dtype) -> None:
    potential = model(dtype)
    eqmol.save(potential, tmp_path / "m.safetensors")
    loaded = eqmol.load(tmp_path / "m.safetensors")
    assert loaded.recipe == potential.recipe == recipe()
    assert loaded.dtype == dtype
    assert not loaded.training
    assert loaded.state_dict().keys() == potential.state_dict().keys()
    for name, tensor in potential.state_dict().items():
        other = loaded.state_dict()[name]
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other)
    (energy, forces), (other_energy, other_forces) = energy_and_forces(potential), energy_and_forces(loaded)
    assert energy == other_energy
    assert np.array_equal(forces, other_forces)


def test_document(path: Path) -> None:
    with safetensors.safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["eqmol"])
    assert document["format"] == 2
    assert document["eqmol"] == eqmol.__version__
    assert document["recipe"] == recipe()
    assert document["elements"] == [1, 6, 8, 29]
    assert document["metrics"] == {"rmse": 0.5, "loss": None}
    assert document["units"] == {"energy": "eV", "length": "Å"}
    assert document["convention"] == CONVENTION


@pytest.mark.parametrize("family", ["coupled", "gaunt"])
@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_every_able_backend_gives_the_same_energy(tmp_path: Path, family: str, parity: str) -> None:
    file = tmp_path / "model.safetensors"
    trained_with = "cg" if family == "coupled" else "grid"
    save(model(family=family, parity=parity, backend=trained_with), file)
    energy, forces = energy_and_forces(load(file))
    for backend in ALGORITHMS:
        if not can_run(backend, family):
            assert "coupled" in refused(file, f"'{backend}'", backend=backend)
            continue
        loaded = load(file, backend=backend)
        assert loaded.recipe["backbone"]["backend"] == backend
        other_energy, other_forces = energy_and_forces(loaded)
        assert abs(energy - other_energy) < 1e-9
        assert np.abs(forces - other_forces).max() < 1e-9


def test_dtype_is_that_of_the_request(path: Path) -> None:
    energy, forces = energy_and_forces(load(path))
    low = load(path, dtype="float32")
    assert low.dtype == torch.float32
    other_energy, other_forces = energy_and_forces(low)
    assert 0 < abs(energy - other_energy) < 1e-5 * len(ETHANOL)
    assert np.abs(forces - other_forces).max() < 1e-4
    # tables of a float32 file opened in float64 are exact, not rounded to float32
    save(low, path)
    high = load(path, dtype=torch.float64)
    by_escn = load(path, dtype=torch.float64, backend="escn")
    assert abs(energy_and_forces(high)[0] - energy_and_forces(by_escn)[0]) < 1e-9
    with pytest.raises(InputError, match="float16"):
        load(path, dtype="float16")


def test_prepare_copies_and_freezes(path: Path) -> None:
    original = model()
    original.train()
    copied = for_prediction(original, backend="escn", dtype="float32")
    assert original.training
    assert all(parameter.requires_grad for parameter in original.parameters())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert copied.dtype == torch.float32
    assert abs(energy_and_forces(copied)[0] - energy_and_forces(original.eval())[0]) < 1e-4


def test_loading_leaves_random_numbers_and_defaults_alone(path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(path, dtype="float64")
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.rand(3), expected)


def test_loading_does_not_spoil_later_models(path: Path) -> None:
    # models are first built on the meta device: no table made there may be kept
    load(path)
    for tensor in [*model().buffers(), *model().parameters()]:
        assert tensor.device.type == "cpu"


def test_device_that_is_not_there(path: Path) -> None:
    with pytest.raises(InputError, match="device 'warp'"):
        load(path, device="warp")


# --- saving


def test_failed_save_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    broken = model()
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        save(broken, path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        save(model(), tmp_path / "absent" / "model.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        save(model(), tmp_path)


# --- broken files


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_not_opened(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(pickle.dumps(Touch(tmp_path / "executed"), protocol))
    refused(file, "pickle" if protocol >= 2 else "not a model file")
    assert not (tmp_path / "executed").exists()


def test_torch_checkpoint_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": Touch(tmp_path / "executed")}, file)
    refused(file, "give the model.safetensors")
    assert not (tmp_path / "executed").exists()


def test_other_files(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "No such file")
    refused(tmp_path, "directory")
    for name, content in {"empty": b"", "text": b"27\nLattice ...\n" * 100, "short": b"abc"}.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a model file")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("data.pkl", b"x")
    refused(tmp_path / "zip", "pickle")
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "other")
    refused(tmp_path / "other", "not an eqmol model")


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.999])
def test_truncated(path: Path, fraction: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    refused(path, "truncated")


def test_more_bytes_than_announced(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b'{"a":' * 100_000, "damaged"),
        (b'{"a":' + b"[" * 100_000, "damaged"),
        (b'{"a": NaN}', "damaged"),
        (b'{"a": 1, "a": 2}', "damaged"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "JSON"),
        (b'{"a": 1', "JSON"),
        (b'{"a": "\xff"}', "damaged"),
        (b'{"a": {"dtype": "F64", "shape": [1000000000000], "data_offsets": [0, 8]}}', "truncated|not an eqmol"),
        (b'{"__metadata__": {"eqmol": "[]"}}', "JSON object"),
        (b'{"__metadata__": {"eqmol": 3}}', "damaged"),
        (b'{"__metadata__": 3}', "damaged"),
    ],
)
def test_headers(path: Path, header: bytes, match: str) -> None:
    join(path, header, b"")
    refused(path, match)


def test_huge_header_length(path: Path) -> None:
    for length in (2**63, 2**64 - 1, 2**33):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        refused(path, "not a model file")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}, "damaged"),
        ({"dtype": "F64", "shape": [1e3], "data_offsets": [0, 8]}, "damaged"),
        ({"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8]}, "damaged"),
        ({"dtype": ["F64"], "shape": [1], "data_offsets": [0, 8]}, "damaged"),
        ("F64", "damaged"),
        (None, "damaged"),
    ],
)
def test_tensor_entries(path: Path, entry: Any, match: str) -> None:
    header, tensors = split(path)
    name = next(name for name in sorted(header) if name != "__metadata__")
    if entry is None:
        del header[name]
    else:
        header[name] = entry
    join(path, header, tensors)
    refused(path, match)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.zeros(3, dtype=torch.float16), "F16"),
        (torch.zeros(3, dtype=torch.float64), "recipe makes it"),
        (torch.zeros(3, dtype=torch.int64), "recipe makes it"),
        (None, "not in the file"),
    ],
)
def test_other_tensors_than_the_recipe_asks_for(path: Path, tensor: Any, match: str) -> None:
    def change(_: Any, tensors: dict[str, torch.Tensor]) -> None:
        name = min(tensors)
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor

    rewrite(path, change)
    refused(path, match)
    rewrite(path, lambda _, tensors: tensors.update({min(tensors): torch.ones(2), "extra": torch.ones(2)}))
    refused(path, ".")


def test_tensors_that_overlap(path: Path) -> None:
    # shapes and types fit the recipe, but two tensors share their bytes: left to safetensors itself
    header, tensors = split(path)
    names = [name for name in header if name.endswith("e0") or name.endswith("power_weight")]
    header[names[0]]["data_offsets"] = [offset + 8 for offset in header[names[0]]["data_offsets"]]
    join(path, header, tensors)
    refused(path, "damaged")


def test_weights_that_are_not_finite(path: Path) -> None:
    rewrite(path, lambda _, tensors: tensors[min(tensors)].fill_(torch.inf))
    refused(path, "NaN or infinity")


# --- hostile documents


DOCUMENTS = {
    "newer": ({"format": 3}, "newer eqmol"),
    "format 0": ({"format": 0}, "format 0"),
    "format text": ({"format": "1"}, "format '1'"),
    "format true": ({"format": True}, "format True"),
    "unknown key": ({"hook": "os.system"}, "'hook' is unknown"),
    "format 1 with a section": ({"format": 1}, "'digest' is unknown"),
    "section of another type": ({"labels": ["energy"]}, "'labels' must be of type dict"),
    "long section": ({"heads": {"a": [1] * 257}}, "heads.a is not plain, small JSON"),
    "deep section": ({"heads": {"a": [[[[[[[[[[1]]]]]]]]]]}}, "too deep"),
    "units": ({"units": {"energy": "Hartree", "length": "Bohr"}}, "units"),
    "convention": ({"convention": "other"}, "convention"),
    "elements": ({"elements": [1]}, "elements"),
    "recipe": ({"recipe": "eqmol.models.Potential"}, "'recipe' must be of type dict"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(path: Path, name: str) -> None:
    changes, match = DOCUMENTS[name]
    edit(path, lambda document: document.update(changes))
    refused(path, match)


def test_document_without_recipe(path: Path) -> None:
    edit(path, lambda document: document.pop("recipe"))
    refused(path, "'recipe' is missing")


HOSTILE_TARGETS = [
    "torch.nn.init.torch.os.system",
    "eqmol.checkpoint.json.loads",
    "os.system",
    "builtins.eval",
    "eqmol.models.Potential.__init__.__globals__",
    "eqmol.models.MACE\n",
    "__import__('os').system('true')",
    "",
    None,
    3,
    ["eqmol.models.Potential"],
    {"_target_": "os.system"},
]


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
@pytest.mark.parametrize("place", ["predictor", "backbone"])
def test_hostile_targets(path: Path, target: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("executed")

    for function in ("system", "popen", "execv"):
        monkeypatch.setattr(os, function, refuse)
    modules = set(sys.modules)

    def change(document: dict[str, Any]) -> None:
        node = document["recipe"] if place == "predictor" else document["recipe"]["backbone"]
        node["_target_"] = target

    edit(path, change)
    refused(path, "only eqmol.models")
    assert set(sys.modules) <= modules


@pytest.mark.parametrize("target", ["eqmol.models.Potential", "eqmol.models.MACE"])
def test_known_class_in_the_wrong_place(target: str) -> None:
    wrong = recipe()
    node = wrong["backbone"] if target.endswith("Potential") else wrong
    node["_target_"] = target
    with pytest.raises(InputError, match="_target_"):
        build(wrong)


BACKBONE = [
    ("degree", 10**6),
    ("degree", -1),
    ("degree", 1.0),
    ("degree", "1"),
    ("degree", True),
    ("degree", None),
    ("filter_degree", 10**6),
    ("correlation", 10**6),
    ("correlation", 0),
    ("layers", 10**9),
    ("layers", 0),
    ("channels", 10**12),
    ("channels", 10**400),
    ("fields", 10**9),
    ("cutoff", float("inf")),
    ("cutoff", float("nan")),
    ("cutoff", -1),
    ("cutoff", 1e300),
    ("avg_num_neighbors", float("nan")),
    ("elements", []),
    ("elements", [1, 1]),
    ("elements", [10**6]),
    ("elements", list(range(1, 1000))),
    ("elements", "HCO"),
    ("radial_hidden", [10**12]),
    ("radial_hidden", [64] * 1000),
    ("radial_hidden", 64),
    ("num_bessel", 10**9),
    ("family", "other"),
    ("family", ["coupled"]),
    ("parity", {}),
    ("backend", ["cg"]),
    ("backend", {"_target_": "os.system"}),
    ("backend", {"convolution": ["cg"], "power": "cg"}),
    ("backend", {"convolution": "cg"}),
    ("backend", 3),
    ("backend", "gaunt"),
    ("backend", "grid"),
    ("hook", "os.system"),
    ("__class__", "os.system"),
    ("self", 1),
    ("_args_", [1]),
    ("_partial_", True),
]


@pytest.mark.parametrize(("key", "value"), BACKBONE)
def test_hostile_backbones(path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError):
        build(recipe(**{key: value}))
    edit(path, lambda document: document["recipe"]["backbone"].update({key: value}))
    refused(path, ".")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("e0", [1.0]),
        ("e0", [[1]] * 4),
        ("e0", "1"),
        ("scale", 0),
        ("scale", "1"),
        ("zbl", 1),
        ("zbl", "yes"),
        ("head", "a"),
    ],
)
def test_hostile_predictors(path: Path, key: str, value: Any) -> None:
    edit(path, lambda document: document["recipe"].update({key: value}))
    refused(path, key)


@pytest.mark.parametrize("place", [(), ("backbone",)])
def test_every_missing_key_is_named(place: tuple[str, ...]) -> None:
    node: Any = recipe()
    for key in place:
        node = node[key]
    for key in node:
        if key in ("radial_hidden", "zbl"):  # have defaults
            continue
        wrong = copy.deepcopy(recipe())
        inner = wrong["backbone"] if place else wrong
        del inner[key]
        with pytest.raises(InputError, match=key):
            build(wrong)


def test_values_that_are_not_json() -> None:
    for value in (object(), (1, 2), {1: 2}, np.float64(1.0) * 1e300, torch.zeros(1)):
        with pytest.raises(InputError):
            build(recipe(cutoff=value))
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(InputError, match="deep"):
        build(recipe(cutoff=deep))


def test_recipe_larger_than_its_tensors_allocates_nothing(path: Path) -> None:
    import resource

    sizes = {"channels": 2048, "fields": 16, "correlation": 4, "radial_hidden": [2048]}
    edit(path, lambda document: document["recipe"]["backbone"].update(sizes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "recipe makes it")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; the weights would need 1 GB


# --- formats


def test_formats_are_upgraded_step_by_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "FORMAT", 4)
    monkeypatch.setattr(header_module, "UPGRADES", {n: lambda d: d | {"format": d["format"] + 1} for n in (1, 2, 3)})
    load(path)


STORED = Path(__file__).parents[1] / "stored"
EXPECTED = json.loads((STORED / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_model_files_of_format_1(tmp_path: Path, name: str) -> None:
    old = eqmol.load(STORED / f"{name}-1.safetensors", dtype="float64")
    assert not old.sections
    save(old, tmp_path / "model.safetensors")
    again = eqmol.load(tmp_path / "model.safetensors")
    for molecule_name, values in EXPECTED[name].items():
        for net in (old, again):
            result = eqmol.predict(molecule(molecule_name), net)
            assert result.keys() == values.keys()
            for key, value in values.items():
                assert np.abs(np.asarray(result[key]) - np.asarray(value)).max() < 1e-9 * max(1, np.abs(value).max())


def test_sections_and_their_tensors_are_kept(path: Path) -> None:
    potential = model()
    potential.set_domain(torch.eye(4, dtype=torch.float64), 17)
    potential.sections |= {"labels": {"energy": "E"}, "targets": {"a": {"list": [1.5, None, True]}}}
    potential.aux["aux.heads.weights"] = torch.arange(6.0).reshape(2, 3)
    with pytest.raises(InputError, match="belongs to no section"):
        save(potential, path)
    potential.sections["heads"] = {}
    save(potential, path)
    loaded = for_prediction(path, dtype="float32")
    assert not [name for name in loaded.state_dict() if name.startswith("aux.")]
    for net in (loaded, for_prediction(loaded)):
        assert net.sections == potential.sections
        assert net.aux.keys() == potential.aux.keys()
        assert all(net.aux[name].equal(tensor) for name, tensor in potential.aux.items())
    potential.sections["other"] = {}
    with pytest.raises(InputError, match="no section 'other'"):
        save(potential, path)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("aux.hook.a", torch.zeros(1), "belongs to no section"),
        ("aux.heads.a", torch.zeros(1), "belongs to no section"),  # the section is not there
        ("aux.", torch.zeros(1), "belongs to no section"),
        ("aux.domain.a", torch.zeros(1000, dtype=torch.float64), "8128 bytes"),
        ("aux.domain.a", torch.full((2,), torch.nan), "NaN"),
        (SHORTEST, torch.zeros(3, 3, dtype=torch.float64), "not torch.float64"),
        (SHORTEST, torch.zeros(4, 4), "not torch.float64"),
        (SHORTEST, -torch.eye(4, dtype=torch.float64), "not negative"),
        (SHORTEST, torch.ones(4, 4, dtype=torch.float64).triu(), "symmetric"),
    ],
)
def test_hostile_aux_tensors(
    path: Path, name: str, tensor: torch.Tensor, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_module, "_MAX_AUX_BYTES", 1000)
    potential = model()
    potential.set_domain(torch.ones(4, 4, dtype=torch.float64), 1)
    save(potential, path)
    rewrite(path, lambda _, tensors: tensors.update({name: tensor}))
    refused(path, match)


def test_keys_of_labels(path: Path) -> None:
    potential = model()
    potential.set_labels({"energy": "REF_energy", "forces": "my forces"})
    save(potential, path)
    assert load(path).label_keys == for_prediction(path).label_keys == {"energy": "REF_energy", "forces": "my forces"}
    rewrite(path, lambda document, _: document["labels"].update({"forces": ["a"]}))
    refused(path, r"labels.forces=\['a'\] must be the name of a label")


def test_too_many_aux_tensors(path: Path) -> None:
    def change(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        document["heads"] = {}
        tensors.update({f"aux.heads.{i}": torch.ones(1) for i in range(65)})

    rewrite(path, change)
    refused(path, "65 tensors")


# --- the digest


def test_edited_by_hand(path: Path) -> None:
    header, tensors = split(path)
    text = header["__metadata__"]["eqmol"]
    for changed in (text.replace('"rmse": 0.5', '"rmse": 0.4'), text.replace('"zbl": true', '"zbl": false')):
        assert changed != text
        join(path, header | {"__metadata__": {"eqmol": changed}}, tensors)
        refused(path, r"does not fit its digest; copy it again .*, and change a model by .* eqmol\.save")
    document = json.loads(text)
    del document["digest"]
    join(path, header | {"__metadata__": {"eqmol": json.dumps(document)}}, tensors)
    refused(path, "'digest' is missing")


def test_the_digest_is_what_the_header_module_says(path: Path) -> None:
    with safetensors.safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["eqmol"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = document.pop("digest")
    parts = [json.dumps(document, sort_keys=True, separators=(",", ":"))]
    for name in sorted(arrays):
        parts += [
            f'["{name}","{arrays[name].dtype}",{list(arrays[name].shape)}]'.replace(", ", ","),
            arrays[name].tobytes(),
        ]
    content = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    assert expected == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_no_flipped_bit_is_read(path: Path) -> None:
    potential = build(json.loads(json.dumps(recipe(channels=1, layers=1, radial_hidden=[2])))).eval()
    potential.set_domain(torch.eye(4, dtype=torch.float64), 17)
    save(potential, path, metrics={"val_loss": 0.5})
    document, content = header_module.read_header(path).document, bytearray(path.read_bytes())
    sentences = []
    for place in np.random.default_rng(0).choice(8 * len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except InputError as error:
            sentences.append(str(error))
            continue
        assert header_module.read_header(path).document == document
        for tensors, others in ((potential.state_dict(), loaded.state_dict()), (potential.aux, loaded.aux)):
            assert tensors.keys() == others.keys()
            assert all(tensors[name].equal(other) for name, other in others.items())
    assert len(sentences) >= 390
    assert all("\n" not in sentence and len(sentence) < 1000 for sentence in sentences)
