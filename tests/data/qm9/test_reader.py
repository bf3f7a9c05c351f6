"""Raw files of QM9, made up here; the genuine ones where they are."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eqmol.data.qm9.reader import COLUMNS, is_raw, read_raw, read_sdf, read_uncharacterized, read_xyz
from eqmol.data.qm9.targets import TARGETS
from eqmol.errors import InputError
from eqmol.units import HARTREE, KCAL_PER_MOL

WATER = [("O", 0.0, 0.0, 0.1178), ("H", 0.0, 0.7555, -0.4712), ("H", 0.0, -0.7555, -0.4712)]
MONOXIDE = [("C", 0.0, 0.0, -0.6448), ("O", 0.0, 0.0, 0.4836)]


def record(number: int, atoms) -> str:
    block = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0\n" for symbol, x, y, z in atoms)
    return f"gdb_{number}\n  made up\n\n{len(atoms):3}  0  0  0  0  0  0  0  0  0999 V2000\n{block}M  END\n$$$$\n"


def row(number: int) -> str:
    return f"gdb_{number}," + ",".join(str(number + column / 100) for column in range(len(COLUMNS)))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "gdb9.sdf").write_text(record(3, WATER) + record(58, MONOXIDE) + record(60, WATER))
    lines = ["mol_id," + ",".join(COLUMNS), row(3), row(58), row(60)]
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "uncharacterized.txt").write_text(
        "List of 2 molecules\n=====\n#   Index\n=====\n   58   N\n   61   O\n====\n"
    )
    return tmp_path


def read(files: Path):
    return read_sdf(files / "gdb9.sdf", files / "gdb9.sdf.csv", files / "uncharacterized.txt")


def test_sdf_and_table(files):
    molecules = read(files)
    assert molecules.ids.tolist() == [3, 60]  # 58 by its number, wherever it stands
    atoms = molecules.atoms(1)
    assert atoms.get_chemical_formula() == "H2O"
    np.testing.assert_array_equal(atoms.positions, [position for _, *position in WATER])
    value = dict(zip(TARGETS, molecules.values[1], strict=True))
    assert value["A"] == 60.0
    assert value["mu"] == 60.03
    assert value["U0"] == pytest.approx(60.10 * HARTREE, rel=1e-14)
    assert value["U0_atom"] == pytest.approx(60.15 * KCAL_PER_MOL, rel=1e-14)
    assert value["Cv"] == 60.14


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("gdb9.sdf.csv", "gdb_58", "gdb_59", r"row 2 is gdb_59, but molecule 2 of gdb9.sdf is gdb_58"),
        ("gdb9.sdf.csv", row(60) + "\n", "", r"2 rows, but gdb9.sdf has 3 molecules"),
        ("gdb9.sdf.csv", "58.03", "nan", r"row 2 \(gdb_58\): mu is nan"),
        ("gdb9.sdf.csv", "58.03", "many", r"row 2 \(gdb_58\) is not"),
        ("gdb9.sdf.csv", "mol_id,", "", r"header and 20 columns"),
        ("gdb9.sdf", "gdb_58", "carbon monoxide", r"molecule 2 \(carbon monoxide\): the title is not gdb_N"),
        ("gdb9.sdf", "-0.6448 C ", "-0.6x48 C ", r"molecule 2 \(gdb_58\): the block of atoms"),
        ("gdb9.sdf", "-0.6448 C ", "-0.6448 R#", r"molecule 2 \(gdb_58\): atom 0 is 'R#', which is no element"),
        ("gdb9.sdf", "-0.6448 C ", "-0.6448 X ", r"molecule 2 \(gdb_58\): atom 0 is 'X', which is no element"),
        ("gdb9.sdf", record(60, WATER), record(60, WATER)[:-8], r"molecule 3 \(gdb_60\): the record does not end"),
    ],
)
def test_broken_files_name_the_molecule(files, name, old, new, message):
    text = (files / name).read_text()
    assert old in text
    (files / name).write_text(text.replace(old, new, 1) if name.endswith("csv") else new.join(text.rsplit(old, 1)))
    with pytest.raises(InputError, match=message):
        read(files)


def test_xyz_with_mathematica_exponents(tmp_path):
    path = tmp_path / "dsgdb9nsd_000003.xyz"
    values = "\t".join(["3.5*^-2", *(str(column) for column in range(1, 15))])
    atoms = "".join(f"{symbol}\t{x}\t{y}\t{z}\t0.1\n" for symbol, x, y, z in [("O", 0.0, 0.0, "1.5*^-6"), *WATER[1:]])
    path.write_text(f"3\ngdb 3\t{values}\t\n{atoms}1595.1\t3657.0\nO\tO\nInChI=1S/H2O/h1H2\n")
    molecules = read_xyz([path])
    value = dict(zip(TARGETS, molecules.values[0], strict=True))
    assert molecules.ids.tolist() == [3]
    assert molecules.positions[0, 2] == 1.5e-6
    assert (value["A"], value["mu"], value["Cv"]) == (0.035, 3.0, 14.0)
    assert np.isnan(value["U0_atom"])
    atoms = read_raw(path)
    assert atoms.info["name"] == "gdb_3"
    assert atoms.info["U0"] == pytest.approx(10 * HARTREE)
    assert atoms.info.keys() == {"name", *(name for name in TARGETS if not name.endswith("_atom"))}
    assert is_raw(path)
    content = path.read_text()
    path.write_text(content * 2)
    with pytest.raises(InputError, match="hold one molecule each"):
        read_xyz([path])
    path.write_text(content.replace("gdb 3", "gdb x"))
    with pytest.raises(InputError, match=r"000003\.xyz is not a raw file of QM9"):
        read_xyz([path])


@pytest.mark.realdata
def test_every_value_agrees_with_torch_geometric(tmp_path):
    from torch_geometric.datasets import QM9

    folder = Path(os.environ["EQMOL_DATA"], "qm9")
    shutil.copytree(folder / "raw", tmp_path / "raw")
    expected = QM9(str(tmp_path))
    molecules = read(folder / "raw")
    np.testing.assert_allclose(molecules.values, expected._data.y.numpy(), rtol=2e-7, atol=1e-7)  # those are float32
    assert torch.from_numpy(molecules.numbers).equal(expected._data.z)
    np.testing.assert_allclose(molecules.positions, expected._data.pos.numpy(), atol=1e-6)


@pytest.mark.realdata
def test_genuine_files_agree_with_one_another():
    folder = Path(os.environ["EQMOL_DATA"], "qm9")
    molecules = read(folder / "raw")
    genuine = read_xyz(sorted((folder / "originals" / "dsgdb9nsd").glob("*.xyz")))
    assert len(genuine) == 20
    shared = np.intersect1d(genuine.ids, molecules.ids)
    assert len(shared) == 7
    for number in shared:
        mine, theirs = (int(np.flatnonzero(found.ids == number)[0]) for found in (molecules, genuine))
        np.testing.assert_allclose(molecules.values[mine, :12], genuine.values[theirs, :12], rtol=1e-12)
        np.testing.assert_allclose(molecules.atoms(mine).positions, genuine.atoms(theirs).positions, atol=5.1e-5)
    dropped = read_uncharacterized(folder / "originals" / "uncharacterized.txt")
    assert len(dropped) == 3054
    assert (dropped[0], dropped[-1]) == (58, 133866)
