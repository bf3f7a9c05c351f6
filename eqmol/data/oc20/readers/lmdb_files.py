"""Reading LMDBs page by page, every number of the file checked before it is followed.

The C library maps the file into memory and follows its page numbers; in a truncated or damaged file they lead behind its
end, where the process dies without a word. The layout read here is data version 1 of 64-bit little-endian machines, which
is that of LMDB 0.9 (``mdb.c``, "struct MDB_page", "MDB_meta", "MDB_db", "MDB_node").
"""

import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eqmol.errors import InputError

_PAGE = struct.Struct("<QHHHH")  # number, padding, flags, end of the pointers, begin of the nodes; 16 bytes
_META = struct.Struct(
    "<II16x48xIHH24xQQQ"
)  # magic, version, of the main tree: padding, flags, depth, entries, root; last page
_NODE = struct.Struct("<HHHH")  # low and high half of the value's size, flags, size of the key
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_BIG, _SUBTREE, _DUPLICATES = 1, 2, 4  #: flags of a node
_OTHER_ORDERS = 0x02 | 0x04 | 0x08  #: flags of a tree: reversed keys, several values per key, keys as integers
_NOTHING = 2**64 - 1
_MAX_DEPTH = 32


class Entries:
    """The entries of an LMDB whose keys are numbers, in the order of these numbers.

    Args:
        path: the file, or the folder with its ``data.mdb``.

    Raises:
        InputError: no LMDB, or a truncated or damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path / "data.mdb" if path.is_dir() else path, "rb")  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        self._size = os.fstat(self._file.fileno()).st_size
        #: The keys, as the file has them.
        self.keys: list[bytes] = []
        self._starts, self._sizes = array("q"), array("q")
        try:
            self._page_size, root, depth, entries = self._read_meta()
            self._walk(root, depth, entries)
        except BaseException:
            self._file.close()
            raise
        order = sorted(range(len(self.keys)), key=lambda i: int(self.keys[i]))
        self.keys = [self.keys[i] for i in order]
        self._starts, self._sizes = (array("q", np.asarray(a)[order].tobytes()) for a in (self._starts, self._sizes))

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def value(self, index: int) -> bytes:
        """Return the value of ``keys[index]``."""
        start, size = self._starts[index], self._sizes[index]
        if start >= 0:
            return self._read(start, size)
        content = self._read(-start, _PAGE.size + size)  # in pages of its own
        number, _, flags, low, high = _PAGE.unpack_from(content)
        if number * self._page_size != -start or flags & 0xF != _OVERFLOW:
            raise self._damaged(
                f"page {-start // self._page_size} is not one of the value of {self.keys[index].decode()}"
            )
        if (low + (high << 16)) * self._page_size < len(content):
            raise self._damaged(f"the value of {self.keys[index].decode()} is longer than its pages")
        return content[_PAGE.size :]

    def _read_meta(self) -> tuple[int, int, int, int]:
        """Return the size of pages, and root, depth and number of entries of the tree, of the later of two meta pages."""
        if self._size < 2 * 512:
            raise InputError(f"{self.path} is truncated or no LMDB: it has {self._size} bytes")
        found = []
        page_size = struct.unpack("<I", self._read(_PAGE.size + 24, 4))[0]  # padding of the tree of free pages
        if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
            raise InputError(f"{self.path} is no LMDB of a usual machine, or its first page is damaged")
        for start in (0, page_size):
            content = self._read(start, _PAGE.size + _META.size)
            flags = _PAGE.unpack_from(content)[2]
            magic, version, _, tree, depth, entries, root, last = _META.unpack_from(content, _PAGE.size)
            if (magic, version) != (_MAGIC, _VERSION) or not flags & _IS_META:
                raise InputError(f"{self.path} is no LMDB of data version {_VERSION}, or its first pages are damaged")
            if tree & _OTHER_ORDERS:
                raise InputError(f"{self.path} is an LMDB with several values per key or keys in an order of their own")
            transaction = struct.unpack("<Q", self._read(start + _PAGE.size + 128, 8))[0]
            found.append((transaction, root, depth, entries, last))
        _, root, depth, entries, last = max(found)
        self._promised = (last + 1) * page_size
        return page_size, root, depth, entries

    def _walk(self, root: int, depth: int, entries: int) -> None:
        """Visit every leaf, in order."""
        if root == _NOTHING:
            return
        if depth > _MAX_DEPTH:
            raise self._damaged(f"its tree is {depth} pages deep")
        count, total, last = 0, 0, b""
        seen: set[int] = set()
        waiting = [(root, depth)]
        while waiting:
            number, below = waiting.pop()
            if number in seen:
                raise self._damaged(f"its tree comes to page {number} twice")
            seen.add(number)
            page, nodes = self._page(number, _LEAF if below <= 1 else _BRANCH)
            if below > 1:
                # the number of a page takes the place of the value's size and flags
                children = [low + (high << 16) + (flags << 32) for _, low, high, flags, _ in nodes]
                waiting.extend((child, below - 1) for child in reversed(children))
                continue
            for at, low, high, flags, key_size in nodes:
                count, size = count + 1, low + (high << 16)
                begin = at + _NODE.size + key_size
                if begin + (8 if flags & _BIG else size) > len(page):
                    raise self._damaged(f"a node of page {number} ends behind it")
                key = page[at + _NODE.size : begin]
                if key <= last:
                    raise self._damaged("its keys are not in their order")
                last = key
                if not key.isdigit():
                    continue
                if flags & (_SUBTREE | _DUPLICATES):
                    raise self._damaged(f"the entry {key.decode()} is not a value")
                start = number * self._page_size + begin
                if flags & _BIG:
                    start = -struct.unpack_from("<Q", page, begin)[0] * self._page_size
                    self._check(-start, _PAGE.size + size)
                total += size
                self.keys.append(key)
                self._starts.append(start)
                self._sizes.append(size)
        if count != entries:
            raise self._damaged(f"its tree has {count} entries and announces {entries}")
        if total > self._size:
            raise self._damaged("its entries share their values")

    def _page(self, number: int, kind: int) -> tuple[bytes, Iterator[tuple[int, int, int, int, int]]]:
        """Return a page of the tree and, of its nodes, the place in it, the parts of the size, flags and the key's size."""
        page = self._read(number * self._page_size, self._page_size)
        found, _, flags, lower, upper = _PAGE.unpack_from(page)
        if found != number or flags & 0x2F != kind:
            raise self._damaged(f"page {number} is not one of its tree")
        if not _PAGE.size <= lower <= upper <= len(page) or lower % 2:
            raise self._damaged(f"page {number} is not filled as it says")
        places = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)
        if any(not upper <= at <= len(page) - _NODE.size for at in places):
            raise self._damaged(f"page {number} has nodes outside of it")
        return page, ((at, *_NODE.unpack_from(page, at)) for at in places)

    def _check(self, start: int, size: int) -> None:
        """Refuse what lies behind the end of the file."""
        if not 0 <= start <= self._size - size:
            if self._size < self._promised:
                raise InputError(
                    f"{self.path} is truncated: its header promises {self._promised} bytes, the file has {self._size}; copy "
                    "or download it again"
                )
            raise self._damaged(f"it refers to byte {start + size} of {self._size}")

    _promised = 0

    def _read(self, start: int, size: int) -> bytes:
        self._check(start, size)
        self._file.seek(start)
        content = self._file.read(size)
        if len(content) < size:
            raise self._damaged("it became shorter while it was read")
        return content

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path} is damaged: {what}; copy or download it again")
