"""Properties of molecules from node features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.graph import edge_vectors, owners
from eqmol.graph.keys import FEATURES
from eqmol.graph.targets import MOLECULAR, Target, not_molecular
from eqmol.models.arguments import check_flag, check_integer, check_list, check_number
from eqmol.models.backbone import Backbone
from eqmol.models.predictor import Predictor
from eqmol.models.property_heads import HEADS, POOLINGS, AtomVectors, Head, Structures
from eqmol.models.reference import DoubleBuffers

if TYPE_CHECKING:
    from eqmol.graph.geometric import Data

GAPS = ("direct", "difference")
#: What the statistics of a target hold.
ENTRY = frozenset({"kind", "unit", "e0", "mean", "scale", "spread"})


class Standardise(DoubleBuffers):
    """Features of the training set have the mean 0 and the variance 1 after it.

    Args:
        features: per name "mean" and "scale".
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: dict[str, dict[str, float]]) -> None:
        super().__init__()
        for name, entry in features.items():
            if not isinstance(entry, dict) or entry.keys() != {"mean", "scale"}:
                raise InputError(f"the feature {name} must have mean and scale")
        self.names = tuple(features)
        for key, lowest in (("mean", -1e9), ("scale", 1e-9)):
            values = [check_number(f"{key} of {name}", features[name][key], lowest, 1e9) for name in features]
            self.register_buffer(key, torch.tensor(values, dtype=torch.float64), persistent=False)

    def forward(self, graph: Data) -> Tensor:
        """-> [N, features] float64.

        Raises:
            InputError: the graph does not carry them.
        """
        if not self.names:
            return graph.pos.new_zeros(len(graph.pos), 0)
        if FEATURES not in graph:
            raise InputError(
                f"the model reads {', '.join(self.names)}, which need bonds; give molecules as SMILES, .sdf or .mol2"
            )
        return (graph[FEATURES] - self.mean) / self.scale


def check_pooling(value: object) -> None:
    """Refuse an unknown way to pool atoms."""
    if not isinstance(value, str) or value not in POOLINGS:
        raise InputError(f"pooling={value!r:.80} is unknown; choose from {', '.join(POOLINGS)}")


