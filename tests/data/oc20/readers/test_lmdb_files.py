"""LMDBs: read as the C library does, and never following a number out of the file."""

from pathlib import Path

import numpy as np
import pytest

from eqmol.data.oc20.readers.lmdb_files import Entries
from eqmol.errors import InputError
from tests.data.oc20.files import write_lmdb

PAGE = 4096


def contents(path: Path) -> dict[bytes, bytes]:
    with Entries(path) as entries:
        return {key: entries.value(i) for i, key in enumerate(entries.keys)}


def made(folder: Path, number: int, largest: int) -> tuple[Path, dict[bytes, bytes]]:
    rng = np.random.default_rng(0)
    values = {str(i).encode(): rng.bytes(rng.integers(largest)) for i in range(number)}
    return write_lmdb(folder, values | {b"length": b"5", b"a" * 500: b"x" * 9000}), values


@pytest.mark.parametrize(("number", "largest"), [(0, 1), (1, 10), (2500, 300), (200, 9000), (5, 200_000)])
def test_the_same_as_the_library(tmp_path, number, largest):
    lmdb = pytest.importorskip("lmdb")
    path, values = made(tmp_path, number, largest)
    assert contents(path) == values
    with Entries(path) as entries:
        assert list(map(int, entries.keys)) == list(range(number))
    with lmdb.open(str(path), subdir=False, map_size=2**25, lock=False) as file:
        for part in range(3):  # several transactions, freed and reused pages
            with file.begin(write=True) as writer:
                for key in list(values)[part::4]:
                    writer.delete(key)
                    del values[key]
                for i in range(50):
                    key = str(1000 * (part + 5) + i).encode()
                    values[key] = key * (200 if i % 2 else 2000)
                    writer.put(key, values[key])
    assert contents(path) == values


def test_a_folder_with_its_data(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "a.lmdb"), map_size=2**20) as file, file.begin(write=True) as writer:
        writer.put(b"0", b"zero")
    assert contents(tmp_path / "a.lmdb") == {b"0": b"zero"}
    with pytest.raises(InputError, match="cannot be read"):
        contents(tmp_path)


def test_a_truncated_file_is_one_sentence(tmp_path):
    pytest.importorskip("lmdb")
    path, values = made(tmp_path, 60, 9000)
    whole = path.read_bytes()
    for size in (0, 100, 1500, *range(PAGE, len(whole) - 4 * PAGE, len(whole) // 50)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"is truncated" if size >= 2 * PAGE else r"truncated|is no LMDB|damaged"):
            contents(path)
    path.write_bytes(whole[:-8])  # after the last value
    assert contents(path) == values


def test_damaged_files_never_end_the_process(tmp_path):
    pytest.importorskip("lmdb")
    path, values = made(tmp_path, 60, 9000)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        begin = PAGE * rng.integers(len(whole) // PAGE)  # headers of pages, most of the time
        begin += rng.integers(24) if rng.random() < 0.8 else rng.integers(PAGE)
        content[begin : begin + 4] = rng.bytes(4)
        path.write_bytes(content[: len(whole)])
        try:
            found = contents(path)
        except InputError:
            refused += 1
        else:
            assert found.keys() == values.keys()
            assert sum(map(len, found.values())) <= len(whole)
    assert 20 < refused < 200


def test_trees_in_circles_and_shared_values(tmp_path):
    pytest.importorskip("lmdb")
    path, _ = made(tmp_path, 2500, 300)
    whole = bytearray(path.read_bytes())
    meta = max((int.from_bytes(whole[p + 144 : p + 152], "little"), p) for p in (0, PAGE))[1]
    root = int.from_bytes(whole[meta + 128 : meta + 136], "little")
    begin = root * PAGE
    node = begin + int.from_bytes(whole[begin + 16 : begin + 18], "little")
    whole[node : node + 4] = root.to_bytes(4, "little")  # its first child is itself
    path.write_bytes(whole)
    with pytest.raises(InputError, match=f"page {root} is not one of its tree|comes to page {root} twice"):
        contents(path)
    whole[meta + 128 : meta + 136] = (2**40).to_bytes(8, "little")
    path.write_bytes(whole)
    with pytest.raises(InputError, match="damaged: it refers to byte"):
        contents(path)
