"""QM9's files from the network.

Nobody publishes a checksum of them that could be verified here, so they are judged by what they contain: all 133,885 molecules
in their order, and the numbers of the 3,054 uncharacterized ones.
"""

import tempfile
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pooch

from eqmol.data.places import not_found
from eqmol.data.qm9.reader import read_sdf, read_uncharacterized
from eqmol.errors import InputError

FILES = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip"
URL_UNCHARACTERIZED = "https://ndownloader.figshare.com/files/3195404"
ADVICE = (
    f"put {', '.join(FILES)} into one of these folders ({URL} and {URL_UNCHARACTERIZED}, the latter to be named {FILES[2]}), "
    "set EQMOL_DATA, or use data=qm9_sample"
)
#: Molecules in all, and those whose geometry does not fit their formula.
MOLECULES = 133_885
UNCHARACTERIZED = 3_054


def download(folder: Path) -> None:
    """Download QM9's raw files into a folder, all or none.

    Raises:
        InputError: they cannot be reached, or are not what they should be.
    """
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            place = Path(name)
            unzip = pooch.Unzip(members=list(FILES[:2]), extract_dir=".")
            pooch.retrieve(URL, known_hash=None, fname="qm9.zip", path=place, processor=unzip)
            pooch.retrieve(URL_UNCHARACTERIZED, known_hash=None, fname=FILES[2], path=place)
            verify(place)
            for file in FILES:
                (place / file).replace(folder / file)
    except (
        OSError,
        ValueError,
        BadZipFile,
    ) as error:  # no network, folder not writable; files missing from the archive
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise not_found("qm9", f"downloading it failed ({reason}); {ADVICE}") from error


def verify(folder: Path) -> None:
    """Tell whether the three files in a folder are QM9's.

    Raises:
        InputError: they are not.
    """
    molecules = read_sdf(*(folder / file for file in FILES[:2]))
    if not np.array_equal(molecules.ids, np.arange(1, MOLECULES + 1)):
        raise InputError(
            f"{URL} has {len(molecules)} molecules instead of gdb_1 to gdb_{MOLECULES} in this order; it is not QM9"
        )
    numbers = read_uncharacterized(folder / FILES[2])
    if len(numbers) != UNCHARACTERIZED:
        raise InputError(f"{URL_UNCHARACTERIZED} lists {len(numbers)} molecules instead of {UNCHARACTERIZED}")
