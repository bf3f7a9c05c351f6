"""The table of algorithms: which one computes which operation under which backend name.

A backend is a name, or one name per operation. ``escn`` needs an axis, which two features do not define: its product and power
are those of ``cg``. There is no other substitution; what an algorithm cannot compute is an error.
"""

from collections.abc import Mapping

from eqmol.errors import InputError
from eqmol.ops.cg import CGConvolution, CGPower, CGProduct
from eqmol.ops.contract import TensorProduct
from eqmol.ops.escn import ESCNConvolution
from eqmol.ops.gaunt import GauntConvolution, GauntPower, GauntProduct
from eqmol.ops.grid import GridConvolution, GridPower, GridProduct
from eqmol.ops.scalar import InvariantConvolution, ScalarConvolution
from eqmol.ops.spec import Spec

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
    """Backends whose algorithms for the spec differ from one another, the reference first."""
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
