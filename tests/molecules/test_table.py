"""Tables of molecules as people keep them."""

import codecs
import gzip

import numpy as np
import pytest

from eqmol.errors import InputError
from eqmol.molecules.molecule import Failure
from eqmol.molecules.table import number, read_table

TEXT = "name,SMILES,logS\nmethanol,CO,-1.5\nunknown,CC,\nbroken,C(,1e-2\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").replace("\n", "\r\n").encode(),
        TEXT.replace("methanol", '"méthanol, ""dry"""').encode("latin-1"),
        ("\n".join(f"{line}, a;b;c;d;e" for line in TEXT.splitlines())).encode(),  # more semicolons than commas
        gzip.compress(TEXT.encode(), mtime=0),
    ],
)
def test_delimiters_and_encodings(tmp_path, content):
    path = tmp_path / ("in.csv.gz" if content[:2] == b"\x1f\x8b" else "in.csv")
    path.write_bytes(content)
    table = read_table(path)
    np.testing.assert_array_equal(table.numbers("logs"), [-1.5, np.nan, 0.01])
    found = list(table.molecules(conformers=1))
    assert [isinstance(entry, Failure) for entry in found] == [False, False, True]
    assert found[0].smiles == "CO"
    assert found[2].source.endswith("in.csv, line 4") or path.suffix == ".gz"
    assert "is not a SMILES" in found[2].reason


def test_rows_of_a_wrong_width_fail_alone(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("smiles,logS\nC,1\nCC\n\nCCC,1,5\n  ,3\nCO,2\n")
    found = list(read_table(path).molecules(conformers=1))
    reasons = [entry.reason.split(";")[0] if isinstance(entry, Failure) else "" for entry in found]
    assert reasons == [
        "",
        "the row has 1 cells and the header 2",
        "the row has 3 cells and the header 2",
        "it has no SMILES",
        "",
    ]
    np.testing.assert_array_equal(read_table(path).numbers("logS"), [1, np.nan, np.nan, 3, 2])


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", "smiles", "is empty"),
        ("smiles,logS\n", "smiles", "no rows"),
        ("molecule,logS\nC,1\n", "smiles", "no column 'smiles': its first line names 'molecule', 'logS'"),
        ("smiles|logS\nC|1\n", "smiles", r"first line names 'smiles\|logS'; columns are separated by"),
        ("smiles,Smiles\nC,C\n", "SMILES", "2 columns 'SMILES'"),
        ('smiles,logS\n"C,1\nCC,2\n', "smiles", "line 3: its cells cannot be told apart .*quotation mark"),
        ("smiles,logS\nC\0,1\n", "smiles", "NUL"),
    ],
)
def test_what_is_no_table(tmp_path, text, column, message):
    path = tmp_path / "in.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path, column)


def test_numbers():
    assert number(" -1.5E+1 ", "x", "here") == -15.0
    assert all(np.isnan(number(text, "x", "here")) for text in ("", "NaN", "N/A", " null "))
    for text in ("1,5", "1_000", "inf", "> 3", "1e999", "0x1"):
        with pytest.raises(InputError, match=r"f.csv, line 2: .* under 'logS' is not a number"):
            number(text, "logS", "f.csv, line 2")
