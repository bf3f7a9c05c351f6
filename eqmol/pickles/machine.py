"""Reading pickles of tensors without unpickling: an interpreter for the part of the format that can only hold data.

A pickle is a program that may call anything that can be imported. This interpreter imports nothing: a name is looked up
in an explicit table of functions that build plain values, arrays and :class:`Record`, and a name outside of it is refused.
:class:`pickle.Unpickler` would not do, even with a ``find_class`` of its own: C hashes a deeply nested key before
``find_class`` is asked for anything, and its recursion ends the process.
"""

import pickletools
import sys
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from types import UnionType
from typing import Any

import numpy as np

from eqmol.errors import InputError, printable, reason_of

#: A pickle may become this many times its size in memory, and so many bytes besides.
FACTOR, FREE = 64, 2**20
#: Containers within one another.
DEPTH = 100


class ForbiddenPickleError(InputError):
    """The pickle asks for more than data."""


class Record:
    """An object of a class that is known by name only: the arguments it was made from and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __call__(self, *arguments: Any) -> "Record":
        return Record(*arguments)

    def fields(self) -> dict[str, Any]:
        """Return the named values of a ``torch_geometric`` object: version 2 keeps them in a store, version 1 directly."""
        state = self.state
        if isinstance(state, dict) and isinstance(store := state.get("_store"), Record):
            state = store.state.get("_mapping", {}) if isinstance(store.state, dict) else {}
        if not isinstance(state, dict):
            return {}
        if not all(isinstance(name, str) for name in state):
            raise ForbiddenPickleError("the pickle holds an object whose fields have no names")
        values = {name: value.value() if isinstance(value, Record) else value for name, value in state.items()}
        return {name: value for name, value in values.items() if value is not None}

    def set_state(self, state: Any) -> None:
        """Take the state that the pickle gives, without the slots that may follow the fields."""
        self.state = state[0] if isinstance(state, tuple) and len(state) == 2 else state

    def value(self) -> Any:
        """Return what the record stands for within another one."""
        return self


def load(
    file: BytesIO,
    table: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    allowance: int = 0,
    most: int | None = None,
) -> Any:
    """Interpret one pickle and leave the file behind its end.

    Args:
        file: at the beginning of the pickle.
        table: "module.name" -> function or constant that builds data. A function takes no more memory and time than a
            small multiple of its arguments, its result or the pickle.
        persistent: resolves the persistent ids of ``torch.save``.
        allowance: bytes of memory that the data may take besides.
        most: operations that the pickle may have.

    Raises:
        ForbiddenPickleError: a name or an operation that data do not need, or more memory or nesting than data have.
        InputError: truncated or damaged.
    """
    machine = _Machine(table, persistent, allowance + FREE + FACTOR * (len(file.getbuffer()) - file.tell()))
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number == most:
                raise ForbiddenPickleError(
                    f"the pickle has more than {most} operations, as its data do not; it was not read"
                )
            machine.run(opcode.name, argument)
    except InputError:
        raise
    except Exception as error:  # the bytes may be anything, and so may what they do to the stack
        raise InputError(f"the pickle is truncated or damaged ({reason_of(error)})") from error
    _check_depth(machine.result)
    return machine.result


class _Machine:
    """Stack, marks and memo of the pickle format (:mod:`pickletools` describes every operation).

    Args:
        table, persistent: as of :func:`load`.
        budget: bytes of memory that the operations may ask for, together.
    """

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None, budget: int) -> None:
        self.persistent = persistent
        self.table = table
        self.left = budget
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, name: str, argument: Any) -> None:
        """Execute one operation."""
        self.spend(8)  # a place on the stack
        if name in _VALUES:
            self.spend(sys.getsizeof(argument))
            self.stack.append(argument)
        elif name in _CONSTANTS:
            value = _CONSTANTS[name]()
            self.spend(sys.getsizeof(value))
            self.stack.append(value)
        elif name in _PUT:
            self.put(argument)
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ForbiddenPickleError(
                f"the pickle uses the operation {name}, which data do not need; it was not executed"
            )

    def spend(self, size: int) -> None:
        """Count memory before, or for one object after, it is taken."""
        self.left -= size
        if self.left < 0:
            raise ForbiddenPickleError(
                f"the pickle would become more than {FACTOR} times as large in memory, as data do not; it was not read"
            )

    def mark(self, _: Any) -> None:
        self.spend(_ENTRY)
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and drop the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise ForbiddenPickleError("the pickle numbers its objects as no program does")
        self.spend(_ENTRY)
        self.memo[index] = self.stack[-1]

    def name(self, argument: str) -> None:
        self.stack.append(self._look_up(argument.replace(" ", ".")))

    def stack_name(self, _: Any) -> None:
        name, module = require(self.stack.pop(), str), require(self.stack.pop(), str)
        self.stack.append(self._look_up(f"{module}.{name}"))

    def _look_up(self, name: str) -> Any:
        if name not in self.table:
            raise ForbiddenPickleError(
                f"the pickle asks to import {printable(name)}, which is not among the names that hold data; it was not "
                "executed, and the file should not be trusted"
            )
        return self.table[name]

    def call(self, _: Any) -> None:
        arguments, function = require(self.stack.pop(), tuple), self.stack.pop()
        for argument in arguments:
            if isinstance(argument, str | bytes | bytearray):
                self.spend(8 * len(argument))
            elif isinstance(argument, list | tuple | dict | set):
                self.spend(_ENTRY * len(argument))
        # nothing on the stack can be called but what the table gave
        result = function(*arguments)
        self.spend(3 * _ENTRY + (result.nbytes if isinstance(result, np.ndarray) else 0))
        self.stack.append(result)

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.set_state(state)
        elif isinstance(target, np.dtype):
            # version, byte order, and what only dtypes of several parts have
            if (
                not isinstance(state, tuple)
                or state[1] not in ("<", "=", "|")
                or any(x is not None for x in state[2:5])
            ):
                raise ForbiddenPickleError("the pickle holds an array of big-endian or structured numbers")
        else:
            raise ForbiddenPickleError(f"the pickle sets the state of a {type(target).__name__}; it was not executed")

    def reference(self, _: Any) -> None:
        if self.persistent is None:
            raise ForbiddenPickleError("the pickle refers to something outside of it")
        self.spend(_ENTRY)
        self.stack.append(self.persistent(self.stack.pop()))

    def sequence(self, size: int) -> None:
        self.spend(_ENTRY)
        items = [self.stack.pop() for _ in range(size)]
        self.stack.append(tuple(items[::-1]))

    def collect(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.marked()
        self.spend(_ENTRY * (1 + len(items)))
        self.stack.append(kind(items))

    def append(self, items: list[Any]) -> None:
        self.spend(16 * len(items))
        require(self.stack[-1], list).extend(items)

    def add(self, items: list[Any]) -> None:
        self.spend(_ENTRY * len(items))
        require(self.stack[-1], set).update(keys(items))

    def set_items(self, items: list[Any]) -> None:
        self.spend(_ENTRY * len(items))
        require(self.stack[-1], dict).update(pairs(items))

    def finish(self, _: Any) -> None:
        self.result = self.stack.pop()


def require(target: Any, kind: type | UnionType) -> Any:
    """Return the target if it is of the kind that the operation is for."""
    if not isinstance(target, kind):
        expected = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ForbiddenPickleError(f"the pickle uses a {type(target).__name__} as a {expected}; it was not executed")
    return target


def keys(items: Iterable[Any]) -> list[Any]:
    """Return the items if all may be keys.

    Raises:
        ForbiddenPickleError: an item that is no str, bytes or int of usual size: C recurses through nested tuples, and large
            integers can be chosen to share one hash.
    """
    found = list(items)
    for key in found:
        if type(key) not in (str, bytes) and (type(key) is not int or abs(key) >= 2**60):
            raise ForbiddenPickleError(f"the pickle uses a {type(key).__name__} as a key, which data do not need")
    return found


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Return the dict of a list of keys and values in turn."""
    return dict(zip(keys(items[::2]), items[1::2], strict=True))


