"""Files of strangers: encodings are read, bombs are refused by one sentence, one bad record costs one record."""

import bz2
import gzip
import io
import lzma
import sqlite3
import zipfile
import zlib
from pathlib import Path

import ase.io
import numpy as np
import pytest
from rdkit import Chem

from eqmol.data.oc20.frame import Reading
from eqmol.data.oc20.readers.ase_files import read_database
from eqmol.data.oc20.readers.geometric import read_torch
from eqmol.data.oc20.readers.s2ef import read_s2ef
from eqmol.data.qm9.reader import read_xyz
from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError
from eqmol.files import (
    MAX_LINE,
    Text,
    bounded_memory,
    check_file,
    decompress,
    expand_paths,
    read_lines,
    read_npz,
)
from eqmol.files.bounds import FREE, RATIO
from eqmol.molecules.molecule import Failure, Molecule, from_smiles, read_molecules
from eqmol.molecules.table import read_table

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
WATER = "3\nü name=é\nO 0 0 0.1\nH 0 0.75 -0.47\nH 0 -0.75 -0.47\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_every_encoding(tmp_path, encoding, end):
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    path = write(tmp_path / "a.xyz", mark + WATER.replace("\n", end).encode(encoding))
    assert read_lines(path) == WATER.splitlines()
    ((atoms, _, _),) = read_frames(path)
    assert atoms.info["name"] == "é"
    assert atoms.positions[2].tolist() == [0, -0.75, -0.47]


def test_nul_bytes_and_utf_16_without_its_mark(tmp_path):
    path = write(tmp_path / "a.xyz", WATER.encode() + b"\0" * 100)
    with pytest.raises(InputError, match=r"a\.xyz, line 6 has NUL bytes"):
        list(read_frames(path))
    with pytest.raises(InputError, match="UTF-16 without its mark"):
        list(read_frames(write(path, WATER.encode("utf-16-le"))))


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_text(tmp_path, ending):
    compress = COMPRESS[ending]
    content = compress(WATER.encode()) + compress(WATER.encode())  # several streams in one file
    path = write(tmp_path / f"a.xyz.{ending}", content)
    assert len(list(read_frames(path))) == 2
    with pytest.raises(InputError, match="cannot be read: EOFError"):
        list(read_frames(write(path, content[:-12])))


# --- what a file is by its name and by its content


@pytest.mark.parametrize("name", ["a.xyz", "a.sdf", "a.csv"])
@pytest.mark.parametrize(
    ("ending", "start", "words"),
    [
        ("", b"", "is empty"),
        ("", gzip.compress(b"x"), "is compressed by gzip, which its name does not say; rename it, to end in .gz"),
        ("", bz2.compress(b"x"), "is compressed by bzip2"),
        ("", lzma.compress(b"x"), "is compressed by xz"),
        (".gz", b"3\n\n", "is not compressed by gzip, as its name says"),
        (".bz2", b"BZhome\n", "is not compressed by bzip2"),
        (".xz", gzip.compress(b"x"), "is compressed by gzip, which its name does not say"),
        ("", b"PK\x03\x04", "is packed by zip, which is not read"),
        (".gz", b"Rar!\x1a\x07", "is packed by rar"),
        ("", b"\x28\xb5\x2f\xfd", "is packed by zstd"),
        (".tar.gz", gzip.compress(b"x"), r"is an archive, which is not opened; unpack it first \(tar -xf\)"),
    ],
)
def test_compressed_and_packed_files_are_told_by_their_content(tmp_path, name, ending, start, words):
    readers = {".xyz": read_frames, ".sdf": read_molecules, ".csv": lambda path: [read_table(path)]}
    with pytest.raises(InputError, match=rf"{name}{ending} {words}"):
        check_file(write(tmp_path / f"{name}{ending}", start))
    if ending != ".tar.gz":
        with pytest.raises(InputError, match=rf"{name}{ending} {words}"):
            list(readers[name[1:]](tmp_path / f"{name}{ending}"))


