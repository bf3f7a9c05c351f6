"""What every backbone gives to the predictors that read its features.

A backbone of one's own is made known with :func:`eqmol.models.register`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eqmol.models.recompute import recompute
from eqmol.ops.contract import EdgeProduct

#: Reads sets of features: values [N], and derivatives of their sum by the first component of each set [N, C].
Read = Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]]


class Backbone(nn.Module, ABC):
    """Node features from edge vectors and elements.

    Attributes:
        cutoff: Å.
        elements: atomic numbers; species are indices into them.
        channels: C.
        num_outputs: how many sets of features :meth:`forward` returns.
        degree_out: highest degree of the last set.
        hops: how many edges away an atom may be and still act on the features; None where that is not known.
        samples_sphere: functions on the sphere are sampled somewhere, which breaks rotations a little.
        checkpointing: recompute each layer's activations when they are needed again, instead of storing them.
    """

    cutoff: float
    elements: list[int]
    channels: int
    num_outputs: int = 1
    degree_out: int = 0
    hops: int | None = None
    samples_sphere: bool = False
    checkpointing: bool = False

    @abstractmethod
    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> list[Tensor]:
        """Sets of features.

        Args:
            vectors: [E, 3] edge vectors in Å, from receiver to sender, in the dtype of the parameters.
            species: [N] index into ``elements``.
            senders, receivers: [E] ends of the edges, sorted by receiver.

        Returns:
            ``num_outputs`` times [N, lm, C], the first component a scalar.
        """

    def of_graphs(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, graphs: Tensor
    ) -> list[Tensor]:
        """:meth:`forward` where the graph [N] of every node is known, on which noise of training alone may depend."""
        return self(vectors, species, senders, receivers)

    def read(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, read: Read
    ) -> tuple[Tensor, Tensor] | None:
        """What is read from the features, and derivatives of its sum by the vectors [E, 3], without a record of operations.

        Args:
            vectors, species, senders, receivers: as of :meth:`forward`, of a model whose weights are constants.
            read: see :data:`Read`; it must not keep the features.

        Returns:
            Both, or None where the backbone knows no such way.
        """
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    def tabulate(self, nodes: int | None) -> bool:
        """Read radial weights from tables wherever the model is evaluated, while its weights are constants.

        Args:
            nodes: of each table; None for the networks themselves.

        Returns:
            Whether the model has tables now.
        """
        return False

    def table_error(self, shortest: Tensor | None = None) -> tuple[float, float]:
        """Largest error of the tables of a float64 model between nodes, relative to the root mean square of what they hold.

        Args:
            shortest: Å, lengths of the training set, see :func:`eqmol.graph.contacts.shortest_distances`; None: it had all.

        Returns:
            Over lengths that training had, and over others.
        """
        return 0.0, 0.0

    @property
    def table_nodes(self) -> int | None:
        """Nodes of the tables, if the model has some."""
        return None

    def run(self, layer: nn.Module, *arguments: Any) -> Any:
        """Call a layer, with its activations stored or recomputed; also right when the gradient is differentiated."""
        if self.checkpointing and torch.is_grad_enabled():
            return recompute(layer, *arguments)
        return layer(*arguments)


def edge_geometries(modules: Iterable[nn.Module], vectors: Tensor) -> dict[Hashable, Any]:
    """Per-edge tensors of convolutions among modules by their ``geometry_key``, each kind once, from vectors [E, 3]."""
    convolutions = {m.geometry_key: m for m in modules if isinstance(m, EdgeProduct)}
    return {key: convolution.geometry(vectors) for key, convolution in convolutions.items()}
