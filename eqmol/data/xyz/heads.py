"""Several sets of labels for one model (``data=heads``), such as levels of theory: each has readouts and E0s of its own."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType

from eqmol.data.datamodule import GraphSets
from eqmol.data.options import by_name, wrong
from eqmol.data.replay import share_number
from eqmol.data.xyz.datamodule import FileSets
from eqmol.data.xyz.labels import complete
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.electronic import ElectronicState

_EXAMPLE = "{pbe: {train_file: a.xyz}, ccsd: {train_file: b.xyz}}"


class HeadSets(GraphSets):
    """Sets of files, each with labels of its own kind, as one.

    Args:
        heads: name -> options of :class:`FileSets`.
        share: name of one head -> share of each epoch that its structures have, drawn anew every time; None: all of all heads.
        options: of all of them, see :class:`GraphSets`.

    Raises:
        InputError: fewer than two heads, options that cannot be, or heads with properties or dispersion.
    """

    train_graphs: list[AtomGraph]
    val_graphs: list[AtomGraph]
    test_graphs: dict[str, list[AtomGraph]]

    def __init__(
        self, *, heads: Mapping[str, Mapping[str, Any]], share: Mapping[str, float] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        given = by_name("heads", heads, _EXAMPLE)
        if len(given) < 2 or not all(isinstance(each, Mapping) for each in given.values()):
            raise wrong("heads", heads, f"at least two names with options of data=xyz, as in {_EXAMPLE}")
        self.share = by_name("share", share, "{pbe: 0.25}")
        if len(self.share) > 1 or not set(self.share) <= set(given):
            raise wrong("share", share, f"a part of one of {', '.join(given)}, as in {{{next(iter(given))}: 0.25}}")
        self.parts = {name: self._part(name, options | dict(each)) for name, each in given.items()}

    @staticmethod
    def _part(name: str, options: Mapping[str, Any]) -> FileSets:
        known = {*signature(FileSets.__init__).parameters, *signature(GraphSets.__init__).parameters} - {
            "self",
            "options",
        }
        if unknown := set(options) - known:
            raise InputError(
                f"data.heads.{name} has the unknown key {min(unknown)}; it takes {', '.join(sorted(known))}"
            )
        try:
            part = FileSets(**{"train_file": None, **options})
        except InputError as error:
            raise InputError(f"data.heads.{name}: {error}") from None
        if part.targets or part.dispersion is not None or part.replay is not None:
            raise InputError(f"data.heads.{name}: heads have neither targets nor dispersion nor replay; leave them out")
        return part

    def setup(self, stage: str | None = None) -> None:
        """Read every file, once.

        Raises:
            InputError: see :class:`FileSets`; names the head.
        """
        if self.train_graphs:
            return
        self.test_graphs = {}
        for number, (name, part) in enumerate(self.parts.items()):
            part.few = self.few
            try:
                part.setup(stage)
            except InputError as error:
                raise InputError(f"data.heads.{name}: {error}") from None
            tests = {f"{name} {test}": graphs for test, graphs in part.test_graphs.items()}
            self.test_graphs |= tests
            for graphs in (part.train_graphs, part.val_graphs, *tests.values()):
                for graph in graphs:
                    graph.head = torch.tensor([number])
                    graph.config_type = f"{name}{': ' * bool(graph.config_type)}{graph.config_type}"
        drawn = next(iter(self.share), None)
        order = [name for name in self.parts if name != drawn] + ([] if drawn is None else [drawn])
        self.train_graphs = [graph for name in order for graph in self.parts[name].train_graphs]
        self.val_graphs = [graph for part in self.parts.values() for graph in part.val_graphs]
        if drawn is not None:
            some = len(self.parts[drawn].train_graphs)
            self.drawn = (some, share_number(self.share[drawn], len(self.train_graphs) - some, some))
        complete([*self.train_graphs, *self.val_graphs, *(g for graphs in self.test_graphs.values() for g in graphs)])

    def statistics(self) -> dict[str, Any]:
        """Return "elements" of all heads, "e0" for each, and means of the other numbers over all structures."""
        found = [part.statistics() for part in self.parts.values()]
        elements = sorted({z for each in found for z in each["elements"]})
        energies = [dict(zip(each["elements"], each["e0"], strict=True)) for each in found]
        weights = np.array([len(part.train_graphs) for part in self.parts.values()], np.float64)

        def mean(values: list[float], chosen: list[int]) -> float:
            return float(np.sqrt(np.average(np.square(values), weights=weights[chosen])))

        labels = {name for each in found for name in each["label_scales"]}
        having = {name: [i for i, each in enumerate(found) if name in each["label_scales"]] for name in sorted(labels)}
        every = list(range(len(found)))
        return {
            "heads": list(self.parts),
            "elements": elements,
            "e0": [[each.get(z, 0.0) for z in elements] for each in energies],
            "scale": mean([each["scale"] for each in found], every),
            "label_scales": {
                name: mean([found[i]["label_scales"][name] for i in which], which) for name, which in having.items()
            },
            "avg_num_neighbors": float(np.average([each["avg_num_neighbors"] for each in found], weights=weights)),
        }

    def electronic_state(self) -> ElectronicState:
        """Return charge and spin of all structures, where the heads agree."""
        states = [part.electronic_state() for part in self.parts.values()]
        return states[0] if len(set(states)) == 1 else ElectronicState(None, None)

    def label_keys(self) -> dict[str, str]:
        """Return label -> its key where all heads have the same."""
        first, *others = [part.label_keys() for part in self.parts.values()]
        return {label: key for label, key in first.items() if all(other.get(label) == key for other in others)}

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training, head by head."""
        return [shown for name, part in self.parts.items() for shown in (f"head {name}", *part.tables())]
