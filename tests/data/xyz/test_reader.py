"""The reader finds labels wherever they lie, and names the culprit of every bad file."""

import gzip
import lzma
from io import StringIO
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from rich.console import Console

from eqmol.data.xyz.labels import LabelSummary, missing_label
from eqmol.data.xyz.reader import keys_of, read_frames
from eqmol.errors import InputError

RNG = np.random.default_rng(0)
FORCES = np.round(RNG.normal(size=(3, 3)), 6)
STRESS = np.array([[0.01, 0.002, 0.0], [0.002, -0.03, 0.004], [0.0, 0.004, 0.05]])


def water(place: str, prefix: str = "") -> ase.Atoms:
    """A periodic water molecule with labels in info and arrays, or in a calculator."""
    atoms = molecule("H2O", cell=np.diag([8.0, 9.0, 10.0]), pbc=True)
    atoms.positions = np.round(atoms.positions, 6)
    if place == "calculator":
        stress = full_3x3_to_voigt_6_stress(STRESS)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.25, forces=FORCES, stress=stress)
    else:
        atoms.info |= {f"{prefix}energy": -14.25, f"{prefix}stress": STRESS.copy()}
        atoms.arrays[f"{prefix}forces"] = FORCES.copy()
    return atoms


def only(path, *args, **kwargs):
    """The single frame of a file."""
    (frame,) = read_frames(path, *args, **kwargs)
    return frame


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *[(name, "calculator") for name in ("a.xyz", "a.extxyz.xz", "a.xyz.gz", "a.traj", "a.db", "a.json")],
        *[(name, "info") for name in ("a.xyz", "a.extxyz", "a.extxyz.xz")],
    ],
)
def test_labels_are_found_in_every_place_and_format(tmp_path, name, place):
    prefix = "" if place == "calculator" else "REF_"
    ase.io.write(tmp_path / name, [water(place, prefix), water(place, prefix)])
    keys = [f"{prefix}{label}" for label in ("energy", "forces", "stress")]
    frames = list(read_frames(tmp_path / name, *keys))
    assert [source for _, _, source in frames] == [f"{tmp_path / name}, frame {i}" for i in range(2)]
    for _, labels, _ in frames:
        assert labels["energy"] == -14.25
        assert np.allclose(labels["forces"], FORCES, atol=1e-8)
        assert np.allclose(labels["stress"], STRESS, atol=1e-8)


def test_info_of_a_trajectory_is_found(tmp_path):
    ase.io.write(tmp_path / "a.traj", water("info", "REF_"))
    _, labels, _ = only(tmp_path / "a.traj", "REF_energy", "REF_forces", "REF_stress")
    assert labels["energy"] == -14.25
    assert np.array_equal(labels["stress"], STRESS)


@pytest.mark.parametrize("name", ["a.xyz", "a.traj"])
def test_constraints_do_not_zero_forces(tmp_path, name):
    atoms = water("calculator")
    atoms.set_constraint(FixAtoms([0, 1]))
    ase.io.write(tmp_path / name, atoms)
    read, labels, _ = only(tmp_path / name)
    assert len(read.constraints) == 1
    assert np.allclose(labels["forces"], FORCES, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 3), (9,), (6,)])
def test_stress_may_be_full_flat_or_voigt(tmp_path, shape):
    atoms = water("info", "my_")
    atoms.info["my_stress"] = full_3x3_to_voigt_6_stress(STRESS) if shape == (6,) else STRESS.reshape(shape)
    ase.io.write(tmp_path / "a.xyz", atoms)
    assert np.allclose(only(tmp_path / "a.xyz", stress_key="my_stress")[1]["stress"], STRESS)


def test_absent_labels_are_absent(tmp_path):
    ase.io.write(tmp_path / "a.vasp", bulk("Cu"))
    assert only(tmp_path / "a.vasp")[1] == {}


