"""3BPA (``data=3bpa``) and the embedded sample in its format (``data=sample``).

3BPA: Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), doi 10.1021/acs.jctc.1c00647, in the form of Batatia et
al., arXiv:2205.06643: one molecule of 27 atoms, DFT energies in eV and forces in eV/Å.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pooch

from eqmol.data.datamodule import DataModule
from eqmol.data.places import find, not_found
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES

URL = (
    "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/29e6d467317e4b5967b7ea5cbee54de953fa0d45/dataset_3BPA/"
)
SHA256 = {
    "train_300K.xyz": "d109971fab90e2231ad931a83eb704c8d940f5c7d7a8de27fe3b84ea18634c0a",
    "train_mixedT.xyz": "bc108532964b2ed259eaaabf82e5dfaffa5bda9ac384fc2afabcce192a49250b",
    "iso_atoms.xyz": "e12a2465a2612bf38fd5dabdf64d4b57fc58ce9610a858c54ea1142d517c053f",
}
#: Published test sets, used where a person has put them; git blob ids from the same commit.
TESTS = {
    "300K": ("test_300K.xyz", "6ea840dfce31bd7667a26e592f3625729c90441b"),
    "600K": ("test_600K.xyz", "681d24eeb4e9193644e6db58193b50e205a5bc0f"),
    "1200K": ("test_1200K.xyz", "94beb5238c3573e4be4d368928460f951e07e513"),
}
#: Frames of train_mixedT.xyz that are hotter than 300 K throughout and not in train_300K.xyz.
HOT = slice(315, 500)
SAMPLE = ("train_300K.xyz", "test_300K.xyz", "test_600K.xyz", "iso_atoms.xyz")


class ThreeBPA(DataModule):
    """3BPA: 450 frames at 300 K train, 50 validate, the hot frames of ``train_mixedT.xyz`` test.

    Args:
        cutoff: Å.
        batch_size: structures per batch.
        num_workers: processes that collate.
        seed: of the split and of the batches.
        required: labels that the loss needs.
    """

    def __init__(
        self,
        *,
        cutoff: float,
        batch_size: int = 5,
        num_workers: int = 0,
        seed: int = 0,
        required: Sequence[str] = (ENERGY, FORCES),
    ) -> None:
        super().__init__(
            cutoff=cutoff,
            train_file="train_300K.xyz",
            val_fraction=0.1,
            isolated_atoms_file="iso_atoms.xyz",
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            required=required,
        )

    def prepare_data(self) -> None:
        """Download what is absent.

        Raises:
            InputError: the files are neither here nor reachable.
        """
        if find("3bpa", SHA256) is None:
            _download(Path("data", "3bpa"))

    def setup(self, stage: str | None = None) -> None:
        """Find the files, verify that they are the published ones, read them."""
        folder = find("3bpa", SHA256)
        if folder is None:
            raise not_found("3bpa", "call prepare_data() to download it, or use data=sample")
        for name, expected in SHA256.items():
            _verify(folder / name, pooch.file_hash(str(folder / name)), expected, "sha256")
        tests = {name: entry for name, entry in TESTS.items() if (folder / entry[0]).is_file()}
        for file, expected in tests.values():
            _verify(folder / file, _git_blob_id(folder / file), expected, "git blob id")
        self.folder = folder
        self.test_files = {name: file for name, (file, _) in tests.items()}
        super().setup(stage)

    def read_tests(self) -> dict[str, list[AtomGraph]]:
        """Return the hot frames, and the published test sets where they are."""
        hot = self.read("train_mixedT.xyz")[HOT]
        seen = [graph.pos for graph in (*self.train_graphs, *self.val_graphs)]
        assert not any(graph.pos.equal(pos) for graph in hot for pos in seen)
        return {"mixedT_hot": hot, **super().read_tests()}


class Sample(DataModule):
    """The embedded sample: the molecule of 3BPA with GFN2-xTB labels made by the project; see data/sample/README.md.

    Args:
        cutoff: Å.
        batch_size: structures per batch.
        num_workers: processes that collate.
        seed: of the split and of the batches.
        required: labels that the loss needs.
    """

    def __init__(
        self,
        *,
        cutoff: float,
        batch_size: int = 5,
        num_workers: int = 0,
        seed: int = 0,
        required: Sequence[str] = (ENERGY, FORCES),
    ) -> None:
        super().__init__(
            cutoff=cutoff,
            train_file="train_300K.xyz",
            val_fraction=0.1,
            test_files={"300K": "test_300K.xyz", "600K": "test_600K.xyz"},
            isolated_atoms_file="iso_atoms.xyz",
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            required=required,
        )

    def setup(self, stage: str | None = None) -> None:
        """Find the files and read them."""
        folder = find("sample", SAMPLE)
        if folder is None:
            raise not_found("sample", "it comes with the repository: run from a checkout")
        self.folder = folder
        super().setup(stage)


def _download(folder: Path) -> None:
    """Fetch the files of 3BPA into a folder; each appears there only when its sha256 is right."""
    pooch.get_logger().setLevel("WARNING")
    try:
        for name, expected in SHA256.items():
            pooch.retrieve(URL + name, known_hash=f"sha256:{expected}", fname=name, path=folder)
    except (OSError, ValueError) as error:  # no network, folder not writable; wrong hash
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise not_found(
            "3bpa",
            f"downloading it from {URL} failed ({reason}); put the files into one of these "
            "folders (data/README.md says how), set EQMOL_DATA, or use data=sample",
        ) from error


def _verify(path: Path, found: str, expected: str, kind: str) -> None:
    """Refuse a file that is not the published one."""
    if found != expected:
        raise InputError(
            f"{path} is not the published file: its {kind} is {found}, expected {expected}; remove it to have it "
            "downloaded again, or use it with data=xyz"
        )


def _git_blob_id(path: Path) -> str:
    """Return what `git hash-object` prints."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