class PropertyHeads(nn.ModuleDict):
    """Several properties from the same features, each by a head that suits its kind; see :mod:`eqmol.graph.targets`.

    Args:
        backbone: whose features are read.
        statistics: per property "kind" and "unit", see :class:`eqmol.graph.targets.Target`, and in its unit "e0" for each
            element, "mean", "scale" and "spread", see :mod:`eqmol.data.targets`.
        readout_hidden: width of the readouts' hidden layer.
        pooling: of atoms in intensive properties, ``mean`` or ``softmax``, the mean with learnt weights.
        gap: ``direct``, or ``difference`` for lumo - homo, which must then be properties too.
        num_inputs: how many further inputs the readouts have.

    Raises:
        InputError: an argument of the wrong type, size or range, or features of too low a degree.
    """

    def __init__(
        self,
        backbone: Backbone,
        statistics: dict[str, Any],
        readout_hidden: int = 16,
        pooling: str = "softmax",
        gap: str = "direct",
        num_inputs: int = 0,
    ) -> None:
        super().__init__()
        check_integer("readout_hidden", readout_hidden, 1, 2048)
        if not isinstance(statistics, dict) or not statistics:
            raise InputError("statistics must name at least one property")
        if gap not in GAPS:
            raise InputError(f"gap={gap!r} is unknown; choose from {', '.join(GAPS)}")
        check_pooling(pooling)
        self.gap_is_difference = gap == "difference"
        if self.gap_is_difference and not {"homo", "lumo", "gap"} <= statistics.keys():
            raise InputError("gap=difference is lumo - homo: add homo and lumo to the targets, or choose gap=direct")
        self.targets = {name: _target(name, entry) for name, entry in statistics.items()}
        kinds = HEADS | {"intensive": POOLINGS[pooling]}
        for name, entry in statistics.items():
            if not (name == "gap" and self.gap_is_difference):
                self[name] = _head(kinds, self.targets[name], entry, backbone, readout_hidden, num_inputs)

    @property
    def molecular(self) -> tuple[Target, ...]:
        """The properties that periodic structures do not have."""
        return tuple(target for target in self.targets.values() if target.kind in MOLECULAR)

    def element_values(self, name: str) -> Tensor:
        """What an atom of each element contributes to a property by itself, [elements] float64."""
        head = self[name]
        assert isinstance(head, Head)
        return head.e0

    def forward(self, features: list[Tensor], graph: Data, species: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        """Predict.

        Args:
            features: [N, lm, C] of each set of the backbone.
            graph: a batch, or one.
            species: [N] index of the element of each atom.
            inputs: [N, inputs] further inputs of the readouts.

        Returns:
            See :meth:`Properties.forward`.
        """
        batch = owners(graph)
        natoms = torch.bincount(batch, minlength=len(graph.cell)).double()
        structures = Structures(graph.pos, graph.atomic_numbers, species, batch, natoms, inputs)
        values: dict[str, Tensor] = {}
        further: dict[str, Tensor] = {}
        for name, head in self.items():
            found = head(features, structures)
            values[name] = found.pop("value")
            further |= found
        if self.gap_is_difference:
            values["gap"] = values["lumo"] - values["homo"]
        return further | values


class Properties(Predictor):
    """Several properties from one backbone.

    Args:
        backbone: returns sets of node features.
        elements: atomic numbers, the same as the backbone's.
        statistics, gap, readout_hidden, pooling: see :class:`PropertyHeads`.
        denoise: also predict the displacement of atoms, for training with noisy nodes.
        features: per further input, see :mod:`eqmol.molecules.features`, "mean" and "scale" over the atoms of the training set.

    Attributes:
        features: the names of those inputs, which graphs then must carry.

    Raises:
        InputError: an argument of the wrong type, size or range, or features of too low a degree.
    """

    def __init__(
        self,
        backbone: Backbone,
        elements: list[int],
        statistics: dict[str, Any],
        gap: str = "direct",
        readout_hidden: int = 16,
        denoise: bool = False,
        features: dict[str, dict[str, float]] | None = None,
        pooling: str = "softmax",
    ) -> None:
        super().__init__(backbone, elements)
        self.features = tuple(features or {})
        self.inputs = Standardise(features or {})
        self.heads = PropertyHeads(backbone, statistics, readout_hidden, pooling, gap, len(self.features))
        self.noise = AtomVectors(backbone, "denoise=True") if check_flag("denoise", denoise) else None

    @property
    def targets(self) -> dict[str, Target]:
        """The properties, by name."""
        return self.heads.targets

    def forward(self, graph: Data) -> dict[str, Tensor]:
        """Predict.

        Args:
            graph: one or several, see :class:`eqmol.graph.AtomGraph`.

        Returns:
            Every property in its unit, float64, in the shape of its kind; for a dipole moment also "charges" [N] in e, for its
            norm also "dipole" [G, 3] in D; with ``denoise`` in training also "noise" [N, 3].

        Raises:
            InputError: an element that the model does not know, two atoms at the same place, a graph without the features
                that the model reads, or a dipole moment or extent of a periodic structure.
        """
        with torch.inference_mode(False), torch.set_grad_enabled(self.training):
            if self.heads.molecular and bool(graph.pbc.any()):
                raise not_molecular(self.heads.molecular[0], "the structure")
            species = self.species(graph)
            vectors = edge_vectors(graph)
            senders, receivers = graph.edge_index
            features = self.backbone.of_graphs(vectors.to(self.dtype), species, senders, receivers, owners(graph))
            results = self.heads(features, graph, species, self.inputs(graph).to(self.dtype))
            if self.noise is not None and self.training:
                results["noise"] = self.noise(features)
        return results

    def element_values(self, name: str) -> Tensor:
        """Atom references of a property."""
        return self.heads.element_values(name)


def _target(name: str, entry: Any) -> Target:
    """The target of one property."""
    if name in dir(nn.ModuleDict):
        raise InputError(f"{name} cannot name a target, as it means something else in models; give it another name")
    if not isinstance(entry, dict) or entry.keys() != ENTRY:
        raise InputError(f"statistics of {name} must have {', '.join(sorted(ENTRY))}")
    check_number(f"spread of {name}", entry["spread"], 1e-9, 1e9)
    return Target(name, entry["kind"], entry["unit"])


def _head(
    kinds: dict[str, type[Head]],
    target: Target,
    entry: dict[str, Any],
    backbone: Backbone,
    hidden: int,
    num_inputs: int,
) -> Head:
    """The head of one property."""
    name, num_elements = target.name, len(backbone.elements)
    e0 = [check_number(f"each e0 of {name}", value, -1e9, 1e9) for value in check_list("e0", entry["e0"], num_elements)]
    if len(e0) != num_elements:
        raise InputError(f"e0 of {name} has {len(e0)} values for {num_elements} elements; give one per element")
    mean = check_number(f"mean of {name}", entry["mean"], -1e9, 1e9)
    scale = check_number(f"scale of {name}", entry["scale"], 1e-9, 1e9)
    return kinds[target.kind](backbone, hidden, e0, mean, scale, num_inputs)