def test_reading_streams(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, [water("calculator")] * 3)
    path.write_text(path.read_text() + "garbage\n")
    frames = read_frames(path)
    assert [next(frames)[2][-1] for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(InputError, match=r"frame 3 should begin with its number of atoms, but begins with 'garbage'"):
        next(frames)


def test_blank_lines_between_frames_lose_nothing(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, water("calculator"))
    path.write_text("\n\n".join([path.read_text()] * 3) + "\n \n")
    assert len(list(read_frames(path))) == 3


def test_lattice_vectors_after_the_atoms(tmp_path):
    path = tmp_path / "a.xyz"
    frame = "1\ncomment\nCu 0 0 0\nVEC1 3 0 0\nVEC2 0 3 0\n"
    path.write_text(2 * frame)
    frames = list(read_frames(path))
    assert [atoms.pbc.tolist() for atoms, _, _ in frames] == [[True, True, False]] * 2


def test_a_path_may_contain_an_at_sign(tmp_path):
    ase.io.write(tmp_path / "a.traj", water("calculator"))
    (tmp_path / "a.traj").rename(tmp_path / "run@2.traj")
    assert only(tmp_path / "run@2.traj")[1]["energy"] == -14.25


def test_summary_counts_where_labels_were_found(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, [water("calculator"), water("calculator"), molecule("H2O")])
    summary = LabelSummary()
    assert len(list(read_frames(path, summary=summary))) == 3
    console = Console(width=200, file=StringIO())
    console.print(summary.table())
    text = console.file.getvalue()
    assert "calculator['forces']" in text
    assert "2/3" in text


def header(**values) -> str:
    """A frame of two atoms with forces; values replace parts of it."""
    parts = {"energy": "energy=-1.5", "forces": "forces:R:3", "rows": "H 0 0 0 0.1 0.2 0.3\nO 0 0 1 0.4 0.5 0.6\n"}
    parts |= values
    return f'2\nProperties=species:S:1:pos:R:3:{parts["forces"]} {parts["energy"]} pbc="F F F"\n{parts["rows"]}'


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (header(energy="energy=nan"), ["'energy' in calculator", "nan"]),
        (header(energy="energy=-inf"), ["'energy'", "-inf"]),
        (header(energy='energy="1 2"'), ["'energy'", "shape [2]", "one number"]),
        (header(energy="energy=high"), ["'energy'", "'high'", "not numbers"]),
        (header(rows="H 0 0 0 0.1 nan 0.3\nO 0 0 1 0.4 0.5 0.6\n"), ["'forces'", "atom 0 (H)", "nan"]),
        (header(rows="H 0 0 0 0.1 0.2 0.3\nO 0 0 1 inf 0.5 0.6\n"), ["'forces'", "atom 1 (O)", "inf"]),
        (
            header(forces="forces:R:2", rows="H 0 0 0 0.1 0.2\nO 0 0 1 0.4 0.5\n"),
            ["'forces'", "shape [2, 2]", "[2, 3]"],
        ),
        (header(forces="forces:R:1", rows="H 0 0 0 0.1\nO 0 0 1 0.4\n"), ["'forces'", "shape [2]"]),
        (header(rows="H 0 0 0 0.1 0.2 0.3\nO 0 0 1 0.4 0.5\n"), ["cannot be read"]),
        (header(rows="H 0 0 0 0.1 0.2 0.3\nO 0 0 one 0.4 0.5 0.6\n"), ["cannot be read", "one"]),
        (header(rows="H 0 0 0 0.1 0.2 0.3\nQq 0 0 1 0.4 0.5 0.6\n"), ["atom 1 is called 'Qq'"]),
        (header(energy='energy=0 stress="1 2 3"'), ["'stress' in info has shape [3]"]),
        (header(energy='energy=0 my_stress="1 2 3 4"'), ["'my_stress'", "shape"]),
        (header(energy='energy=0 my_stress="1 2 3 4 5 6 7 8 9"'), ["'my_stress'", "not symmetric"]),
        (header(energy='energy=0 my_stress="1 2 nan 4 5 6"'), ["'my_stress'", "not finite"]),
        ("two\ncomment\nH 0 0 0\n", ["should begin with its number of atoms", "two"]),
        ("-1\ncomment\n", ["should begin with its number of atoms"]),
        ("1000000000000\ncomment\nH 0 0 0\n", ["truncated", "announces 1000000000000 atoms"]),
    ],
)
def test_bad_frames_are_named(tmp_path, frame, words):
    path = tmp_path / "a.xyz"
    path.write_text(header() + frame)
    stress_key = "my_stress" if "my_stress" in frame else "stress"
    with pytest.raises(InputError) as error:
        list(read_frames(path, stress_key=stress_key))
    message = str(error.value)
    assert message.startswith(f"{path}, frame 1")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_contradicting_labels_are_refused(tmp_path):
    atoms = water("calculator")
    atoms.info["energy"] = -14.0
    ase.io.write(tmp_path / "a.traj", atoms)
    with pytest.raises(InputError, match="two different values of 'energy', in info and in calculator"):
        list(read_frames(tmp_path / "a.traj"))
    atoms.info["energy"] = -14.25
    ase.io.write(tmp_path / "a.traj", atoms)
    assert only(tmp_path / "a.traj")[1]["energy"] == -14.25


