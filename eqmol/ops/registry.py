"""The table of algorithms: which one computes which operation under which backend name.

A backend is a name, or one name per operation. ``escn`` needs an axis, which two features do not define: its product and power
are those of ``cg``, as are the operations that :func:`register` is not given. There is no other substitution; what an algorithm
cannot compute is an error.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from eqmol.errors import InputError
from eqmol.ops.cg import CGConvolution, CGMixing, CGPower, CGProduct
from eqmol.ops.contract import Convolution, Mixing, Power, Product, TensorProduct
from eqmol.ops.escn import ESCNConvolution, ESCNMixing
from eqmol.ops.gaunt import GauntConvolution, GauntPower, GauntProduct
from eqmol.ops.gaunt_fft import GauntFFTConvolution, GauntFFTPower, GauntFFTProduct
from eqmol.ops.grid import GridConvolution, GridPower, GridProduct
from eqmol.ops.scalar import InvariantConvolution, ScalarConvolution
from eqmol.ops.spec import Family, Operation, Spec


class Algorithms(NamedTuple):
    """What a backend name stands for: an algorithm per operation, and the families that they compute."""

    convolution: type[Convolution]
    product: type[Product]
    power: type[Power]
    mixing: type[Mixing] = CGMixing
    families: tuple[Family, ...] = get_args(Family)

    def of(self, operation: Operation) -> type[TensorProduct]:
        """The algorithm for an operation."""
        own: dict[Operation, type[TensorProduct]] = {
            "convolution": self.convolution,
            "mixing": self.mixing,
            "product": self.product,
            "power": self.power,
        }
        return own[operation]


#: All backends by name, the reference first.
ALGORITHMS: dict[str, Algorithms] = {
    "cg": Algorithms(CGConvolution, CGProduct, CGPower),
    "escn": Algorithms(ESCNConvolution, CGProduct, CGPower, ESCNMixing),
    "gaunt": Algorithms(GauntConvolution, GauntProduct, GauntPower, families=("gaunt",)),
    "gaunt_fft": Algorithms(GauntFFTConvolution, GauntFFTProduct, GauntFFTPower, families=("gaunt",)),
    "grid": Algorithms(GridConvolution, GridProduct, GridPower, families=("gaunt",)),
}
#: Names that :func:`register` does not give away; ``auto`` is the choice by measurement.
RESERVED = frozenset({*ALGORITHMS, "auto"})

Backend = str | Mapping[str, str]


def register(name: str, *algorithms: type[TensorProduct], families: Sequence[Family] = get_args(Family)) -> None:
    """Make algorithms of one's own a backend of this process, which may stand wherever ``cg`` may.

    Operations without an algorithm are computed as by ``cg``, and convolutions from or to scalars as under every backend. Model
    files hold the name alone: where it is not registered, they run by an algorithm of eqmol's that computes the same. A name that
    was registered before gets the new algorithms.

    Args:
        name: a letter, then letters, digits and underscores.
        algorithms: subclasses of :class:`Convolution`, :class:`Mixing`, :class:`Product` or :class:`Power`, one per operation.
            Their constructors raise InputError for a spec that they cannot compute.
        families: which they compute.

    Raises:
        InputError: a name that is taken or none, what is no algorithm or misses methods, or unknown families.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError(f"the backend name {name!r} must be a letter followed by letters, digits and underscores")
    if name in RESERVED:
        raise InputError(f"the backend name {name!r} is eqmol's own; register under another name")
    if not families or not set(families) <= set(get_args(Family)):
        raise InputError(f"families={families!r} must be one or both of {', '.join(get_args(Family))}")
    own: dict[str, Any] = {}
    for algorithm in algorithms:
        operation = _operation_of(algorithm)
        if operation in own:
            raise InputError(f"backend {name!r} has two algorithms for the {operation}; give one")
        own[operation] = algorithm
    if not own:
        raise InputError(f"backend {name!r} has no algorithm; give subclasses of Convolution, Mixing, Product or Power")
    ALGORITHMS[name] = ALGORITHMS["cg"]._replace(**own, families=tuple(families))


def _operation_of(algorithm: object) -> str:
    """The operation that a class computes."""
    if not isinstance(algorithm, type) or not issubclass(algorithm, Convolution | Mixing | Product | Power):
        raise InputError(f"{algorithm!r} is no subclass of Convolution, Mixing, Product or Power of eqmol.ops")
    if inspect.isabstract(algorithm):
        missing = ", ".join(sorted(algorithm.__abstractmethods__))
        raise InputError(f"{algorithm.__name__} lacks the methods {missing} of a {algorithm.operation}")
    return algorithm.operation


def can_run(backend: str, family: str) -> bool:
    """Whether the backend has algorithms for the family."""
    return family in ALGORITHMS[backend].families


