"""Reading pickles of tensors without unpickling: an interpreter for the part of the format that can only hold data.

A pickle is a program that may call anything that can be imported. This interpreter imports nothing: a name is looked up
in an explicit table of functions that build plain values, arrays and :class:`Record`, and a name outside of it is refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from eqmol.errors import InputError


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
        values = {name: value.value() if isinstance(value, Record) else value for name, value in state.items()}
        return {name: value for name, value in values.items() if value is not None}

    def set_state(self, state: Any) -> None:
        """Take the state that the pickle gives, without the slots that may follow the fields."""
        self.state = state[0] if isinstance(state, tuple) and len(state) == 2 else state

    def value(self) -> Any:
        """Return what the record stands for within another one."""
        return self


def load(file: IO[bytes], table: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """Interpret one pickle and leave the file behind its end.

    Args:
        file: at the beginning of the pickle.
        table: "module.name" -> function or constant that builds data.
        persistent: resolves the persistent ids of ``torch.save``.

    Raises:
        ForbiddenPickleError: a name or an operation that data do not need.
        InputError: truncated or damaged.
    """
    machine = _Machine(table, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.run(opcode.name, argument)
    except InputError:
        raise
    except Exception as error:  # the bytes may be anything, and so may what they do to the stack
        raise InputError(f"the pickle is truncated or damaged ({type(error).__name__}: {error})") from error
    return machine.result


class _Machine:
    """Stack, marks and memo of the pickle format (:mod:`pickletools` describes every operation)."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.persistent = persistent
        self.table = table
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, name: str, argument: Any) -> None:
        """Execute one operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _PUT:
            self.memo[argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ForbiddenPickleError(
                f"the pickle uses the operation {name}, which data do not need; it was not executed"
            )

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and drop the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def name(self, argument: str) -> None:
        self.stack.append(self._look_up(argument.replace(" ", ".")))

    def stack_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._look_up(f"{module}.{name}"))

    def _look_up(self, name: str) -> Any:
        if name not in self.table:
            raise ForbiddenPickleError(
                f"the pickle asks to import {name}, which is not among the names that hold data; it was not executed, "
                "and the file should not be trusted"
            )
        return self.table[name]

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # nothing on the stack can be called but what the table gave
        self.stack.append(function(*arguments))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.set_state(state)
        elif not isinstance(target, np.dtype):  # whose state repeats its byte order
            raise ForbiddenPickleError(f"the pickle sets the state of a {type(target).__name__}; it was not executed")

    def reference(self, _: Any) -> None:
        if self.persistent is None:
            raise ForbiddenPickleError("the pickle refers to something outside of it")
        self.stack.append(self.persistent(self.stack.pop()))

    def sequence(self, size: int) -> None:
        self.stack[len(self.stack) - size :] = [tuple(self.stack[len(self.stack) - size :])]

    def collect(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.marked()
        self.stack.append(kind(items))

    def append(self, items: list[Any]) -> None:
        require(self.stack[-1], list).extend(items)

    def add(self, items: list[Any]) -> None:
        require(self.stack[-1], set).update(items)

    def set_items(self, items: list[Any]) -> None:
        require(self.stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))

    def finish(self, _: Any) -> None:
        self.result = self.stack.pop()


def require(target: Any, kind: type) -> Any:
    """Return the target if it is of the kind that the operation is for."""
    if not isinstance(target, kind):
        raise ForbiddenPickleError(
            f"the pickle uses a {type(target).__name__} as a {kind.__name__}; it was not executed"
        )
    return target


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
    "MEMOIZE": _Machine.memoize,
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
    "DICT": lambda m, _: m.collect(lambda items: dict(zip(items[::2], items[1::2], strict=True))),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.add(m.marked()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "POP": lambda m, _: m.stack.pop(),
    "STOP": _Machine.finish,
}
