"""The modules in a file of mace-torch: what each is called and what it holds. Nothing that the file names is run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError, printable
from eqmol.pickles.archive import read_archive
from eqmol.pickles.machine import Record
from eqmol.pickles.tensors import TENSORS

#: Operations of a pickle; that of two layers has 14,000.
MAX_OPERATIONS = 60_000

#: Classes whose objects may stand in a file: those that are understood, and those that are named in a refusal.
_CLASSES = (
    *(f"mace.modules.models.{name}" for name in (
        "MACE", "ScaleShiftMACE", "AtomicDipolesMACE", "AtomicDielectricMACE", "EnergyDipolesMACE", "BOTNet", "ScaleShiftBOTNet",
    )),
    *(f"mace.modules.extensions.{name}" for name in ("PolarMACE", "MACELES")),
    *(f"mace.modules.blocks.{name}" for name in (
        "AtomicEnergiesBlock", "EquivariantProductBasisBlock", "LinearNodeEmbeddingBlock", "LinearReadoutBlock",
        "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock", "GeneralNonLinearBiasReadoutBlock", "LinearDipoleReadoutBlock",
        "NonLinearDipoleReadoutBlock", "LinearDipolePolarReadoutBlock", "NonLinearDipolePolarReadoutBlock",
        "RadialEmbeddingBlock", "ScaleShiftBlock", "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock",
        "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock",
        "RealAgnosticAttResidualInteractionBlock", "RealAgnosticResidualNonLinearInteractionBlock",
        "ResidualElementDependentInteractionBlock", "AgnosticNonlinearInteractionBlock",
        "AgnosticResidualNonlinearInteractionBlock", "TensorProductWeightsBlock",
    )),
    *(f"mace.modules.radial.{name}" for name in (
        "AgnesiTransform", "SoftTransform", "BesselBasis", "ChebychevBasis", "GaussianBasis", "PolynomialCutoff", "ZBLBasis",
        "RadialMLP",
    )),
    "mace.modules.embeddings.GenericJointEmbedding",
    "mace.modules.gate.GatedEquivariantBlock",
    "mace.modules.irreps_tools.reshape_irreps",
    "mace.modules.symmetric_contraction.Contraction",
    "mace.modules.symmetric_contraction.SymmetricContraction",
    "mace.modules.wrapper_ops.CuEquivarianceConfig",
    "mace.modules.wrapper_ops.OEQConfig",
    "e3nn.math._normalize_activation.normalize2mom",
    "e3nn.nn._activation.Activation",
    "e3nn.nn._extract.Extract",
    "e3nn.nn._fc.FullyConnectedNet",
    "e3nn.nn._fc._Layer",
    "e3nn.nn._gate.Gate",
    "e3nn.nn._gate._Sortcut",
    "e3nn.o3._irreps.Irrep",
    "e3nn.o3._irreps.Irreps",
    "e3nn.o3._irreps._MulIr",
    "e3nn.o3._linear.Instruction",
    "e3nn.o3._linear.Linear",
    "e3nn.o3._spherical_harmonics.SphericalHarmonics",
    "e3nn.o3._tensor_product._instruction.Instruction",
    "e3nn.o3._tensor_product._sub.ElementwiseTensorProduct",
    "e3nn.o3._tensor_product._sub.FullyConnectedTensorProduct",
    "e3nn.o3._tensor_product._tensor_product.TensorProduct",
    "torch.fx._symbolic_trace.Tracer",
    "torch.fx.graph_module.reduce_graph_module",
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.ParameterList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.normalization.LayerNorm",
)  # fmt: skip
#: Functions that a module may hold; they are known by name only.
_FUNCTIONS = ("torch.nn.functional.silu", "torch.nn.functional.sigmoid", "torch.sigmoid", "torch.tanh", "torch.abs")


class Thing(Record):
    """An object of a class known by its name.

    Attributes:
        kind: name of the class.
    """

    def __init__(self, kind: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kind = kind


def _named(kind: str) -> Callable[..., Thing]:
    return lambda *arguments: Thing(kind, *arguments)


#: What a file of mace-torch may name.
KNOWN: Mapping[str, Any] = TENSORS | {
    **{name: _named(name.rpartition(".")[2]) for name in _CLASSES},
    **{name: name.rpartition(".")[2] for name in _FUNCTIONS},
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "builtins.slice": _named("slice"),
    "torch.device": _named("device"),
    **{f"torch.{name}": name for name in ("float32", "float64", "int64")},
}


class Part:
    """A module of a file.

    Attributes:
        kind: name of its class.
        name: where it stands in the model.
    """

    def __init__(self, thing: Any, name: str) -> None:
        if not isinstance(thing, Thing) or not isinstance(thing.state, dict):
            raise InputError(f"{name} is no module of mace-torch")
        self._thing, self.kind, self.name = thing, thing.kind, name
        self._values: dict[str, Any] = {}
        for group in (thing.state, *(thing.state.get(key) for key in ("_buffers", "_parameters", "_modules"))):
            if isinstance(group, dict):
                self._values |= {key: value for key, value in group.items() if isinstance(key, str)}

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def value(self, key: str) -> Any:
        """An attribute as it stands in the file.

        Raises:
            InputError: it is not there.
        """
        if key not in self._values:
            raise InputError(
                f"{self.name}, a {self.kind}, has no {printable(key)}; was it written by another mace-torch than 0.3?"
            )
        return self._values[key]

    def part(self, key: str) -> Part:
        """A module within this one, or, with dots, within one of its modules."""
        first, _, rest = key.partition(".")
        found = Part(self.value(first), f"{self.name}.{first}".lstrip("."))
        return found.part(rest) if rest else found

    def parts(self, key: str) -> list[Part]:
        """The modules of a list within this one, at least one.

        Raises:
            InputError: there is none.
        """
        holder = self.part(key)
        found: list[Part] = []
        while str(len(found)) in holder:
            found.append(holder.part(str(len(found))))
        if not found:
            raise InputError(f"the model's {holder.name} holds nothing")
        return found

    def array(self, key: str, *shape: int) -> NDArray[np.float64]:
        """A parameter or buffer as float64.

        Args:
            key: its name.
            shape: its numbers are given this shape; nothing: that of the file.

        Raises:
            InputError: another number of values, or values that are not finite.
        """
        found = self.value(key)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
            raise InputError(f"{self.name}.{key} is no tensor")
        if shape and found.size != np.prod(shape):
            raise InputError(
                f"{self.name}.{key} has {found.size} numbers and should have {' x '.join(map(str, shape))}"
            )
        numbers = found.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise InputError(f"{self.name}.{key} has numbers that are not finite")
        return numbers.reshape(shape) if shape else numbers

    def number(self, key: str) -> float:
        """A number, also of a tensor with one."""
        value = self.value(key)
        if isinstance(value, np.ndarray):
            return float(self.array(key, 1)[0])
        if type(value) not in (int, float) or not np.isfinite(value):
            raise InputError(f"{self.name}.{key} is no number")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        """An integer between two bounds, both included."""
        value = self.number(key)
        if value != int(value) or not low <= value <= high:
            raise InputError(f"{self.name}.{key} is {value:g}, not an integer from {low} to {high}")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value that older files lack."""
        value = self._values.get(key, default)
        if type(value) is not bool:
            raise InputError(f"{self.name}.{key} is no truth value")
        return value

    def irreps(self, key: str) -> list[tuple[int, int, int]]:
        """Irreps: multiplicity, degree and parity of each."""
        found = self.value(key)
        try:
            if isinstance(found, str):
                terms = [re.fullmatch(r"(\d{1,6})x(\d{1,2})([eo])", term) for term in found.split("+")]
                return [(int(term[1]), int(term[2]), 1 if term[3] == "e" else -1) for term in terms if term]
            return [_triple(entry) for entry in found.arguments[0]]
        except (AttributeError, IndexError, TypeError, ValueError):
            raise InputError(f"{self.name}.{key} are no irreps") from None


def _triple(entry: Any) -> tuple[int, int, int]:
    """(mul, irrep), both objects being tuples in disguise."""
    mul, irrep = entry.arguments if len(entry.arguments) == 2 else entry.arguments[0]
    degree, parity = irrep.arguments if len(irrep.arguments) == 2 else irrep.arguments[0]
    if any(type(value) is not int for value in (mul, degree, parity)):
        raise ValueError(entry)
    return mul, degree, parity


def read_model(path: Path) -> Part:
    """The model of a file that mace-torch wrote with ``torch.save``.

    Raises:
        InputError: another file, a damaged one, or one that asks for more than data.
    """
    found = read_archive(path, KNOWN, MAX_OPERATIONS)
    if not isinstance(found, Thing):
        raise InputError(f"{path} holds a {type(found).__name__}, not a model of mace-torch")
    try:
        return Part(found, "")
    except InputError:
        raise InputError(f"{path} holds a {found.kind}, not a model of mace-torch") from None


def is_archive(path: Path) -> bool:
    """Whether a file is what ``torch.save`` writes, told by its content."""
    return zipfile.is_zipfile(path)
