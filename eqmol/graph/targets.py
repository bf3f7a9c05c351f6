"""What is learnt and predicted of a structure, as values that travel from the data to the model file.

A property is declared by its data set and carried as plain JSON; no model and no task knows a data set. Energy, forces and
stress are targets of the same form.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.graph.keys import FIXED, LABELS

#: How a target follows from atoms:
#:
#: - ``energy``, [G], ``forces``, [N, 3], ``stress``, [G, 3, 3]: the energy, and minus its derivatives or what stands for them;
#: - ``extensive``: a sum over atoms, [G];
#: - ``intensive``: a mean over atoms, [G];
#: - ``atomic``: one number per atom, [N], such as charges;
#: - ``vector``: a sum of vectors of the atoms, [G, 3];
#: - ``dipole``: the dipole moment of a neutral molecule, [G, 3]: charges at the atoms, and vectors of the atoms;
#: - ``dipole_norm``: the norm of that, [G];
#: - ``tensor``: a sum of symmetric tensors of the atoms, [G, 3, 3], such as the polarizability: degrees 0 and 2;
#: - ``extent``: the second moment of the electrons of a molecule, [G].
Kind = Literal[
    "energy",
    "forces",
    "stress",
    "extensive",
    "intensive",
    "atomic",
    "vector",
    "dipole",
    "dipole_norm",
    "tensor",
    "extent",
]
#: Kinds of properties.
KINDS: Final[tuple[str, ...]] = get_args(Kind)[3:]
#: Names of what a potential and its calculator return of energies.
RESULTS: Final = (
    *LABELS,
    "energies",
    "free_energy",
    "virial",
    "last_layer",
    *(f"{name}_std" for name in ("energy", "energies", "forces")),
)
#: Kinds with a contribution of every element.
SUMS: Final = ("extensive", "extent", "tensor", "atomic")
#: Kinds that refer to positions themselves, which periodic directions do not have.
MOLECULAR: Final = ("dipole", "dipole_norm", "extent")
#: Highest degree of the features that a kind is read from.
DEGREES: Final = {"vector": 1, "dipole": 1, "dipole_norm": 1, "tensor": 2}

#: Units whose errors are shown in another one: its name and the factor.
_SHOWN: Final = {f"eV{per}": (f"meV{per}", 1000.0) for per in ("", "/atom", "/Å", "/Å³")}
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
        if self.kind not in KINDS and not (self.kind in LABELS and self.kind == self.name):
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
        return f"target_{self.name}" if self.is_property else self.name

    @property
    def is_property(self) -> bool:
        """Whether it is neither an energy nor a derivative of one."""
        return self.kind in KINDS

    @property
    def is_atomic(self) -> bool:
        """Whether every atom has a value."""
        return self.kind in ("atomic", "forces")

    @property
    def components(self) -> tuple[int, ...]:
        """Shape of the value of one structure or atom."""
        vectors, matrices = ("forces", "vector", "dipole"), ("stress", "tensor")
        return (3,) if self.kind in vectors else (3, 3) if self.kind in matrices else ()

    def labels(self, batch: Any) -> Tensor | None:
        """Labels of a batch, NaN where they do not count, as forces of atoms that were held fixed; None without any."""
        if self.field not in batch:
            return None
        labels: Tensor = batch[self.field]
        if self.kind == "forces" and FIXED in batch:
            labels = labels.masked_fill(batch.fixed[:, None], torch.nan)
        return labels

    @property
    def shown_unit(self) -> str:
        """Unit of errors in tables."""
        return _SHOWN.get(self.unit, (self.unit, 1.0))[0]

    @property
    def shown_factor(self) -> float:
        """``shown_unit`` per ``unit``."""
        return _SHOWN.get(self.unit, (self.unit, 1.0))[1]


def not_molecular(target: Target, source: str) -> InputError:
    """Return the error for a periodic structure where a target has no meaning for it."""
    return InputError(
        f"{target.name} ({target.kind}) is a property of molecules, but {source} is periodic; remove its cell and periodic "
        "directions if it is a molecule in a box"
    )


def check_beside_energies(names: Iterable[str]) -> None:
    """Refuse properties that a potential cannot have.

    Raises:
        InputError: a name that it has for something else.
    """
    for name in names:
        if name in RESULTS:
            raise InputError(f"{name} names what a potential predicts; give the property another name")


#: What a potential predicts besides properties.
ENERGY, FORCES, STRESS = (
    Target("energy", "energy", "eV"),
    Target("forces", "forces", "eV/Å"),
    Target("stress", "stress", "eV/Å³"),
)
