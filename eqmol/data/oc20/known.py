"""What the pickles of OC20 may name: tensors, NumPy's arrays and ``torch_geometric`` objects of every version.

Tensors become arrays, made here from the bytes of their storages.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, cast

import numpy as np

from eqmol.data.oc20.unpickle import ForbiddenPickleError, Record, load, require
from eqmol.errors import InputError


class _Array(Record):
    """A NumPy array until its state arrives."""

    def value(self) -> Any:
        """Return the array."""
        _, shape, dtype, fortran, content = self.state
        return np.frombuffer(content, require(dtype, np.dtype)).reshape(shape, order="F" if fortran else "C")

    def set_state(self, state: Any) -> None:
        """Take version, shape, dtype, order and bytes."""
        self.state = state


def _dtype(name: str, *_: Any) -> np.dtype[Any]:
    """Return a dtype of numbers or characters."""
    dtype = np.dtype(name)
    if dtype.kind not in "biufSU":
        raise ForbiddenPickleError(f"the pickle holds an array of {name}, which are not numbers")
    return dtype


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    return np.frombuffer(content, require(dtype, np.dtype))[0]


def _buffer(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, require(dtype, np.dtype)).reshape(shape, order="F" if order == "F" else "C")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return the tensor as an array, which lies within its storage."""
    storage = require(storage, np.ndarray)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = int(np.prod(size, dtype=object))
    if min((offset, *size, *stride)) < 0 or (count > 0 and last >= len(storage)) or count > len(storage):
        raise InputError(f"a tensor of shape {list(size)} lies outside of its {len(storage)} stored numbers")
    if count == 0:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def load_storages(content: bytes) -> Any:
    """Read what ``torch.save`` writes without zip: four small pickles, one with the object, then the storages' bytes."""
    file = BytesIO(content)
    late: dict[str, np.ndarray] = {}

    def storage(reference: Any) -> np.ndarray:
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or any(part is not None for part in view):
            raise ForbiddenPickleError(f"the pickle refers to {kind!r}, not to the numbers of a tensor")
        size = int(count) * require(dtype, np.dtype).itemsize
        if not 0 <= size <= len(content):
            raise InputError(f"{count} numbers cannot be in {len(content)} bytes")
        return late.setdefault(str(key), np.zeros(int(count), dtype))

    for _ in range(3):  # magic number, version, sizes of C's integers
        load(file, TORCH)
    value = load(file, TORCH, storage)
    for key in load(file, TORCH):
        target = late[str(key)]
        count = int.from_bytes(file.read(8), "little")
        if count != len(target):
            raise InputError(f"a tensor announces {len(target)} numbers and holds {count}")
        target[:] = np.frombuffer(file.read(target.nbytes), target.dtype)
    return value


_CODES: dict[str, str] = {
    "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1",
    "Bool": "?",
}  # fmt: skip
_COLLECTIONS: dict[str, Any] = {
    "collections.OrderedDict": lambda *items: dict(*items),
    "collections.defaultdict": lambda *_: {},
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (dict, set, list)},
}
#: What the pickles inside of tensors may name.
TORCH: dict[str, Any] = _COLLECTIONS | {f"torch.{kind}Storage": np.dtype(code) for kind, code in _CODES.items()}
_NUMPY: dict[str, Any] = {
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
_GEOMETRIC = (
    "data.data.Data", "data.data.DataEdgeAttr", "data.data.DataTensorAttr", "data.batch.Batch", "data.batch.DataBatch",
    "data.batch.DynamicInheritanceGetter", "data.storage.BaseStorage", "data.storage.GlobalStorage",
)  # fmt: skip
#: What OC20's files name.
KNOWN: Mapping[str, Any] = (
    TORCH
    | _NUMPY
    | {
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor": _tensor,
        "torch.storage._load_from_bytes": load_storages,
        "torch.Size": lambda size: tuple(size),
        "_codecs.encode": lambda text, _: cast(str, text).encode("latin1"),  # bytes in old protocols
        "builtins.object": Record,
        "__builtin__.object": Record,
        "copyreg._reconstructor": lambda *_: Record(),
        "copy_reg._reconstructor": lambda *_: Record(),
        **{f"torch_geometric.{name}": Record for name in _GEOMETRIC},
    }
)
