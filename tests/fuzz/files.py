"""Mutated files of every format, read within limits: ``python -m tests.fuzz.files --number 5000 --seed 0``.

Small files are made, mutated from a fixed seed and read in one worker process, whose memory and time are bounded and which
is started anew when it dies. A mutant is *right* where what was read is finite and fits together, *refused* where the reader
said so by :class:`eqmol.errors.InputError` (or listed a molecule as failed), *wrong* otherwise, among them other exceptions.
"""

import argparse
import gzip
import lzma
import math
import pickle
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rdkit import Chem

from eqmol import checkpoint
from eqmol.data.oc20.frame import Reading
from eqmol.data.oc20.readers.find import reader
from eqmol.data.oc20.shards import Shard, pack
from eqmol.data.qm9.reader import COLUMNS, read_sdf, read_xyz
from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError
from eqmol.files import read_npz
from eqmol.molecules.molecule import Molecule, from_smiles, read_molecules
from tests.data.oc20.files import record, relaxation, write_ase_lmdb, write_database, write_pickled, write_s2ef
from tests.recipes import recipe

MEMORY = 2 * 2**30  #: bytes that reading one file may take
SECONDS = 10
OUTCOMES = ("right", "refused", "wrong", "crashed", "over 2 GiB", "over 10 s")

#: What one file holds, read; raises InputError, or AssertionError where what was read is nonsense.
Check = Callable[[Path], None]


# --- what is read


def frames(path: Path) -> None:
    """Read by ``data=xyz`` and ``predict.py``."""
    for atoms, labels, _ in read_frames(path):
        assert len(atoms.get_atomic_numbers()) == len(atoms.positions)
        for value in labels.values():
            assert np.isfinite(value).all()


def oc20(path: Path) -> None:
    """Read by ``data=oc20``."""
    for frame, _ in reader(path.name)(path, 0, None, Reading()):
        sizes = {len(frame.positions), len(frame.tags), len(frame.fixed), len(frame.numbers)}
        assert len(sizes) == 1
        assert frame.numbers.min() > 0
        assert frame.forces is None or frame.forces.shape == frame.positions.shape


def molecules(path: Path) -> None:
    """Read by ``predict.py``; refused where a molecule failed."""
    found = list(read_molecules(path, conformers=1))
    for entry in found:
        if isinstance(entry, Molecule):
            assert len(entry.atoms()) > 0
    if not all(isinstance(entry, Molecule) for entry in found):
        raise InputError("a molecule failed")


def qm9(path: Path) -> None:
    """Read by ``data=qm9``."""
    found = read_sdf(path, path.with_suffix(".csv")) if path.suffix == ".sdf" else read_xyz([path])
    assert np.isfinite(found.positions).all()
    assert found.offsets[-1] == len(found.numbers)


def qm9_table(path: Path) -> None:
    """The table of QM9 beside a whole SDF."""
    qm9(path.with_suffix(".sdf"))


def arrays(path: Path) -> None:
    """An archive of NumPy."""
    for array in read_npz(path).values():
        assert array.dtype.kind in "biufSU"


def shard(path: Path) -> None:
    """A shard of OC20."""
    file = Shard(path)
    for row in range(len(file.array("energy"))):
        frame = file.frame(row)
        assert len(frame.numbers) == len(frame.positions)


def model(path: Path) -> None:
    """A model file."""
    found = checkpoint.load(path)
    assert all(torch.isfinite(tensor).all() for tensor in found.state_dict().values())