def _check_depth(value: Any) -> None:
    """Refuse containers within containers, deeper than those of data; what follows may then recurse."""
    level, seen = [value], {id(value)}
    for _ in range(DEPTH):
        inner: dict[int, Any] = {}
        for container in level:
            inner.update((id(item), item) for item in _items(container) if id(item) not in seen)
        seen |= inner.keys()
        level = list(inner.values())
        if not level:
            return
    raise ForbiddenPickleError(f"the pickle nests more than {DEPTH} containers within one another, which data do not")


def _items(container: Any) -> Iterable[Any]:
    """Return what a container directly holds that may be a container itself."""
    if isinstance(container, Record):
        return (container.arguments, container.state)
    if isinstance(container, dict):
        container = container.values()
    elif not isinstance(container, list | tuple):
        return ()
    return (item for item in container if isinstance(item, list | tuple | dict | Record))


_ENTRY = 100  #: bytes of an entry of a dict, of a small tuple or list, rounded up
_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
     "BINBYTES8", "BYTEARRAY8")
)  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")
_GET = ("GET", "BINGET", "LONG_BINGET")
_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine.mark,
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.reference,
    "TUPLE1": lambda m, _: m.sequence(1),
    "TUPLE2": lambda m, _: m.sequence(2),
    "TUPLE3": lambda m, _: m.sequence(3),
    "TUPLE": lambda m, _: m.collect(tuple),
    "LIST": lambda m, _: m.collect(list),
    "DICT": lambda m, _: m.collect(pairs),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.add(m.marked()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "POP": lambda m, _: m.stack.pop(),
    "STOP": _Machine.finish,
}
