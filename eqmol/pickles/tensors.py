"""What pickles of tensors may name: tensors, NumPy's arrays and plain containers.

Tensors become arrays, made here from the bytes of their storages.
"""

import math
from io import BytesIO
from typing import Any, cast

import numpy as np

from eqmol.errors import InputError, printable
from eqmol.pickles.machine import ForbiddenPickleError, Record, keys, load, pairs, require


class _Array(Record):
    """A NumPy array until its state arrives."""

    def value(self) -> Any:
        """Return the array."""
        _, shape, dtype, fortran, content = self.state
        return _shaped(content, dtype, shape, bool(fortran))

    def set_state(self, state: Any) -> None:
        """Take version, shape, dtype, order and bytes."""
        self.state = state


def _dtype(name: Any, *_: Any) -> np.dtype[Any]:
    """Return a dtype of numbers or characters."""
    dtype = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    if dtype is None or dtype.kind not in "biufSU" or not dtype.isnative:
        raise ForbiddenPickleError(f"the pickle holds an array of {printable(str(name)[:16])}, which are not numbers")
    return dtype


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    return _shaped(content, dtype, (1,), False)[0]


def _buffer(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    return _shaped(content, dtype, shape, order == "F")


def _shaped(content: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """Return the bytes of an array as the array."""
    shape = _whole(shape)
    numbers = np.frombuffer(_bytes(content), require(dtype, np.dtype))
    if math.prod(shape) != len(numbers):
        raise InputError(f"an array of shape {list(shape)[:8]} cannot hold {len(numbers)} numbers")
    return numbers.reshape(shape, order="F" if fortran else "C")


def _bytes(content: Any) -> bytes | bytearray:
    if not isinstance(content, bytes | bytearray):
        raise ForbiddenPickleError(f"the pickle uses a {type(content).__name__} as bytes; it was not executed")
    return content


def _whole(values: Any) -> tuple[int, ...]:
    """Return sizes, strides and the like: few of them, int, not negative."""
    values = require(values, tuple)
    if len(values) > _DIMENSIONS or any(type(value) is not int or not 0 <= value < 2**48 for value in values):
        raise InputError("the pickle holds an array whose shape is none")
    return cast(tuple[int, ...], values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Return the tensor as an array, which lies within its storage."""
    storage = require(storage, np.ndarray)
    if storage.ndim != 1 or not storage.flags.c_contiguous:
        raise ForbiddenPickleError(f"the pickle uses an array of shape {list(storage.shape)} as a storage")
    (offset,), size, stride = _whole((offset,)), _whole(size), _whole(stride)
    # numbers of Python, which do not overflow
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > storage.size or (count > 0 and last >= storage.size):
        raise InputError(f"a tensor of shape {list(size)} lies outside of its {storage.size} stored numbers")
    if count == 0:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def storage_of(reference: Any) -> tuple[np.dtype[Any], str, int]:
    """Return the type, the key and the number of elements of a storage that a persistent id of ``torch.save`` names.

    Raises:
        InputError: a persistent id of another kind.
    """
    kind, dtype, key, _, count, *view = require(reference, tuple)
    if kind != "storage" or type(key) is not str or any(part is not None for part in view):
        raise ForbiddenPickleError("the pickle refers to something else than the numbers of a tensor")
    return require(dtype, np.dtype), key, _whole((count,))[0]


def load_storages(content: Any) -> Any:
    """Read what ``torch.save`` writes without zip: four small pickles, one with the object, then the storages' bytes."""
    file = BytesIO(_bytes(content))
    late: dict[str, np.ndarray] = {}
    left = len(content)

    def storage(reference: Any) -> np.ndarray:
        nonlocal left
        dtype, key, count = storage_of(reference)
        if key not in late:
            left -= count * dtype.itemsize
            if left < 0:
                raise InputError(f"{count} numbers cannot be in {len(content)} bytes")
            late[key] = np.zeros(count, dtype)
        return late[key]

    for _ in range(3):  # magic number, version, sizes of C's integers
        load(file, TORCH)
    value = load(file, TORCH, storage)
    for key in require(load(file, TORCH), list):
        target = late[require(key, str)]
        count = int.from_bytes(file.read(8), "little")
        if count != len(target):
            raise InputError(f"a tensor announces {len(target)} numbers and holds {count}")
        target[:] = np.frombuffer(file.read(target.nbytes), target.dtype)
    return value


def _dict(items: Any = ()) -> dict[Any, Any]:
    """Return a dict of pairs."""
    found = [require(item, list | tuple) for item in require(items, list | tuple)]
    return pairs([part for key, value in found for part in (key, value)])


_DIMENSIONS = 8
_CODES: dict[str, str] = {
    "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1",
    "Bool": "?",
}  # fmt: skip
_COLLECTIONS: dict[str, Any] = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    **{
        f"{module}.{kind}": function
        for module in ("builtins", "__builtin__")
        for kind, function in (
            ("dict", _dict),
            ("set", lambda items=(): set(keys(require(items, list | tuple)))),
            ("list", lambda items=(): list(require(items, list | tuple))),
        )
    },
}
#: What the pickles inside of tensors may name.
TORCH: dict[str, Any] = _COLLECTIONS | {f"torch.{kind}Storage": np.dtype(code) for kind, code in _CODES.items()}
#: NumPy's arrays and numbers.
NUMPY: dict[str, Any] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": Record,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in (("scalar", _scalar), ("_reconstruct", _Array))
    },
    "numpy.core.numeric._frombuffer": _buffer,
    "numpy._core.numeric._frombuffer": _buffer,
}
#: What any file with tensors names.
TENSORS: dict[str, Any] = (
    TORCH
    | NUMPY
    | {
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor": _tensor,
        "torch.storage._load_from_bytes": load_storages,
        "torch.Size": lambda size: tuple(require(size, list | tuple)),
        "_codecs.encode": lambda text, _: require(text, str).encode("latin1"),  # bytes in old protocols
    }
)
