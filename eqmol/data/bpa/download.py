"""3BPA's files from the network, and whether files are the published ones."""

import hashlib
from pathlib import Path

import pooch

from eqmol.data.places import not_found
from eqmol.errors import InputError

URL = (
    "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/29e6d467317e4b5967b7ea5cbee54de953fa0d45/dataset_3BPA/"
)
SHA256 = {
    "train_300K.xyz": "d109971fab90e2231ad931a83eb704c8d940f5c7d7a8de27fe3b84ea18634c0a",
    "train_mixedT.xyz": "bc108532964b2ed259eaaabf82e5dfaffa5bda9ac384fc2afabcce192a49250b",
    "iso_atoms.xyz": "e12a2465a2612bf38fd5dabdf64d4b57fc58ce9610a858c54ea1142d517c053f",
}
#: Published test sets: molecular dynamics at three temperatures, and scans of dihedral angles; git blob ids from the same commit.
TESTS = {
    "300K": ("test_300K.xyz", "6ea840dfce31bd7667a26e592f3625729c90441b"),
    "600K": ("test_600K.xyz", "681d24eeb4e9193644e6db58193b50e205a5bc0f"),
    "1200K": ("test_1200K.xyz", "94beb5238c3573e4be4d368928460f951e07e513"),
    "dihedral": ("test_dih.xyz", "7bdd390b9aed0a677dd8036a3a5055a0b648d1f5"),
}


def download(folder: Path) -> None:
    """Fetch the files of 3BPA into a folder, with the test sets; one whose hash is wrong does not stay there."""
    pooch.get_logger().setLevel("WARNING")
    try:
        for name, expected in SHA256.items():
            pooch.retrieve(URL + name, known_hash=f"sha256:{expected}", fname=name, path=folder)
        for name, expected in TESTS.values():
            pooch.retrieve(URL + name, known_hash=None, fname=name, path=folder)
            if (found := git_blob_id(folder / name)) != expected:
                (folder / name).unlink()
                raise ValueError(f"the git blob id of {name} is {found}, not {expected}")
    except (OSError, ValueError) as error:  # no network, folder not writable; wrong hash
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise not_found(
            "3bpa",
            f"downloading it from {URL} failed ({reason}); put the files into one of these "
            "folders (data/README.md says how), set EQMOL_DATA, or use data=sample",
        ) from error


def verify(folder: Path) -> dict[str, str]:
    """Tell whether the files in a folder are the published ones; return the test sets that are there, name -> file.

    Raises:
        InputError: one is not.
    """
    tests = {name: file for name, (file, _) in TESTS.items() if (folder / file).is_file()}
    found = {file: ("sha256", pooch.file_hash(str(folder / file)), expected) for file, expected in SHA256.items()}
    for file, blob in TESTS.values():
        if file in tests.values():
            found[file] = ("git blob id", git_blob_id(folder / file), blob)
    for file, (kind, own, expected) in found.items():
        if own != expected:
            raise InputError(
                f"{folder / file} is not the published file: its {kind} is {own}, expected {expected}; remove it to have it "
                "downloaded again, or use it with data=xyz"
            )
    return tests


def git_blob_id(path: Path) -> str:
    """Return what `git hash-object` prints."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