def test_text_that_begins_like_a_compressed_file(tmp_path):
    check_file(write(tmp_path / "a.smi", b"BZh\n"))


# --- bombs


def many(byte: bytes, compress) -> bytes:
    return compress(byte * (FREE + 200_000))


@pytest.mark.parametrize("ending", COMPRESS)
def test_long_lines_and_what_grows_without_bound(tmp_path, ending):
    path = write(tmp_path / f"a.xyz.{ending}", many(b"1", COMPRESS[ending]))
    with pytest.raises(InputError, match="times as large"):
        list(read_frames(path))
    path = write(tmp_path / f"a.cif.{ending}", many(b"\n", COMPRESS[ending]))
    with pytest.raises(InputError, match="times as large"):
        list(read_frames(path))
    path = write(tmp_path / f"a.sdf.{ending}", many(b"1", COMPRESS[ending]))
    (failure,) = read_molecules(path)
    assert "times as large" in failure.reason
    path = write(tmp_path / "a.xyz", b"1\n" + b"x" * (MAX_LINE + 1) + b"\nH 0 0 0\n")
    with pytest.raises(InputError, match=f"line 2 has more than {MAX_LINE} characters"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1000000000\n\nH 0 0 0\n", "announces 1000000000 atoms"),
        ("²\n\nH 0 0 0\n", "should begin with its number"),
        ("9" * 5000 + "\n\nH 0 0 0\n", "should begin with its number"),
        ("1\nProperties=species:S:1:pos:R:1000000000\nH 0 0 0\n", "columns or more"),
        ('1\nLattice="' + "1 " * 9 + '" Properties=species:S:-1:pos:R:3\nH 0 0 0\n', "cannot be read"),
        ("1\n" + "a=_JSON" + "[" * 10**5 + "\nH 0 0 0\n", None),
    ],
)
def test_frames_that_announce_what_they_do_not_have(tmp_path, text, words):
    path = write(tmp_path / "a.xyz", text.encode())
    if words is None:
        list(read_frames(path))
        return
    with pytest.raises(InputError, match=words) as error:
        list(read_frames(path))
    assert len(str(error.value)) < 500
    if text[0] == "1" and "Lattice" not in text:
        write(tmp_path / "a.txt", b"random1,frame0,-1.0\n")
        with pytest.raises(InputError):
            list(read_s2ef(path.rename(tmp_path / "a.extxyz"), 0, None, Reading()))


def test_other_formats_trust_their_numbers(tmp_path):
    poscar = "x\n1.0\n9 0 0\n0 9 0\n0 0 9\nCu\n4000000000\nDirect\n0 0 0\n"
    with pytest.raises(InputError, match=r"frame 0 asks for more than \d+ bytes of memory"):
        list(read_frames(write(tmp_path / "POSCAR", poscar.encode())))
    with pytest.raises(InputError, match="asks for more than"), bounded_memory(0, "a"):
        np.ones(2**28)
    assert np.ones(2**20).sum() == 2**20


