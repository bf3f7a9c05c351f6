"""Opening LMDBs, for which an optional package is needed."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from eqmol.errors import InputError


class open_lmdb:  # noqa: N801  a context manager
    """Open an LMDB for reading; gives a function from keys to bytes, and the keys that are numbers, in their order.

    Raises:
        InputError: the package lmdb is not installed, or the file is no LMDB.
    """

    def __init__(self, path: Path) -> None:
        if find_spec("lmdb") is None:
            raise InputError(f'{path} needs the package lmdb: pip install "eqmol[oc20]"')
        import lmdb

        try:
            self._file = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise InputError(f"{path} is truncated or no LMDB ({error})") from error

    def __enter__(self) -> tuple[Callable[[bytes], bytes], list[bytes]]:
        self._transaction = self._file.begin()
        keys = [key for key in self._transaction.cursor().iternext(values=False) if key.isdigit()]
        return lambda key: bytes(self._transaction.get(key, b"")), sorted(keys, key=int)

    def __exit__(self, *_: object) -> None:
        self._transaction.abort()
        self._file.close()
