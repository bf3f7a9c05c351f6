"""The table of algorithms: which one computes which operation under which backend name.

A backend is a name, or one name per operation. ``escn`` needs an axis, which two features do not define: its product and power
are those of ``cg``. There is no other substitution; what an algorithm cannot compute is an error.
"""

from collections.abc import Mapping

from eqmol.errors import InputError
from eqmol.ops.cg import CGConvolution, CGPower, CGProduct
from eqmol.ops.contract import Convolution, Power, Product, TensorProduct
from eqmol.ops.escn import ESCNConvolution
from eqmol.ops.gaunt import GauntConvolution, GauntPower, GauntProduct
from eqmol.ops.grid import GridConvolution, GridPower, GridProduct
from eqmol.ops.scalar import InvariantConvolution, ScalarConvolution
from eqmol.ops.spec import Operation, Spec

ALGORITHMS: dict[str, dict[str, type[TensorProduct]]] = {
    "cg": {"convolution": CGConvolution, "product": CGProduct, "power": CGPower},
    "escn": {"convolution": ESCNConvolution, "product": CGProduct, "power": CGPower},
    "gaunt": {"convolution": GauntConvolution, "product": GauntProduct, "power": GauntPower},
    "grid": {"convolution": GridConvolution, "product": GridProduct, "power": GridPower},
}
BACKENDS: tuple[str, ...] = tuple(ALGORITHMS)
#: Algorithms that compute products of functions on the sphere and nothing else.
GAUNT_ONLY = ("gaunt", "grid")

Backend = str | Mapping[str, str]


def can_run(backend: str, family: str) -> bool:
    """Whether the backend has algorithms for the family."""
    return family == "gaunt" or backend not in GAUNT_ONLY


def candidates(spec: Spec) -> tuple[str, ...]:
    """Backends whose algorithms for the spec differ from one another, the reference first.

    >>> candidates(Spec("product", "gaunt", "so3", 2, 2, 2))
    ('cg', 'gaunt', 'grid')
    """
    found: dict[type[TensorProduct], str] = {}
    for name in BACKENDS:
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
        raise InputError(f"backend {name!r} for the {spec.operation} is unknown; choose from {', '.join(BACKENDS)}")
    if not can_run(name, spec.family):
        raise InputError(
            f"backend {name!r} computes the gaunt family only and cannot run a {spec.operation} of the {spec.family} family; "
            f"use backend cg or escn, or train with model.family=gaunt"
        )
    if spec.operation == "convolution" and spec.degree_in == 0:
        return ScalarConvolution
    if spec.operation == "convolution" and spec.degree_out == 0:
        return InvariantConvolution
    return ALGORITHMS[name][spec.operation]
