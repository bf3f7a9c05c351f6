"""Raw files of every form become the same shards, and nothing wrong passes."""

import lzma
import os
import pickle
import platform
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ase.constraints import FixAtoms

from eqmol.cli.prepare import main
from eqmol.data.oc20 import prepare as prepare_module
from eqmol.data.oc20.frame import Frame, adsorbate, infer_tags, why_dropped
from eqmol.data.oc20.prepare import prepare
from eqmol.data.oc20.shards import Index, Shard, pack
from eqmol.data.parallel import run_parallel
from eqmol.errors import InputError
from eqmol.graph import from_atoms
from tests.data.oc20.files import (
    REFERENCE,
    WRITERS,
    changed,
    record,
    relaxation,
    write_lmdb,
    write_s2ef,
    write_trajectories,
)

SYSTEMS = {"random1": relaxation(), "random2": relaxation("Pt", "O", seed=1)}
NEEDS_LMDB = ("lmdb", "aselmdb")


def read(folder: Path, index: Index) -> list[Frame]:
    """All frames of all shards."""
    return [
        shard.frame(row)
        for shard in (Shard(folder / entry.file) for entry in index.shards)
        for row in range(len(shard.array("energy")))
    ]


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_frames(tmp_path, form):
    if form in NEEDS_LMDB:
        pytest.importorskip("lmdb")
    WRITERS[form](tmp_path / "raw", SYSTEMS)
    index = prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    index.verify(tmp_path / "out")
    frames = sorted(read(tmp_path / "out", index), key=lambda frame: (frame.system, frame.number))
    expected = [(system, i, atoms) for system, steps in SYSTEMS.items() for i, atoms in enumerate(steps)]
    assert len(frames) == len(expected)
    for frame, (system, number, atoms) in zip(frames, expected, strict=True):
        assert (frame.system, frame.number) == (system, number)
        assert np.array_equal(frame.numbers, atoms.numbers)
        assert np.array_equal(frame.positions, atoms.positions)
        assert np.array_equal(frame.cell, atoms.cell.array)
        assert np.array_equal(frame.tags, atoms.get_tags())
        assert np.array_equal(np.flatnonzero(frame.fixed), atoms.constraints[0].index)
        assert np.array_equal(frame.forces, atoms.calc.results["forces"])  # also those of fixed atoms
        adsorption = {"s2ef": REFERENCE, "lmdb": 0.0}.get(form, np.nan)
        assert frame.reference == adsorption or np.isnan([frame.reference, adsorption]).all()
        total = frame.energy + (REFERENCE if form == "lmdb" else 0.0)
        assert total == pytest.approx(atoms.calc.results["energy"], abs=1e-12)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads the maps of this process")
