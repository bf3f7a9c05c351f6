"""All data sets, each by the same tests."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from eqmol.data.bpa import datamodule, download
from eqmol.data.bpa.datamodule import Sample, ThreeBPA
from eqmol.data.molecules.datamodule import MoleculeSets
from eqmol.data.oc20.datamodule import OC20
from eqmol.data.qm9.datamodule import QM9
from eqmol.data.xyz.datamodule import FileSets
from tests.data.oc20.files import relaxation, write_s2ef
from tests.data.suite import DataSetTests

DATA = Path(__file__).parents[2] / "data"
OWN = {"q": {"kind": "atomic", "unit": "e"}, "mu": {"kind": "dipole", "unit": "D"}}


def write_frames(path: Path) -> None:
    """Write free atoms and molecules, some of which have charges and dipole moments."""
    rng = np.random.default_rng(0)
    frames = [ase.Atoms([z], info={"energy": -10.0 * z}, calculator=None) for z in (1, 6, 8)]
    for number in range(24):
        atoms = molecule(("H2O", "CH4", "CH3OH")[number % 3])
        atoms.rattle(0.05, rng=rng)
        atoms.info |= {"energy": float(-10.0 * atoms.numbers.sum() - rng.normal(3.0 * len(atoms)))}
        atoms.arrays["forces"] = rng.normal(size=(len(atoms), 3))
        if number % 4:
            atoms.info["mu"] = rng.normal(size=3)
            atoms.arrays["q"] = rng.normal(size=len(atoms))
        frames.append(atoms)
    ase.io.write(path, frames)


class TestFiles(DataSetTests):
    group = "data=xyz"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        write_frames(folder / "mine.xyz")

    @classmethod
    def make(cls, folder: Path, **options: Any) -> FileSets:
        return FileSets(train_file=folder / "mine.xyz", val_fraction=0.2, **options)

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        return [f"data.train_file={folder / 'mine.xyz'}", "data.val_fraction=0.2"]


class TestOwnTargets(TestFiles):
    @classmethod
    def make(cls, folder: Path, **options: Any) -> FileSets:
        return super().make(folder, targets=OWN, required=tuple(OWN), **options)

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        declared = "{q: {kind: atomic, unit: e}, mu: {kind: dipole, unit: D}}"
        own = ["task=properties", "predictor=properties", "task.target=[q,mu]", f"data.targets={declared}"]
        return [*super().options(folder), *own, "model.degree_out=1"]


def copy_frames(source: Path, target: Path, first: int, count: int) -> Path:
    """Copy some frames of 27 atoms."""
    lines = source.read_text().splitlines(keepends=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines[29 * first : 29 * (first + count)]))
    return target


class TestSample(DataSetTests):
    group = "data=sample"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        for file, count in (("train_300K.xyz", 20), ("test_300K.xyz", 3), ("test_600K.xyz", 3)):
            copy_frames(DATA / "sample" / file, folder / "data" / "sample" / file, 0, count)
        shutil.copy(DATA / "sample" / "iso_atoms.xyz", folder / "data" / "sample")

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Sample:
        return Sample(**options)


class TestThreeBPA(DataSetTests):
    """The files are frames of the sample, and published for the time of these tests."""

    group = "data=3bpa"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        place = folder / "data" / "3bpa"
        copy_frames(DATA / "sample" / "train_300K.xyz", place / "train_300K.xyz", 0, 20)
        copy_frames(DATA / "sample" / "train_300K.xyz", place / "train_mixedT.xyz", 10, 14)
        file = copy_frames(DATA / "sample" / "test_600K.xyz", place / "test_600K.xyz", 0, 3)
        shutil.copy(DATA / "sample" / "iso_atoms.xyz", place)
        for name in download.SHA256:
            patch.setitem(download.SHA256, name, hashlib.sha256((place / name).read_bytes()).hexdigest())
        patch.setitem(download.TESTS, "600K", (file.name, download.git_blob_id(file)))
        patch.setattr(datamodule, "HOT", slice(10, 14))

    @classmethod
    def make(cls, folder: Path, **options: Any) -> ThreeBPA:
        return ThreeBPA(**options)


class TestQM9(DataSetTests):
    group = "data=qm9"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        source, target = DATA / "qm9_sample", folder / "data" / "qm9"
        target.mkdir(parents=True)
        records = (source / "gdb9.sdf").read_text().split("$$$$\n")
        (target / "gdb9.sdf").write_text("".join(f"{record}$$$$\n" for record in records[:30]))
        rows = (source / "gdb9.sdf.csv").read_text().splitlines(keepends=True)
        (target / "gdb9.sdf.csv").write_text("".join(rows[:31]))
        (target / "uncharacterized.txt").write_text("7 gdb_7\n")

    @classmethod
    def make(cls, folder: Path, **options: Any) -> QM9:
        return QM9(required=("U0", "mu", "r2", "gap"), **options)

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        return ["task.target=[U0,mu]", "data.split_file=null"]


class TestOC20(DataSetTests):
    group = "data=oc20"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        systems = [(metal, guest) for metal in ("Cu", "Pt") for guest in ("CO", "O", "OH", "C")]
        frames = {f"random{i}": relaxation(*names, i, frames=3) for i, names in enumerate(systems)}
        write_s2ef(folder / "data" / "oc20", frames)

    @classmethod
    def make(cls, folder: Path, **options: Any) -> OC20:
        return OC20(held_out=2, **options)

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        return ["data.num_workers=0"]


class TestMolecules(DataSetTests):
    group = "data=molecules"

    @classmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        smiles = ("C", "CO", "CCO", "CC", "CCC", "C=C", "CC=O", "C#C", "N", "CN", "CCN", "O", "C1CC1", "C1CO1")
        rows = [f"{each},{i},{i**2 if i % 2 else ''}" for i, each in enumerate(smiles)]
        (folder / "mine.csv").write_text("\n".join(["smiles,logS,tpsa", *rows]))

    @classmethod
    def make(cls, folder: Path, **options: Any) -> MoleculeSets:
        return MoleculeSets(file=folder / "mine.csv", required=("logS", "tpsa"), conformers=1, **options)

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        return [f"data.file={folder / 'mine.csv'}", "task.target=[logS,tpsa]", "data.conformers=1"]
