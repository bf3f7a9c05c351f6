"""What every algorithm for a tensor product implements.

Operations own no parameters: weights are an argument, so one checkpoint runs under every algorithm. They are twice
differentiable in features, weights and edge vectors. Channels never mix, but in a :class:`Mixing`.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels, W own weights of the spec, H hidden radial features.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.ops.spec import Operation, Spec
from eqmol.so3.directions import harmonics_of

#: Whether compiled code is used: where it can be made, never, or always.
KernelMode = Literal["auto", "off", "require"]
_DEFAULT_DTYPE = threading.RLock()  #: torch has one default for all threads


class RadialWeight(NamedTuple):
    """Weights of a convolution before the last linear map of the radial network.

    An algorithm may fold its own change of basis into ``matrix``, whose cost does not depend on the number of edges.

    Attributes:
        hidden: [E, H].
        matrix: [H, W, C].
    """

    hidden: Tensor
    matrix: Tensor

    def dense(self) -> Tensor:
        """[E, W, C]."""
        return (self.hidden @ self.matrix.flatten(1)).unflatten(-1, self.matrix.shape[1:])

    def rebased(self, basis: Tensor) -> "RadialWeight":
        """The same weights in another basis; ``basis`` [W, W'] maps old weights to new ones."""
        return RadialWeight(self.hidden, torch.einsum("hwc,wv->hvc", self.matrix, basis))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in ``dtype``, one thread at a time; their tables are then exact to its precision."""
    with _DEFAULT_DTYPE:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class Tables(nn.Module):
    """A module whose constants are non-persistent buffers, so that it has an empty ``state_dict()``."""

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, np.ndarray] = {}

    def add_table(self, name: str, values: np.ndarray) -> None:
        """Register a constant: floats in the default dtype (moved and cast with the module), integers as they are."""
        floating = np.issubdtype(values.dtype, np.floating)
        dtype = torch.get_default_dtype() if floating else torch.int64
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)
        if floating:
            self._exact[name] = values

    def exact(self, name: str) -> np.ndarray:
        """A constant in float64."""
        return self._exact[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Cast tables from their float64 values: a module made in float32 and cast to float64 is exact to float64."""
        before = {name: self.get_buffer(name).dtype for name in self._exact}
        super()._apply(fn, recurse)
        for name, dtype in before.items():
            table = self.get_buffer(name)
            if table.dtype != dtype:
                exact = torch.tensor(self._exact[name], dtype=table.dtype, device=table.device)
                self.register_buffer(name, exact, persistent=False)
        return self


class TensorProduct(Tables, ABC):
    """An algorithm for one spec.

    Attributes:
        has_kernels: whether :meth:`forward` uses compiled kernels where there are some, see :mod:`eqmol.ops.kernels`.
        kernels: whether it may; None: as ``$EQMOL_KERNELS`` says.
    """

    operation: Operation
    has_kernels: ClassVar[bool] = False
    kernels: KernelMode | None = None

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        assert spec.operation == self.operation, f"{type(self).__name__} computes a {self.operation}, not {spec}"
        self.spec = spec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        s = self.spec
        order = f", order {s.order}" if s.operation == "power" else f", filter {s.degree_filter}"
        order += "" if s.order_max is None else f", |m| <= {s.order_max}"
        order += "" if s.block_paths is None else f", {s.num_blocks} blocks"
        return f"{s.family}, {s.parity}, degree {s.degree_in} -> {s.degree_out}{order}, {s.num_weights} weights"


class EdgeProduct(TensorProduct):
    """A product with the harmonics of edges."""

    @property
    @abstractmethod
    def geometry_key(self) -> Hashable:
        """Operations with equal keys may share the result of :meth:`geometry`."""

    @abstractmethod
    def geometry(self, vectors: Tensor) -> Any:
        """Per-edge tensors, opaque to models, from edge vectors [E, 3] in Å of any non-zero length."""


class Convolution(EdgeProduct):
    """message[e] = product of the sender's features with the harmonics of the edge, summed at receivers."""

    operation = "convolution"

    @abstractmethod
    def forward(
        self, x: Tensor, geometry: Any, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        """Sum of messages at every receiver.

        Args:
            x: node features [N, lm_in, C].
            geometry: what :meth:`geometry` returned.
            weight: own weights per edge.
            senders, receivers: [E] node indices; edges are sorted by receiver. From or to scalars, senders may be [k, E]: an
                edge then sends the sum of the features of k nodes, which is never made for all edges.
            num_receivers: number of rows of the result.

        Returns:
            [num_receivers, lm_out, K · C], K blocks of channels (1 unless the spec says otherwise).
        """

    def message(self, x: Tensor, geometry: Any, weight: RadialWeight) -> Tensor:
        """Message of every edge, for models that need each: x [E, lm_in, C] of the edges -> [E, lm_out, K · C]."""
        edges = torch.arange(len(x), device=x.device)
        return self.forward(x, geometry, weight, edges, edges, len(x))


class HarmonicConvolution(Convolution):
    """A convolution whose geometry is the harmonics of the edges, shared by all of the same degree."""

    @property
    def degree_geometry(self) -> int:
        """Highest degree of the harmonics."""
        return self.spec.degree_filter

    @property
    def geometry_key(self) -> Hashable:
        return HarmonicConvolution, self.degree_geometry

    def geometry(self, vectors: Tensor) -> Tensor:
        """Harmonics [E, lm]."""
        return harmonics_of(vectors, self.degree_geometry)


class Mixing(EdgeProduct):
    """A convolution with weights [W, C, C'] that all edges share, times a factor per edge, order, degree in and channel.

    In the frame of the edge, with the cosines W⁺ and sines W⁻ of order m as matrices from (l1, channel) to (l3, channel),

        y_m = W⁺ (f x_m) + W⁻ (f x_-m),    y_-m = W⁺ (f x_-m) - W⁻ (f x_m)

    Diagonal weights give a :class:`Convolution` of the coupled family. Source: Passaro and Zitnick 2023, arXiv:2302.03655.
    """

    operation = "mixing"

    @abstractmethod
    def message(self, x: Tensor, geometry: Any, factors: RadialWeight | None, weight: Tensor) -> Tensor:
        """Message of every edge.

        Args:
            x: features [E, lm_in, C] of the edges.
            geometry: what :meth:`geometry` returned.
            factors: f, with the matrix [H, F, C] for the F entries of ``spec.own_factors``, or [H, degree_in + 1, C] for one per
                degree, which all orders share; None: 1.
            weight: [W, C, C'].

        Returns:
            [E, lm_out, C'].
        """

    def forward(
        self,
        x: Tensor,
        geometry: Any,
        factors: RadialWeight | None,
        weight: Tensor,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        """Sum of the messages of the senders' features x [N, lm_in, C] at every receiver -> [num_receivers, lm_out, C']."""
        messages = self.message(x.index_select(0, senders), geometry, factors, weight)
        return messages.new_zeros(num_receivers, *messages.shape[1:]).index_add(0, receivers, messages)


class Product(TensorProduct):
    """z = x ⊗ y, channel by channel.

    Attributes:
        in_two_steps: whether compiled code may make its samples over degrees and then over orders.
    """

    operation = "product"
    in_two_steps = False

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Product of x [N, lm_in, C] and y [N, lm_filter, C] with weight [W, C] or [N, W, C] -> [N, lm_out, C]."""


class Power(TensorProduct):
    """Symmetric products of 1 ... order copies of one field, channel by channel."""

    operation = "power"

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        """Power of x [N, lm_in, C] with weight [groups, W, C] chosen by group [N] -> [N, lm_out, C]."""


def side_by_side(spec: Spec, rows: Tensor) -> Tensor:
    """Blocks one after another [N, K · lm_out, C] -> side by side [N, lm_out, K · C]."""
    if spec.num_blocks == 1:
        return rows
    return rows.unflatten(1, (spec.num_blocks, -1)).transpose(1, 2).flatten(2)


def one_after_another(spec: Spec, features: Tensor) -> Tensor:
    """The inverse of :func:`side_by_side`."""
    if spec.num_blocks == 1:
        return features
    return features.unflatten(2, (spec.num_blocks, -1)).transpose(1, 2).flatten(1, 2)


def unit(vectors: Tensor) -> Tensor:
    """Directions of edge vectors [E, 3]."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