def test_shards_are_mapped_and_not_copied(tmp_path):
    """Their pages are those of the file, which all processes that read them share."""
    atoms = relaxation()[0] * (10, 10, 1)
    flags = np.zeros(len(atoms), np.int8)
    frame = Frame(
        "a", 0, atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, flags, flags > 0, 0.0, 0.0, atoms.positions
    )
    (tmp_path / "many").write_bytes(pack([frame] * 100, {"source": "x"}))
    shard = Shard(tmp_path / "many")
    assert np.array_equal(shard.frame(99).positions, frame.positions)
    (found,) = (one for one in psutil.Process().memory_maps() if one.path == str(tmp_path / "many"))
    assert found.size == -(-(tmp_path / "many").stat().st_size // 4096) * 4096
    assert found.anonymous == 0


def test_shards_are_a_function_of_the_raw_files(tmp_path):
    write_s2ef(tmp_path / "raw", SYSTEMS)
    write_trajectories(tmp_path / "raw" / "more", SYSTEMS)
    for name, workers in (("a", 1), ("b", 2)):
        prepare(tmp_path / "raw", tmp_path / name, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == [
        "0.extxyz.xz.safetensors",
        "index.json",
        "more/random1.traj.safetensors",
        "more/random2.traj.safetensors",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_continues_to_the_same_bytes(tmp_path):
    systems = {f"random{i}": relaxation(seed=i, frames=20) for i in range(40)}
    write_trajectories(tmp_path / "raw", systems)
    prepare(tmp_path / "raw", tmp_path / "whole", workers=1)
    run = get_context("fork").Process(target=prepare, args=(tmp_path / "raw", tmp_path / "out"), kwargs={"workers": 1})
    run.start()
    while not list(tmp_path.glob("out/*.safetensors")) and run.is_alive():
        time.sleep(0.001)
    run.kill()
    run.join()
    assert not (tmp_path / "out" / "index.json").exists()
    killed = contents(tmp_path / "out")
    shard = max(contents(tmp_path / "whole"))  # the last one, of which the killed run may have written a part
    (tmp_path / "out" / f".{shard}.{platform.node()}-4194305.tmp").write_text("half")  # no process has this id
    done = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in killed if path.endswith("safetensors")}
    prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    for path, time_before in done.items():  # what was complete is not made again
        if not path.startswith("."):
            assert (tmp_path / "out" / path).stat().st_mtime_ns == time_before


def test_a_killed_process_is_an_error_and_no_hang():
    with pytest.raises(InputError, match="one of 2 processes was killed"):
        run_parallel(os._exit, [(1,), (1,)], "", workers=2)


def test_unchanged_files_are_not_read_again_and_changed_ones_are(tmp_path, monkeypatch):
    write_trajectories(tmp_path / "raw", SYSTEMS)
    first = prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    made = []
    make = prepare_module._make
    monkeypatch.setattr(prepare_module, "_make", lambda *task: made.append(task) or make(*task))
    assert prepare(tmp_path / "raw", tmp_path / "out", workers=1) == first
    assert not made
    write_trajectories(tmp_path / "raw", {"random2": relaxation("Pt", "O", seed=5)})
    second = prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    assert [a == b for a, b in zip(first.shards, second.shards, strict=True)] == [True, False]


def test_bad_frames_are_dropped_and_counted(tmp_path, capsys):
    frames = relaxation(frames=6)
    changed(frames[1], forces=np.where(np.arange(10)[:, None] == 5, 51.0, frames[1].calc.results["forces"]))
    changed(frames[2], forces=np.full((10, 3), np.nan))
    changed(frames[3], energy=np.inf)
    changed(frames[4], forces=np.where(np.arange(10)[:, None] == 0, 300.0, frames[4].calc.results["forces"]))  # fixed
    write_trajectories(tmp_path / "raw", {"random1": frames})
    assert main([str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    for words in ("|F| > 50 eV/Å: 1", "│ 3 "):
        assert words in printed
    (entry,) = Index.read(tmp_path / "out").shards
    assert entry.frames == 3
    assert entry.dropped == [
        ["random1.traj, frame 1", "|F| > 50 eV/Å"],
        ["random1.traj, frame 2", "forces are not finite"],
        ["random1.traj, frame 3", "energy is not finite"],
    ]


def test_positions_that_are_not_finite():
    atoms = relaxation(frames=1)[0]
    one = Frame("a", 0, atoms.numbers, atoms.positions * np.nan, atoms.cell.array, atoms.pbc, [], [], 0.0, 0.0, None)
    assert why_dropped(one) == "positions are not finite"


def test_inferred_tags_follow_the_rule():
    numbers, fixed = np.array([29, 8, 29, 29, 6, 8], np.uint8), np.array([1, 0, 0, 0, 0, 0], bool)
    assert infer_tags(numbers, fixed).tolist() == [0, 1, 1, 1, 2, 2]
    assert adsorbate(numbers, infer_tags(numbers, fixed)) == "CO"
    untagged = [atoms.copy() for atoms in SYSTEMS["random1"]]
    assert infer_tags(untagged[0].numbers, np.arange(10) < 4).tolist() == untagged[0].get_tags().tolist()


def without_tags(systems):
    for steps in systems.values():
        for atoms in steps:
            atoms.set_tags(0)
    return systems


def test_tags_may_come_from_beside_the_files_or_be_inferred(tmp_path):
    write_trajectories(tmp_path / "raw", without_tags({"random1": relaxation()}))
    with pytest.raises(InputError, match=r"random1\.traj, frame 0: the tags do not mark .* but are \[0\]"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").rglob("*"))
    inferred = prepare(tmp_path / "raw", tmp_path / "a", workers=1, infer_tags=True)
    (tmp_path / "raw" / "inferred_tags.json").write_text(
        '{"random1.traj": {"natoms": 10, "adsorbate_indices": [8, 9], "fixed_indices": [0, 1, 2, 3]}}'
    )
    given = prepare(tmp_path / "raw", tmp_path / "b", workers=1)
    tags = [read(tmp_path / name, index)[0].tags.tolist() for name, index in (("a", inferred), ("b", given))]
    assert tags[0] == tags[1] == [0] * 4 + [1] * 4 + [2] * 2


def edited(path: Path, change) -> None:
    """Change the text of an .xz or a plain file."""
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(change(lzma.decompress(path.read_bytes()).decode()).encode()))
    else:
        path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("0.txt", lambda s: s[: s.rindex("random2")], ["0.extxyz.xz has more frames than the 7 lines", "0.txt"]),
        ("0.txt", lambda s: s + "random2,frame9,-1.0\n", ["has 8 frames for the 9 lines", "0.txt"]),
        ("0.txt", lambda s: s.replace(",-30.0", ",", 1), ["0.txt, line 1", "'random1,frame0,'", "reference energy"]),
        ("0.txt", lambda s: s.replace(",-30.0", ",nan", 1), ["0.txt, line 1", "nan"]),
        ("0.extxyz.xz", lambda s: s[:-900], ["0.extxyz.xz, frame 7 is truncated"]),
        ("0.extxyz.xz", lambda s: s[:-5], ["frame 7"]),
        ("0.extxyz.xz", lambda s: s.replace("tags:I:1:", "", 1), ["frame 0: not every atom has the 8 columns"]),
        ("0.extxyz.xz", lambda s: s.replace("forces:R:3", "force:R:3", 1), ["frame 0 has no forces"]),
        ("0.extxyz.xz", lambda s: s.replace(" energy=", " e=", 1), ["frame 0 has no energy"]),
        ("0.extxyz.xz", lambda s: s.replace("\nCu ", "\nXx ", 1), ["frame 0", "'Xx'"]),
        (
            "0.extxyz.xz",
            lambda s: s.replace('Lattice="', 'Lattice="0 0 0 0 0 0 0 0 0" L="', 1),
            ["frame 0", "singular"],
        ),
    ],
)
def test_published_files_that_are_wrong(tmp_path, file, change, words):
    write_s2ef(tmp_path / "raw", SYSTEMS)
    edited(tmp_path / "raw" / file, change)
    with pytest.raises(InputError) as error:
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    for word in words:
        assert word in str(error.value)
    assert not list((tmp_path / "out").rglob("*"))


def test_a_damaged_archive_and_a_missing_list(tmp_path):
    path = write_s2ef(tmp_path / "raw", SYSTEMS)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"0\.extxyz\.xz cannot be read .*: EOFError .* is it truncated"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    path.write_bytes(content)
    (tmp_path / "raw" / "0.txt").unlink()
    with pytest.raises(InputError, match=r"no 0\.txt beside it, which holds the reference energies"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forces": None}, "frame 2 has no forces"),
        ({"energy": None}, "frame 2 has no energy"),
    ],
)
def test_trajectories_without_labels(tmp_path, change, words):
    frames = relaxation()
    changed(frames[2], **change)
    write_trajectories(tmp_path / "raw", {"random1": frames})
    with pytest.raises(InputError, match=rf"random1\.traj, {words}"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)


@pytest.mark.parametrize("form", WRITERS)
def test_atomic_numbers_that_are_no_element(tmp_path, form):
    if form in NEEDS_LMDB:
        pytest.importorskip("lmdb")
    (frame, *_) = relaxation()
    number = 256 + 29 if form in ("traj", "lmdb") else 0  # a byte holds only the remainder, copper
    for atoms in (frame, frame.calc.atoms):
        atoms.numbers[5] = number
    WRITERS[form](tmp_path / "raw", {"random1": [frame]})
    with pytest.raises(InputError, match=r"frame 0: atom 5 (is a dummy|has the atomic number 285)"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)


def test_a_truncated_trajectory(tmp_path):
    path = write_trajectories(tmp_path / "raw", {"random1": relaxation()})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"random1\.traj"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)