def test_archives_with_compressed_or_overlapping_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    with pytest.raises(InputError, match="has compressed or encrypted members"):
        list(read_torch(tmp_path / "a.pt", 0, None, Reading()))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coeff.npy", bytes(2**24 + 1))
    with pytest.raises(InputError, match="announces 16777217 bytes"):
        read_npz(tmp_path / "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("coeff.npy", header.getvalue() + bytes(80))
    with pytest.raises(InputError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", coeff=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"no \.npz of numbers"):
        read_npz(tmp_path / "a.npz")
    assert decompress(zlib.compress(bytes(FREE))) == bytes(FREE)
    with pytest.raises(InputError, match=f"more than {RATIO} times"):
        decompress(zlib.compress(bytes(8 * FREE)))
    for content in (zlib.compress(b"x")[:-2], b"no"):
        with pytest.raises(InputError, match=r"truncated|damaged"):
            decompress(content)


def test_databases_that_compute(tmp_path):
    ase.io.write(tmp_path / "a.db", ase.Atoms("H"))
    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("ALTER TABLE systems RENAME TO others")
    database.execute(
        "CREATE VIEW systems AS WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n FROM a) SELECT * FROM a"
    )
    database.commit()
    database.close()
    for frames in (read_frames(tmp_path / "a.db"), read_database(tmp_path / "a.db", 0, None, Reading())):
        with pytest.raises(InputError, match="holds the view 'systems', which computes"):
            list(frames)


# --- one bad record costs one record


def records() -> list[str]:
    made = [
        from_smiles(smiles, name, conformers=1)
        for smiles, name in (("O", "water"), ("CO", "methanol"), ("C", "methane"))
    ]
    return [Chem.MolToMolBlock(entry.mol).replace("\n", f"{entry.name}\n", 1) + "$$$$\n" for entry in made]


def kinds(path: Path) -> list[str]:
    return [entry.name if isinstance(entry, Molecule) else f"failed: {entry.reason}" for entry in read_molecules(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_sdf_of_every_encoding(tmp_path, encoding):
    text = "".join(records()).replace("methanol", "méthanol").replace("$$$$\n", "> <a>\né\n\n$$$$\n", 1)
    for content in (text, text.replace("\n", "\r\n"), text.removesuffix("$$$$\n")):
        assert kinds(write(tmp_path / "a.sdf", content.encode(encoding))) == ["water", "méthanol", "methane"]
    path = write(tmp_path / "a.sdf.gz", gzip.compress(text.encode(encoding)))
    assert kinds(path) == ["water", "méthanol", "methane"]
    for ending in COMPRESS:
        path = write(tmp_path / f"a.mol.{ending}", COMPRESS[ending](records()[1].split("$$$$")[0].encode(encoding)))
        assert kinds(path) == ["methanol"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda block: block.replace("C", "Qq"), "the record cannot be read"),
        (lambda block: block.replace("\n", "\0\n", 3), "NUL bytes"),
        (lambda block: block.replace("\n", "x" * (MAX_LINE + 1) + "\n", 1), "more than"),
        (lambda block: block[:90] + "\n$$$$\n", "the record cannot be read"),
        (lambda block: "\n$$$$\n" if not block else "x\n$$$$\n", "the record cannot be read"),
    ],
)
def test_one_bad_record_of_an_sdf(tmp_path, damage, reason):
    first, second, third = records()
    found = kinds(write(tmp_path / "a.sdf", "".join((first, damage(second), third)).encode()))
    assert [found[0], found[-1], len(found)] == ["water", "methane", 3]
    assert found[1].startswith("failed: ")
    assert reason in found[1]


def test_what_follows_a_truncation_is_one_failure(tmp_path):
    text = "".join(records() * 200)
    content = gzip.compress(text.encode())
    found = kinds(write(tmp_path / "a.sdf.gz", content[: len(content) * 2 // 3]))
    assert found.count("methane") > 50
    assert "EOFError" in found[-1]
    assert kinds(write(tmp_path / "b.sdf", "".join(records())[:-60].encode()))[:2] == ["water", "methanol"]


def test_one_bad_line_of_smiles(tmp_path):
    lines = [
        "O water",
        "C méthane",
        "C\0 nul",
        "C" * 6000 + " long",
        "(" * 3000,
        "C" * (MAX_LINE + 5) + " endless",
        "CO last",
    ]
    found = list(read_molecules(write(tmp_path / "a.smi", "\n".join(lines).encode("latin-1")), conformers=1))
    assert [entry.name for entry in found if isinstance(entry, Molecule)] == ["water", "méthane", "last"]
    assert [entry.source[-6:] for entry in found if isinstance(entry, Failure)] == [
        "line 3",
        "line 4",
        "line 5",
        "line 6",
    ]
    assert all(len(entry.reason) < 400 and len(entry.name) < 300 for entry in found if isinstance(entry, Failure))


def test_lines_after_a_long_one(tmp_path):
    with Text(write(tmp_path / "a", b"a" * (2 * MAX_LINE) + b"\nb")) as file:
        assert "characters" in file.record_line()[1]
        assert file.record_line() == ("b", "")
        assert file.record_line() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_qm9_raw_of_every_encoding(tmp_path, encoding):
    text = "1\ngdb 1 " + " ".join(["1.0"] * 15) + "\nC 0.0 0.0 1.0*^-6 0\né\n"
    path = write(tmp_path / "dsgdb9nsd_000001.xyz", text.replace("\n", "\r\n").encode(encoding))
    assert read_xyz([path]).positions.tolist() == [[0, 0, 1e-6]]
    for bad in (
        text.replace("gdb 1", f"gdb {10**30}"),
        text.replace("0.0 0.0", "nan 0.0"),
        text.replace("C", "X"),
        "-1\n" + text,
    ):
        with pytest.raises(InputError, match=r"is not a raw file of QM9|no element"):
            read_xyz([write(path, bad.encode())])


# --- several files


def test_files_of_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["b 1.xyz", "a=(1),2.xyz", "c[1].xyz", "run[2]/d1.xyz", "run[2]/d2.xyz", ".hidden.xyz", "~x.xyz"]
    (tmp_path / "run[2]").mkdir()
    (tmp_path / "e.xyz").mkdir()  # a folder is no file
    for name in names:
        (tmp_path / name).touch()
    top = ["a=(1),2.xyz", "b 1.xyz", "c[1].xyz", "~x.xyz"]

    def expanded(given, folder=""):
        return [str(path) for path in expand_paths(given, "data.train_file", folder)]

    assert expanded("*.xyz") == expanded(Path("*.xyz")) == top
    assert expanded(["c[1].xyz", "b?1.xyz"]) == ["c[1].xyz", "b 1.xyz"]  # as given, sorted within a pattern
    assert expanded(("run[2]/d*.xyz", "absent.xyz")) == ["run[2]/d1.xyz", "run[2]/d2.xyz", "absent.xyz"]
    assert expanded("[ab]*.xyz") == top[:2]
    assert expanded("**/d?.xyz") == ["run[2]/d1.xyz", "run[2]/d2.xyz"]
    assert expanded("~/b 1.xyz") == [str(tmp_path / "b 1.xyz")]
    assert expanded(["~x.xyz", "~no one/a.xyz"]) == ["~x.xyz", "~no one/a.xyz"]
    assert expanded("d*.xyz", tmp_path / "run[2]") == [str(tmp_path / "run[2]" / f"d{i}.xyz") for i in (1, 2)]
    assert expanded(str(tmp_path / "b*"), "elsewhere") == [str(tmp_path / "b 1.xyz")]
    assert expanded("b 1.xyz, ~/c*.xyz") == ["b 1.xyz", str(tmp_path / "c[1].xyz")]
    assert expanded("a=(1),2.xyz") == ["a=(1),2.xyz"]  # a name with a comma
    assert expanded("b 1.xyz,absent.xyz") == ["b 1.xyz,absent.xyz"]
    many = [f"e/{number:040}.xyz" for number in range(10)]
    (tmp_path / "e").mkdir()
    for name in many:
        (tmp_path / name).touch()
    assert expanded(",".join(name for name in many)) == many  # longer than a name can be


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "data.train_file=3 must be the path of a file, or several"),
        (None, "data.train_file=null must be"),
        (b"a.xyz", "must be the path"),
        ("", "data.train_file='' must be"),
        (["a.xyz", True], r"data.train_file=\['a.xyz', True\] must be"),
        ([["a.xyz"]], "must be the path"),
        ({"a": "a.xyz"}, "must be the path"),
        ([], r"data.train_file=\[\] names no file"),
        ("*.cif", r"data.train_file: no file matches '\*\.cif'"),
        (["a.xyz", "./a.xyz"], "data.train_file names a.xyz twice"),
        (["a*", "a.xyz"], "twice"),
    ],
)
def test_no_files_of_an_option(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.xyz").touch()
    with pytest.raises(InputError, match=message):
        expand_paths(given, "data.train_file")
