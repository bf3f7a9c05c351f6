"""What is learnt and predicted of a structure, as values that travel from the data to the model file.

A target is declared by its data set and carried as plain JSON; no model and no task knows a data set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from eqmol.errors import InputError

#: How a property follows from atoms:
#:
#: - ``extensive``: a sum over atoms, [G];
#: - ``intensive``: a mean over atoms, [G];
#: - ``atomic``: one number per atom, [N], such as charges;
#: - ``vector``: a sum of vectors of the atoms, [G, 3];
#: - ``dipole``: the dipole moment of a neutral molecule, [G, 3]: charges at the atoms, and vectors of the atoms;
#: - ``dipole_norm``: the norm of that, [G];
#: - ``tensor``: a sum of symmetric tensors of the atoms, [G, 3, 3], such as the polarizability: degrees 0 and 2;
#: - ``extent``: the second moment of the electrons of a molecule, [G].
Kind = Literal["extensive", "intensive", "atomic", "vector", "dipole", "dipole_norm", "tensor", "extent"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
#: Kinds with a contribution of every element.
SUMS: Final = ("extensive", "extent", "tensor", "atomic")
#: Highest degree of the features that a kind is read from.
DEGREES: Final = {"vector": 1, "dipole": 1, "dipole_norm": 1, "tensor": 2}

#: Units whose errors are shown in another one: its name and the factor.
_SHOWN: Final = {"eV": ("meV", 1000.0), "eV/Å": ("meV/Å", 1000.0), "eV/atom": ("meV/atom", 1000.0)}
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Target:
    """One property.

    >>> Target("alpha", "tensor", "a0³").plain()
    {'kind': 'tensor', 'unit': 'a0³'}

    Args:
        name: letters, digits, _ and -.
        kind: how it follows from atoms, see :data:`Kind`.
        unit: of labels and predictions.

    Raises:
        InputError: a name or a kind that cannot be.
    """

    name: str
    kind: Kind
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(f"{self.name!r} cannot name a target: take letters, digits, _ and -, a letter first")
        if self.kind not in KINDS:
            raise InputError(f"the target {self.name} has kind={self.kind!r}; choose from {', '.join(KINDS)}")
        if not isinstance(self.unit, str) or len(self.unit) > 32:
            raise InputError(f"the unit of the target {self.name} is {self.unit!r}, not a short text")

    @classmethod
    def read(cls, name: str, node: Any) -> "Target":
        """A target from plain settings, ``{kind: tensor, unit: a0³}``.

        Raises:
            InputError: anything else.
        """
        if not isinstance(node, Mapping) or not {"kind"} <= node.keys() <= {"kind", "unit"}:
            raise InputError(f"the target {name} is {node!r}; declare it as {{kind: {'|'.join(KINDS)}, unit: ...}}")
        return cls(name, node["kind"], node.get("unit", ""))

    def plain(self) -> dict[str, str]:
        """What :meth:`read` takes."""
        return {"kind": self.kind, "unit": self.unit}

    @property
    def field(self) -> str:
        """Name of the labels in a graph."""
        return f"target_{self.name}"

    @property
    def is_atomic(self) -> bool:
        """Whether every atom has a value."""
        return self.kind == "atomic"

    @property
    def components(self) -> tuple[int, ...]:
        """Shape of the value of one structure or atom."""
        return {"vector": (3,), "dipole": (3,), "tensor": (3, 3)}.get(self.kind, ())

    @property
    def shown_unit(self) -> str:
        """Unit of errors in tables."""
        return _SHOWN.get(self.unit, (self.unit, 1.0))[0]

    @property
    def shown_factor(self) -> float:
        """``shown_unit`` per ``unit``."""
        return _SHOWN.get(self.unit, (self.unit, 1.0))[1]