def candidates(spec: Spec) -> tuple[str, ...]:
    """Backends whose algorithms for the spec differ from one another, the reference first.

    >>> candidates(Spec("product", "gaunt", "so3", 2, 2, 2))
    ('cg', 'gaunt', 'gaunt_fft', 'grid')
    """
    found: dict[type[TensorProduct], str] = {}
    for name in ALGORITHMS:
        if can_run(name, spec.family):
            found.setdefault(algorithm(spec, name), name)
    return tuple(found.values())


def create(spec: Spec, backend: Backend) -> TensorProduct:
    """The algorithm of ``backend`` for ``spec``, made.

    Raises:
        InputError: see :func:`algorithm`.
    """
    return algorithm(spec, backend)(spec)


def convolution(spec: Spec, backend: Backend = "cg") -> Convolution:
    """The convolution of ``spec`` by the algorithm ``backend``.

    >>> convolution(Spec("convolution", "coupled", "o3", 2, 4, 2), "escn")
    ESCNConvolution(coupled, o3, degree 2 -> 2, filter 4, 14 weights)

    Raises:
        InputError: the spec is that of another operation; see also :func:`algorithm`.
    """
    made = create(_spec_of("convolution", spec), backend)
    assert isinstance(made, Convolution)
    return made


def mixing(spec: Spec, backend: Backend = "cg") -> Mixing:
    """The mixing of ``spec`` by the algorithm ``backend``.

    >>> mixing(Spec("mixing", "coupled", "so3", 4, 8, 4, order_max=2), "escn")
    ESCNMixing(coupled, so3, degree 4 -> 4, filter 8, |m| <= 2, 75 weights)

    Raises:
        InputError: as :func:`convolution`.
    """
    made = create(_spec_of("mixing", spec), backend)
    assert isinstance(made, Mixing)
    return made


def product(spec: Spec, backend: Backend = "cg") -> Product:
    """The product of ``spec`` by the algorithm ``backend``. The product of degree 1 with 1 onto 0 is the dot product:

    >>> import torch
    >>> dot = product(Spec("product", "coupled", "o3", 1, 1, 0))
    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1)  # [nodes, components: 1 + 3, channels]
    >>> weight = torch.tensor([[0.0], [1.0]])  # [paths: 0 x 0 -> 0 and 1 x 1 -> 0, channels]
    >>> torch.testing.assert_close(dot(x, x, weight).item(), (1 + 4 + 9) / 6**0.5)

    Raises:
        InputError: as :func:`convolution`.
    """
    made = create(_spec_of("product", spec), backend)
    assert isinstance(made, Product)
    return made


def power(spec: Spec, backend: Backend = "cg") -> Power:
    """The power of ``spec`` by the algorithm ``backend``.

    >>> power(Spec("power", "gaunt", "o3", 3, 0, 1, order=3), "grid")
    GridPower(gaunt, o3, degree 3 -> 1, order 3, 6 weights)

    Raises:
        InputError: as :func:`convolution`.
    """
    made = create(_spec_of("power", spec), backend)
    assert isinstance(made, Power)
    return made


def _spec_of(operation: Operation, spec: Spec) -> Spec:
    """The spec, if it is that of ``operation``."""
    if spec.operation != operation:
        raise InputError(
            f"{operation}() got the spec of a {spec.operation}; call {spec.operation}(), or give "
            f"Spec({operation!r}, ...)"
        )
    return spec


def algorithm(spec: Spec, backend: Backend) -> type[TensorProduct]:
    """The algorithm of ``backend`` for ``spec``.

    Raises:
        InputError: an unknown backend, or one that cannot compute the family; names both.
    """
    name = backend if isinstance(backend, str) else backend.get(spec.operation)
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise InputError(
            f"backend {name!r} for the {spec.operation} is unknown; choose from {', '.join(ALGORITHMS)}, or make your own known "
            f"with eqmol.ops.register"
        )
    if not can_run(name, spec.family):
        able = " or ".join(other for other in ALGORITHMS if can_run(other, spec.family))
        (own,) = ALGORITHMS[name].families
        if spec.operation == "mixing":
            raise InputError(
                f"backend {name!r} computes the {own} family only and cannot mix channels; use backend {able}, or one name per "
                f"operation with one of these for mixing"
            )
        raise InputError(
            f"backend {name!r} computes the {own} family only and cannot run a {spec.operation} of the {spec.family} family; "
            f"use backend {able}, or train with model.family={own}"
        )
    if spec.operation == "convolution" and spec.block_paths is None:
        if spec.degree_in == 0:
            return ScalarConvolution
        if spec.degree_out == 0:
            return InvariantConvolution
    return ALGORITHMS[name].of(spec.operation)