@pytest.mark.parametrize("missing", ["tags", "fixed", "force", "y", "cell"])
def test_records_without_a_field(tmp_path, missing):
    pytest.importorskip("lmdb")
    data = record(relaxation()[0], "random1", 0)
    delattr(data, missing)
    write_lmdb(tmp_path / "raw", {b"0": pickle.dumps(data)})
    with pytest.raises(
        InputError, match=rf"data\.0000\.lmdb, frame 0 has no {'energy' if missing == 'y' else missing}"
    ):
        prepare(tmp_path / "raw", tmp_path / "out", workers=1)


def test_an_lmdb_that_executes_is_refused(tmp_path):
    pytest.importorskip("lmdb")

    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'canary'}",)

    write_lmdb(
        tmp_path / "raw", {b"0": pickle.dumps(record(relaxation()[0], "random1", 0)), b"1": pickle.dumps(Harmful())}
    )
    with pytest.raises(InputError, match=r"data\.0000\.lmdb, frame 1: the pickle asks to import posix\.system"):
        prepare(tmp_path / "raw", tmp_path / "out", workers=2)
    assert not (tmp_path / "canary").exists()
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_what_is_no_lmdb(tmp_path):
    (tmp_path / "data.lmdb").write_bytes(b"x" * 9000)
    with pytest.raises(InputError, match=r"data\.lmdb is no LMDB"):
        prepare(tmp_path, tmp_path / "out", workers=1)


