"""The tensor products of one model: their functions and their algorithms, chosen together."""

from collections.abc import Mapping
from typing import NamedTuple

from eqmol.errors import InputError
from eqmol.ops.contract import Convolution, Mixing, Product
from eqmol.ops.registry import Backend, convolution, mixing, product
from eqmol.ops.spec import Family, Parity, Spec


class Algebra(NamedTuple):
    """Which tensor products a model is made of.

    Attributes:
        backend: algorithm, or one per operation.
        family: function family, or one per operation.
        parity: selection rule.
        order_max: highest order of convolutions in the edge frame, see :class:`Spec`.
    """

    backend: Backend
    family: Family | Mapping[str, Family]
    parity: Parity
    order_max: int | None

    def convolution(self, degree_in: int, degree_filter: int, degree_out: int) -> Convolution:
        """The convolution between these degrees; degrees of the filter that reach nothing are dropped.

        Raises:
            InputError: no family for the operation, or what :class:`Spec` and :func:`eqmol.ops.convolution` refuse.
        """
        reach = min(degree_filter, degree_in + degree_out)
        family = self._family("convolution")
        spec = Spec("convolution", family, self.parity, degree_in, reach, degree_out, order_max=self.order_max)
        return convolution(spec, self.backend)

    def mixing(self, degree_in: int, degree_out: int) -> Mixing:
        """The mixing between these degrees, of the coupled family; raises as :meth:`convolution` does."""
        spec = Spec(
            "mixing", "coupled", self.parity, degree_in, degree_in + degree_out, degree_out, order_max=self.order_max
        )
        return mixing(spec, self.backend)

    def product(self, degree_in: int, degree_out: int) -> Product:
        """The product of two fields of one degree; raises as :meth:`convolution` does."""
        spec = Spec("product", self._family("product"), self.parity, degree_in, degree_in, degree_out)
        return product(spec, self.backend)

    def _family(self, operation: str) -> Family:
        if isinstance(self.family, str):
            return self.family
        if not isinstance(self.family, Mapping) or operation not in self.family:
            raise InputError(
                f"family={self.family!r} must be a name, or one name per operation with one for {operation}"
            )
        return self.family[operation]
