"""The interpreter of pickles: exact on genuine data, deaf to everything else."""

import collections
import io
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from eqmol.data.oc20.frame import Reading
from eqmol.data.oc20.readers.geometric import KNOWN, read_torch
from eqmol.errors import InputError
from eqmol.pickles.machine import ForbiddenPickleError, load
from tests.data.oc20.files import record, relaxation

REAL = Path(os.environ.get("EQMOL_DATA", "")) / "oc20" / "is2re"


def read(content: bytes):
    return load(io.BytesIO(content), KNOWN)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_torch_geometric(protocol):
    tensors = {
        "pos": torch.randn(5, 3),
        "transposed": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        "part": torch.arange(10)[3:7:2],
        "half": torch.ones(2, dtype=torch.float16),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
    }
    data = Data(**tensors, sid=3, name="random3", y=-1.5, fid=np.int64(7), array=np.arange(4.0), absent=None, flag=True)
    fields = read(pickle.dumps(data, protocol)).fields()
    assert set(fields) == {*tensors, "sid", "name", "y", "fid", "array", "flag"}
    for name, tensor in tensors.items():
        assert fields[name].dtype == tensor.numpy().dtype
        assert np.array_equal(fields[name], tensor.numpy())
        assert fields[name].shape == tuple(tensor.shape)
    assert (fields["sid"], fields["name"], fields["y"], fields["fid"], fields["flag"]) == (3, "random3", -1.5, 7, True)
    assert fields["array"].tolist() == [0, 1, 2, 3]


def test_plain_containers():
    value = {"a": [1, 2**70, (None, (), b"x")], "b": {3}, "c": collections.OrderedDict(d=1.5), "e": -0.25}
    for protocol in (2, 4):
        assert read(pickle.dumps(value, protocol)) == value


@pytest.fixture
def old_data(monkeypatch):
    """A class as torch_geometric 1 had it: fields are attributes."""
    module = types.ModuleType("torch_geometric.data.data")

    class Data:  # the name is what counts
        def __init__(self, **fields):
            self.__dict__ |= fields

    Data.__module__, Data.__qualname__ = module.__name__, "Data"
    module.Data = Data
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Data


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_objects_of_the_first_torch_geometric(old_data, protocol):
    content = pickle.dumps(old_data(x=None, pos=torch.ones(2, 3), sid=5), protocol)
    fields = read(content).fields()
    assert set(fields) == {"pos", "sid"}
    assert np.array_equal(fields["pos"], np.ones((2, 3)))