def test_rows_without_a_system_are_kept_together_by_composition_and_cell(tmp_path):
    import ase.db

    with ase.db.connect(tmp_path / "a.db") as rows:
        for steps in SYSTEMS.values():
            for atoms in steps:
                rows.write(atoms)
    frames = read(tmp_path / "out", prepare(tmp_path, tmp_path / "out", workers=1))
    assert len({frame.system for frame in frames}) == 2
    assert len({frame.system for frame in frames[:4]}) == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_shards_are_named(tmp_path, damage):
    write_s2ef(tmp_path / "raw", SYSTEMS)
    index = prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    path = tmp_path / "out" / index.shards[0].file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    words = {"truncate": "is truncated", "flip": "is damaged: its sha256", "remove": "is missing"}[damage]
    with pytest.raises(InputError, match=rf"the shard .*0\.extxyz\.xz\.safetensors {words}"):
        index.verify(tmp_path / "out")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 9}', '{"format": 1, "shards": [1]}'])
def test_a_damaged_index(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json is"):
        Index.read(tmp_path)


@pytest.mark.parametrize("arguments", [["nowhere"], ["."]])
def test_the_command_fails_in_one_sentence(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_forces_on_fixed_atoms_are_those_of_the_file(tmp_path):
    atoms = relaxation(frames=1)
    assert isinstance(atoms[0].constraints[0], FixAtoms)
    assert not atoms[0].get_forces()[:4].any()  # ASE's default
    write_trajectories(tmp_path / "raw", {"random1": atoms})
    (frame,) = read(tmp_path / "out", prepare(tmp_path / "raw", tmp_path / "out", workers=1))
    assert frame.forces[:4].all()
    assert torch.is_tensor(from_atoms(atoms[0], 3.0, tags=frame.tags, fixed=frame.fixed).fixed)


@pytest.mark.realdata
def test_the_real_frames(tmp_path):
    raw = Path(os.environ["EQMOL_DATA"]) / "oc20"
    index = prepare(raw, tmp_path)
    kinds = {entry.file: (entry.kind, entry.frames) for entry in index.shards}
    assert sum(frames for kind, frames in kinds.values() if kind == "s2ef") == 3844 - 7
    assert kinds["is2re/is2re_bs3.pt.safetensors"] == ("is2re", 3)
    dropped = sorted(place for entry in index.shards for place, _ in entry.dropped)
    names = (1000103, 1000117, 1000120, 1000157, 1000179, 1000187, 1000193)
    assert dropped == [f"trajectories/random{name}.traj, frame 1" for name in names]