def last(path: Path) -> None:
    """A checkpoint of a run, as PyTorch reads it; what it says of a damaged file is a refusal."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        ValueError,
        OSError,
        TypeError,
        IndexError,
    ) as error:
        raise InputError(str(error)) from error


# --- what is mutated


def make(folder: Path) -> dict[str, tuple[Path, Check]]:
    """Write one small file of every kind; return name -> file, reader."""
    folder.mkdir(parents=True, exist_ok=True)
    water = ase.Atoms("OH2", [[0, 0, 0.1], [0, 0.75, -0.47], [0, -0.75, -0.47]], cell=[5, 5, 5], pbc=True)
    water.calc = SinglePointCalculator(water, energy=-14.0, forces=np.ones((3, 3)), stress=np.ones(6))
    systems = {"random1": relaxation(frames=2)}
    ase.io.write(folder / "a.extxyz", [water, water])
    ase.io.write(folder / "a.xyz", [water, water], format="xyz")
    ase.io.write(folder / "a.traj", [water, water])
    with ase.db.connect(folder / "b.db") as rows:
        rows.write(water)
    text = (folder / "a.extxyz").read_bytes()
    (folder / "a.xyz.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "a.extxyz.xz").write_bytes(lzma.compress(text))
    ase.io.write(folder / "POSCAR", water, format="vasp")
    mols = [from_smiles(smiles, conformers=1) for smiles in ("O", "CO", "c1ccccc1")]
    blocks = [Chem.MolToMolBlock(mol.mol) + "> <é>\n1\n\n$$$$\n" for mol in mols if isinstance(mol, Molecule)]
    (folder / "m.sdf").write_text("".join(blocks), "latin-1")
    (folder / "m.sdf.gz").write_bytes(gzip.compress("".join(blocks).encode(), mtime=0))
    (folder / "m.smi").write_text("O water\nCO methanol\nc1ccccc1 benzene\nC[C@H](N)C(=O)O alanine\n")
    (folder / "m.mol2").write_text(_MOL2)
    line = ",".join(map(str, range(1, len(COLUMNS) + 1)))
    table = "mol_id," + ",".join(COLUMNS) + "".join(f"\ngdb_{i},{line}" for i in (1, 2, 3)) + "\n"
    raw = "".join(f"gdb_{i + 1}\n" + block.partition("\n")[2] for i, block in enumerate(blocks))
    for name in ("q", "t"):
        (folder / f"{name}.sdf").write_text(raw, "latin-1")
        (folder / f"{name}.csv").write_text(table)
    (folder / "dsgdb9nsd_000001.xyz").write_text(
        "1\ngdb 1 " + " ".join(["1.5"] * 15) + "\nC 0.0 0.0 1.0*^-6 0.1\n1.0\nC C\nx x\n"
    )
    np.savez(folder / "refs.npz", coeff=np.linspace(-3, 0, 90))
    np.savez_compressed(folder / "deflated.npz", coeff=np.linspace(-3, 0, 90))
    torch.save([record(atoms, "random1", i) for i, atoms in enumerate(systems["random1"])], folder / "o.pt")
    found = [frame for frame, _ in reader("o.pt")(folder / "o.pt", 0, None, Reading())]
    (folder / "s.safetensors").write_bytes(pack(found, {}))
    torch.manual_seed(0)
    built = checkpoint.build(recipe())
    checkpoint.save(built, folder / "model.safetensors")
    torch.save({"state_dict": built.state_dict(), "epoch": 3, "loops": {"a": [1, 2.5, "b"]}}, folder / "last.ckpt")
    return {
        "xyz": (folder / "a.xyz", frames),
        "extxyz": (folder / "a.extxyz", frames),
        "xyz.gz": (folder / "a.xyz.gz", frames),
        "extxyz.xz": (folder / "a.extxyz.xz", frames),
        "traj": (folder / "a.traj", frames),
        "vasp": (folder / "POSCAR", frames),
        "db": (folder / "b.db", frames),
        "sdf": (folder / "m.sdf", molecules),
        "sdf.gz": (folder / "m.sdf.gz", molecules),
        "smi": (folder / "m.smi", molecules),
        "mol2": (folder / "m.mol2", molecules),
        "qm9 sdf": (folder / "q.sdf", qm9),
        "qm9 csv": (folder / "t.csv", qm9_table),
        "qm9 xyz": (folder / "dsgdb9nsd_000001.xyz", qm9),
        "npz": (folder / "refs.npz", arrays),
        "npz, deflated": (folder / "deflated.npz", arrays),
        "oc20 s2ef": (write_s2ef(folder / "s2ef", systems), oc20),
        "oc20 lmdb": (write_pickled(folder, systems), oc20),
        "oc20 lmdb, protocol 2": (write_pickled(folder / "2", systems, 2), oc20),
        "oc20 aselmdb": (write_ase_lmdb(folder, systems), oc20),
        "oc20 db": (write_database(folder, systems), oc20),
        "oc20 pt": (folder / "o.pt", oc20),
        "oc20 shard": (folder / "s.safetensors", shard),
        "model.safetensors": (folder / "model.safetensors", model),
        "last.ckpt": (folder / "last.ckpt", last),
    }


_MOL2 = """@<TRIPOS>MOLECULE
water
3 2 0 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
1 O 0.0 0.0 0.1 O.3 1 HOH 0.0
2 H1 0.0 0.75 -0.47 H 1 HOH 0.0
3 H2 0.0 -0.75 -0.47 H 1 HOH 0.0
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
"""
_WORDS = [
    b"\0", b"\xff\xfe", b"\xe9", b"nan", b"inf", b"-1", b"0", b"999999999", b"1e400", b"\n", b"\r\n", b" ", b"$$$$\n", b"=", b'"',
    b"9223372036854775808", b"_JSON [[[[", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"R.", b"\x85", b"\x94", b"]]]]",
]  # fmt: skip


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a content changed at few places: bits, bytes, words, pieces left out, repeated, moved or cut off."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        # headers are at the beginning and, in archives, at the end
        size = max(len(data), 1)
        at = int(
            rng.choice([rng.integers(size), rng.integers(min(size, 300)), size - 1 - rng.integers(min(size, 300))])
        )
        length = int(rng.choice([1, 4, 40, 400]))
        match int(rng.integers(8)):
            case 0 if data:
                data[at] ^= 1 << int(rng.integers(8))
            case 1 if data:
                data[at] = int(rng.integers(256))
            case 2:
                data[at:at] = _WORDS[rng.integers(len(_WORDS))]
            case 3:
                word = _WORDS[rng.integers(len(_WORDS))]
                data[at : at + len(word)] = word
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length] * int(rng.choice([1, 2, 50]))
            case 6:
                other = int(rng.integers(size))
                data[at : at + length] = data[other : other + length]
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def mutants(number: int, seed: int, sources: dict[str, tuple[Path, Check]]) -> Iterator[tuple[str, int, bytes]]:
    """Yield so many names of sources with the numbers of their mutants and their contents, the same for the same seed."""
    contents = {name: path.read_bytes() for name, (path, _) in sources.items()}
    for index in range(number):
        name = list(contents)[index % len(contents)]
        yield name, index, mutate(contents[name], np.random.default_rng([seed, index]))


# --- how it is judged


def judge(check: Check, path: Path) -> tuple[str, str]:
    """Read one file in this process; return the outcome, and what was said."""
    begin = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(path)
        outcome, said = "right", ""
    except InputError as error:
        outcome, said = "refused", str(error)
        if len(said) > 2000 or not said:
            outcome = "wrong"
    except MemoryError:
        outcome, said = "over 2 GiB", ""
    except Exception as error:  # a traceback for the user
        outcome, said = "wrong", f"{type(error).__name__}: {error}"
    return ("over 10 s" if time.monotonic() - begin > SECONDS else outcome), said[:300]


def _work(pipe: Connection, folder: Path) -> None:
    """Judge what is sent, in a process of its own."""
    torch.set_num_threads(1)
    sources = make(folder)
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        name, content = task
        path, check = sources[name]
        path.unlink()  # readers may still have the last one mapped
        path.write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, said = judge(check, path)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        pipe.send(("over 2 GiB" if grown > MEMORY else outcome, said))


class Worker:
    """A process that reads mutants, started anew when it dies or takes too long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self._start()

    def _start(self) -> None:
        self.starts += 1
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, self.folder / str(self.starts)), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def judge(self, name: str, content: bytes) -> tuple[str, str]:
        """Return the outcome of one mutant."""
        try:
            self.pipe.send((name, content))
            if self.pipe.poll(3 * SECONDS):
                return self.pipe.recv()
            outcome = "over 10 s"
        except (EOFError, OSError):
            outcome = "crashed"
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self._start()
        return outcome, f"exit code {code}" if outcome == "crashed" else ""

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; exit with 1 unless all mutants were right or refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.files", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--number", type=int, default=5000, help="of mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind of file")
    parser.add_argument("--keep", type=Path, help="folder for mutants that were neither right nor refused")
    given = parser.parse_args(arguments)
    counts: dict[str, Counter[str]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        sources = make(Path(name) / "made")
        if given.only:
            sources = {given.only: sources[given.only]}
        worker = Worker(Path(name))
        for kind, index, content in mutants(given.number, given.seed, sources):
            outcome, said = worker.judge(kind, content)
            counts.setdefault(kind, Counter())[outcome] += 1
            if outcome not in ("right", "refused"):
                print(f"{kind}, mutant {index} of seed {given.seed}: {outcome} {said}", flush=True)
                if given.keep is not None:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{given.seed}-{index}-{sources[kind][0].name}").write_bytes(content)
        worker.close()
    width = max(map(len, counts)) if counts else 0
    print(" " * width, *(f"{outcome:>10}" for outcome in OUTCOMES))
    total: Counter[str] = Counter()
    for kind, found in counts.items():
        print(f"{kind:{width}}", *(f"{found[outcome]:>10}" for outcome in OUTCOMES))
        total += found
    print(f"{'all':{width}}", *(f"{total[outcome]:>10}" for outcome in OUTCOMES))
    print(f"{total.total()} mutants in {math.ceil(time.monotonic() - begin)} s")
    return int(total["right"] + total["refused"] < total.total())


if __name__ == "__main__":
    sys.exit(main())