def test_missing_keys_are_listed_with_a_guess():
    message = str(missing_label("energy", "REF_enery", keys_of(water("info", "REF_")), "a.xyz, frame 0"))
    assert message.startswith("a.xyz, frame 0: no energy under the key 'REF_enery'")
    assert "data.energy_key" in message
    assert "REF_energy, REF_forces, REF_stress" in message
    assert "did you mean 'REF_energy'?" in message


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xyz", b"", "is empty"),
        ("a.traj", b"", "is empty"),
        ("a.xyz", b"\n  \n\n", "is empty"),
        ("a.xyz.gz", gzip.compress(b"", mtime=0), "Empty file"),
        ("a.xyz", bytes(range(128, 256)), "frame 0 should begin with its number"),
        ("a.unknown", b"not a structure", "ASE does not know the format"),
        ("a.traj", b"- of Ulm, truncated", "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, words):
    path = write_bytes(tmp_path / name, content)
    with pytest.raises(InputError, match=words) as error:
        list(read_frames(path))
    assert str(error.value).startswith(str(path))


def test_absent_files_and_folders_are_refused(tmp_path):
    for path, words in ((tmp_path / "none.xyz", "does not exist"), (tmp_path, "is a folder; give its files")):
        with pytest.raises(InputError, match=words):
            list(read_frames(path))


def test_raw_files_of_qm9_are_no_extended_xyz(tmp_path):
    path = tmp_path / "dsgdb9nsd_000001.xyz"
    path.write_text("1\ngdb 1\t157.7\nC\t0\t0\t-6.03*^-3\t0\n3038.3\nC\tC\nInChI=1S/CH4/h1H4\n")
    with pytest.raises(
        InputError, match="is a raw file of QM9, which is no extended XYZ; train on such files by data=qm9"
    ):
        list(read_frames(path))


@pytest.mark.parametrize("written", ["1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"])
@pytest.mark.parametrize("virial", ["", " virial=none", ' virial="1 2"'])
def test_stress_of_six_numbers_beside_other_matrices(tmp_path, written, virial):
    path = tmp_path / "a.xyz"
    path.write_text(
        f'1\nProperties=species:S:1:pos:R:3 energy=1.5 stress="{written}"{virial} note="a stress=b"\nO 0 0 0\n'
    )
    atoms, labels, _ = only(path)
    assert labels["energy"] == 1.5
    assert labels["stress"].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert atoms.info.keys() - {"stress"} == {"note", *(["virial"] if virial else [])}


def test_labels_that_cannot_be_used_are_left_out_where_that_is_asked_for(tmp_path):
    path = tmp_path / "a.xyz"
    frames = ['energy=nan forces="1 2"', "energy=1.5 stress=high", "energy=2.5"]
    path.write_text("".join(f"1\nProperties=species:S:1:pos:R:3 {labels}\nO 0 0 0\n" for labels in frames))
    reasons = []
    found = [labels for _, labels, _ in read_frames(path, unusable=lambda *reason: reasons.append(reason))]
    assert found == [{}, {"energy": 1.5}, {"energy": 2.5}]
    assert [label for label, _ in reasons] == ["energy", "forces", "stress"]
    assert reasons[0][1].startswith(f"{path}, frame 0: 'energy' in ")
    assert reasons[2][1].startswith(f"{path}, frame 1: 'stress' in info is 'high'")


def test_a_cut_at_any_byte_is_noticed_or_harmless(tmp_path):
    whole = tmp_path / "whole.xyz"
    ase.io.write(whole, [water("calculator") for _ in range(2)])
    text = whole.read_text()
    frames = list(read_frames(whole))
    ends = {len(text) // 2, len(text)}
    for cut in range(1, len(text)):
        path = tmp_path / "cut.xyz"
        path.write_text(text[:cut])
        if cut in ends or cut + 1 in ends:
            assert len(list(read_frames(path))) == (1 if cut <= len(text) // 2 else 2)
            continue
        with pytest.raises(InputError, match=f"frame {int(cut > len(text) // 2)}"):
            list(read_frames(path))
    assert len(frames) == 2


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_truncated_compressed_files_are_noticed(tmp_path, compress):
    ase.io.write(tmp_path / "a.xyz", [water("calculator") for _ in range(4)])
    suffix = "gz" if compress is gzip.compress else "xz"
    content = compress((tmp_path / "a.xyz").read_bytes())
    path = write_bytes(tmp_path / f"b.xyz.{suffix}", content[: len(content) // 2])
    with pytest.raises(InputError, match=r"b\.xyz.*frame \d+ cannot be read: EOFError.*truncated"):
        list(read_frames(path))


def test_truncated_trajectories_are_noticed(tmp_path):
    ase.io.write(tmp_path / "a.traj", [water("calculator") for _ in range(4)])
    content = (tmp_path / "a.traj").read_bytes()
    path = write_bytes(tmp_path / "b.traj", content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"b\.traj.*cannot be read"):
        list(read_frames(path))


@pytest.mark.parametrize("name", ["D", "O1", "8"])
def test_names_that_are_no_symbols_are_told(tmp_path, name):
    path = tmp_path / "names.xyz"
    path.write_text(f"2\n\nH 0 0 0\n{name} 0 0 1\n")
    with pytest.raises(InputError, match=rf"names.xyz, frame 0: atom 1 is called '{name}', which is no symbol"):
        list(read_frames(path))