class Harmful:
    """Runs something when unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (torch.load, "torch.serialization.load"),
        (np.load, "numpy.load"),
        (__import__, "__import__"),
    ],
)
def test_a_crafted_pickle_names_what_it_wanted_and_gets_nothing(tmp_path, protocol, function, name):
    canary = tmp_path / "canary"
    content = pickle.dumps({"pos": Harmful(function, f"touch {canary}")}, protocol)
    with pytest.raises(ForbiddenPickleError, match=name.replace(".", r"\.")) as error:
        read(content)
    assert "not executed" in str(error.value)
    assert not canary.exists()


def test_a_crafted_pickle_inside_of_a_tensor(tmp_path):
    canary = tmp_path / "canary"
    inner = pickle.dumps(Harmful(os.system, f"touch {canary}"), 2)
    content = pickle.dumps(Harmful(torch.storage._load_from_bytes, inner), 2)
    with pytest.raises(ForbiddenPickleError, match="system"):
        read(content)
    nested = pickle.dumps(Harmful(torch.storage._load_from_bytes, content), 2)
    with pytest.raises(ForbiddenPickleError, match="_load_from_bytes"):
        read(nested)
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",  # an array of objects
        b"(S'echo'\nios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02}K\x01b.",  # BUILD on a dict
        b"\x80\x02K\x01Q.",  # a persistent id
    ],
)
def test_operations_that_data_do_not_need(content):
    with pytest.raises(ForbiddenPickleError):
        read(content)


def test_truncated_and_damaged_pickles_are_one_error():
    content = pickle.dumps(record(relaxation()[0], "random1", 0), 4)
    rng = np.random.default_rng(0)
    for size in range(0, len(content), 101):
        with pytest.raises(InputError, match="truncated or damaged"):
            read(content[:size])
    for _ in range(300):  # nothing but InputError, whatever the bytes say
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        try:
            read(bytes(damaged))
        except InputError:
            continue


@pytest.mark.parametrize(
    ("storage", "arguments", "words"),
    [
        (np.zeros(8), (0, (9,), (1,)), "outside of its 8"),
        (np.zeros(8), (7, (2,), (1,)), "outside of its 8"),
        (np.zeros(8), (0, (2,), (8,)), "outside of its 8"),
        (np.zeros(8), (0, (100,), (0,)), "outside of its 8"),
        (np.zeros(8), (-1, (2,), (1,)), "shape is none"),
        (np.zeros(8), (0, (2,), (-1,)), "shape is none"),
        (np.zeros(8), (0, (2, 2**62, 2), (1, 1, 1)), "shape is none"),  # whose product overflows
        (np.zeros(8), (0, (2,) * 70, (1,) * 70), "shape is none"),
        (np.zeros((2**20, 0)), (0, (2**20,), (1,)), "as a storage"),  # holds nothing, and has a length
        (np.zeros((4, 4)), (0, (4,), (1,)), "as a storage"),
        (np.zeros(16)[::2], (0, (8,), (1,)), "as a storage"),
    ],
)
def test_tensors_stay_within_their_storage(storage, arguments, words):
    with pytest.raises(InputError, match=words):
        KNOWN["torch._utils._rebuild_tensor_v2"](storage, *arguments)


NESTED = b"\x80\x02)" + b"\x85" * 5_000  # a tuple within a tuple, ...


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NESTED + b".", "nests more than"),
        (b"\x80\x02}" + NESTED[2:] + b"Ns.", "tuple as a key"),  # C would recurse to hash it
        (b"\x80\x04\x8f(" + NESTED[2:] + b"\x90.", "tuple as a key"),
        (b"\x80\x02ccollections\nOrderedDict\n(" + NESTED[2:] + b"N\x86t\x85R.", "tuple as a key"),
        (
            b"\x80\x04\x8f(" + b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] for i in range(9)) + b"\x90.",
            "int as a key",
        ),
        (b"\x80\x04" + b"\x8f" * 10**5 + b".", "64 times as large"),  # empty sets, 216 bytes each
        (b"\x80\x04N" + b"\x94" * 10**5 + b".", "64 times as large"),  # entries of the memo
        (b"\x80\x02" + b"(" * 10**5 + b".", "64 times as large"),
        (  # one string, encoded again and again
            b"\x80\x02c_codecs\nencode\nq\x00X"
            + (10**6).to_bytes(4, "little")
            + b"x" * 10**6
            + b"U\x06latin1\x86q\x010"
            + b"h\x00h\x01R" * 10**4
            + b".",
            "64 times as large",
        ),
        (b"\x80\x02cbuiltins\nlist\nX\x03\x00\x00\x00abc\x85R.", "str as a list"),
        (b"N" + b"p2305843009213693951\n.", "numbers its objects"),
        (b"\x80\x02Np" + b"9" * 40 + b"\n.", "numbers its objects"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", "truncated or damaged"),  # 2^63 bytes
        (b"\x80\x02\x8b\xff\xff\xff\x7fabc.", "truncated or damaged"),  # an integer of 2^31 bytes
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fe.", "truncated or damaged"),  # APPENDS without a mark
        (b"\x80\x02]\x85]\x86]R.", "as a tuple"),
        (b"\x80\x04]q\x00h\x00a\x8c\x01x\x93.", "list as a str"),
        (b"\x80\x02cnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01>NNNtb.", "big-endian"),
        (b"\x80\x02cnumpy\ndtype\n(U\x06i4,f8 K\x00K\x01tR.", "not numbers"),
    ],
)
def test_what_would_kill_or_bury_the_interpreter_is_refused(content, words):
    with pytest.raises(InputError, match=words) as error:
        read(content)
    assert len(str(error.value)) < 400


def test_few_objects_are_no_bomb():
    value = [{"name": i, "values": [i] * 10} for i in range(2000)]
    for protocol in (0, 2, 4):
        assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("several", [False, True])
def test_files_of_torch_save(tmp_path, several):
    frames = relaxation()
    objects = [record(atoms, "random7", i, y_relaxed=float(i)) for i, atoms in enumerate(frames)]
    torch.save(objects if several else Batch.from_data_list(objects), tmp_path / "a.pt")
    read_back = [frame for frame, _ in read_torch(tmp_path / "a.pt", 0, None, Reading())]
    assert [frame.number for frame in read_back] == [0, 1, 2, 3]
    for frame, atoms in zip(read_back, frames, strict=True):
        assert frame.system == "random7"
        assert np.array_equal(frame.positions, atoms.positions)
        assert frame.forces is None


def test_a_crafted_file_of_torch_save(tmp_path):
    torch.save({"pos": Harmful(os.system, "true")}, tmp_path / "bad.pt")
    with pytest.raises(ForbiddenPickleError, match=r"bad\.pt: the pickle asks to import .*system"):
        list(read_torch(tmp_path / "bad.pt", 0, None, Reading()))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "bad.pt").read_bytes()[:-50])
    with pytest.raises(InputError, match=r"cut\.pt is truncated"):
        list(read_torch(tmp_path / "cut.pt", 0, None, Reading()))


@pytest.mark.realdata
def test_the_genuine_file():
    frames = [frame for frame, _ in read_torch(REAL / "is2re_bs3.pt", 0, None, Reading())]
    assert [(frame.system, len(frame.numbers)) for frame in frames] == [
        ("random2077917", 65),
        ("random1302564", 172),
        ("random1874170", 24),
    ]
    assert [frame.energy for frame in frames] == pytest.approx([0.8710024, 0.588, -4.918], abs=1e-3)
    assert np.bincount(np.concatenate([frame.tags for frame in frames])).tolist() == [197, 51, 13]
    text = (REAL / "is2re_bs3.extxyz").read_text().splitlines()[2].split()
    assert frames[0].positions[0] == pytest.approx([float(x) for x in text[1:4]], abs=1e-7)
