"""What every data set keeps: a set inherits from :class:`DataSetTests` and says how it is made."""

import copy
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

import eqmol
from eqmol.checkpoint.recipe import check_plain
from eqmol.cli.train import CONF
from eqmol.data.atomic_energies import IMPLAUSIBLE
from eqmol.data.datamodule import SPLITS, GraphSets
from eqmol.graph import AtomGraph, collate, edge_vectors
from eqmol.graph.keys import LABELS
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.inference.errors import Errors
from eqmol.train.run import run

CUTOFF = 3.0
#: Å; closer atoms or lonelier ones would tell of other units.
BOND_LENGTHS = (0.6, 3.0)
#: eV/Å; root mean squares of forces between those of relaxed and of broken structures.
FORCE_SIZES = (0.01, 20.0)
TINY = [
    "model.channels=2",
    "model.filter_degree=1",
    "model.correlation=2",
    "model.layers=1",
    "model.radial_hidden=[4]",
    f"model.cutoff={CUTOFF}",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.overfit=3",
    "logger=csv",
]


class DataSetTests(ABC):
    """The tests; none of them changes a set."""

    #: Options of a training run, but for what :meth:`options` adds.
    group: str

    @classmethod
    @abstractmethod
    def prepare(cls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Put the files of the set below ``folder/data``."""

    @classmethod
    @abstractmethod
    def make(cls, folder: Path, **options: Any) -> GraphSets:
        """Make the set, before it is set up."""

    @classmethod
    def options(cls, folder: Path) -> list[str]:
        """Further options of a run."""
        return []

    @classmethod
    def ready(cls, folder: Path, **options: Any) -> GraphSets:
        data = cls.make(folder, **{"cutoff": CUTOFF, "batch_size": 4} | options)
        data.prepare_data()
        data.setup("fit")
        return data

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        folder = tmp_path_factory.mktemp("set")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("EQMOL_DATA", str(folder / "data"))
            patch.setenv("EQMOL_CACHE", str(folder / "cache"))
            cls.prepare(folder, patch)
            yield folder

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, folder: Path) -> GraphSets:
        return cls.ready(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def graphs(cls, data: GraphSets) -> dict[str, list[AtomGraph]]:
        """At most twenty graphs of each set, which may make them when asked."""
        sets = {"train": data.train_graphs, "val": data.val_graphs, **data.test_graphs}
        return {name: [graphs[i] for i in range(min(len(graphs), 20))] for name, graphs in sets.items()}

    def test_lengths_energies_and_forces_have_the_size_of_angstrom_and_ev(
        self, data: GraphSets, graphs: dict[str, list[AtomGraph]]
    ) -> None:
        statistics = data.statistics()
        e0 = dict(zip(statistics["elements"], statistics.get("e0", []), strict=False))
        for some in graphs.values():
            for graph in some:
                shortest = torch.full((graph.num_nodes,), torch.inf).double()
                lengths = edge_vectors(graph).norm(dim=1)
                shortest = shortest.scatter_reduce(0, graph.edge_index[1], lengths, "amin")
                assert BOND_LENGTHS[0] < shortest.min() <= shortest.max() < BOND_LENGTHS[1]
                for label in LABELS:
                    if label in graph:
                        assert graph[label].dtype == torch.float64
                        assert not graph[label].isinf().any()
                if ENERGY.name in graph:
                    binding = graph.energy - sum(e0[z] for z in graph.atomic_numbers.tolist())
                    assert abs(float(binding)) / graph.num_nodes < IMPLAUSIBLE
            if FORCES.name in some[0]:
                forces = torch.cat([graph.forces for graph in some])
                assert FORCE_SIZES[0] < forces[forces.isfinite()].square().mean().sqrt() < FORCE_SIZES[1]

    def test_required_labels_are_there(self, data: GraphSets, graphs: dict[str, list[AtomGraph]]) -> None:
        declared = {target.name for target in data.targets}
        for name in data.required:
            assert name in declared or all(graph[name].isfinite().all() for some in graphs.values() for graph in some)

    def test_targets_are_declared_and_carried(self, data: GraphSets, graphs: dict[str, list[AtomGraph]]) -> None:
        assert all(isinstance(target, Target) for target in data.targets)
        assert set(data.required) - set(LABELS) <= {target.name for target in data.targets}
        measured = data.statistics().get("properties", {})
        assert list(measured) == [target.name for target in data.targets]
        for target in data.targets:
            assert measured[target.name].items() >= target.plain().items()
            assert len(measured[target.name]["e0"]) == len(data.statistics()["elements"])
            for graph in (graph for some in graphs.values() for graph in some):
                rows = graph.num_nodes if target.is_atomic else 1
                assert graph[target.field].shape == (rows, *target.components)
                assert graph[target.field].dtype == torch.float64
            assert any(graph[target.field].isfinite().all() for graph in graphs["train"])

    def test_statistics_are_plain_and_know_all_elements(
        self, data: GraphSets, graphs: dict[str, list[AtomGraph]]
    ) -> None:
        statistics = data.statistics()
        assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
        check_plain(statistics, "statistics")
        elements = statistics["elements"]
        assert elements == sorted(set(elements))
        found = {int(z) for some in graphs.values() for graph in some for z in graph.atomic_numbers}
        assert found <= set(elements)
        assert 0 < statistics["avg_num_neighbors"] < 100
        assert min(statistics.get("scale", 1.0), *statistics.get("label_scales", {"": 1.0}).values()) > 0

    def test_shortest_distances_are_those_of_the_training_set(
        self, data: GraphSets, graphs: dict[str, list[AtomGraph]]
    ) -> None:
        elements = data.statistics()["elements"]
        shortest = data.shortest_distances(elements)
        assert shortest.shape == (len(elements), len(elements))
        assert shortest.equal(shortest.T)
        for graph in graphs["train"]:
            kinds = torch.searchsorted(torch.tensor(elements), graph.atomic_numbers)[graph.edge_index]
            assert (edge_vectors(graph).norm(dim=1) >= shortest[kinds[0], kinds[1]] - 1e-9).all()

    def test_no_structure_is_in_two_sets(self, data: GraphSets) -> None:
        seen: dict[bytes, str] = {}
        for name, some in data._sets().items():
            for i in range(len(some)):
                key = some[i].pos.numpy().tobytes() + some[i].atomic_numbers.numpy().tobytes()
                assert seen.setdefault(key, name) == name, some[i].source

    def test_the_seed_makes_the_split(self, data: GraphSets, folder: Path) -> None:
        def sources(sets: GraphSets) -> list[list[str]]:
            return [[some[i].source for i in range(len(some))] for some in (sets.train_graphs, sets.val_graphs)]

        assert sources(self.ready(folder)) == sources(data)
        assert sources(self.ready(folder, seed=5)) != sources(data)

    def test_batches_give_the_graphs_back(self, graphs: dict[str, list[AtomGraph]]) -> None:
        some = [graph for part in graphs.values() for graph in part[:3]]
        batch = collate(some)
        assert batch.num_graphs == len(some)
        assert batch.source == [graph.source for graph in some]
        for number, graph in enumerate(some):
            found = batch.get_example(number)
            assert found.keys() == graph.keys()
            assert (found.source, found.config_type) == (graph.source, graph.config_type)
            tensors = {key: value for key, value in graph.to_dict().items() if isinstance(value, torch.Tensor)}
            for key, value in tensors.items():
                torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True, msg=key)

    def test_every_loader_has_every_structure_once(self, data: GraphSets) -> None:
        loaders = data.evaluation_dataloaders()
        assert list(loaders) == [*SPLITS, *data.test_graphs]
        for name, loader in {
            **loaders,
            "shuffled": data.train_dataloader(),
            "validation": data.val_dataloader(),
        }.items():
            sources = [source for batch in loader for source in batch.source]
            assert len(sources) == len(set(sources)) == len(loader.dataset), name

    def test_batches_continue_where_they_stopped(self, data: GraphSets) -> None:
        whole, first = data.train_dataloader(), data.train_dataloader()
        expected = [batch.source for _ in range(2) for batch in whole]
        seen = [batch.source for _, batch in zip(range(2), first, strict=False)]
        resumed = data.train_dataloader()
        resumed.load_state_dict({**first.state_dict(), "consumed": len(seen)})
        while len(seen) < len(expected):
            seen += [batch.source for batch in resumed]
        assert seen == expected

    def test_the_sample_is_of_the_training_set(self, data: GraphSets) -> None:
        sources = {data.train_graphs[i].source for i in range(len(data.train_graphs))}
        chosen = [graph.source for graph in data.sample()]
        assert 0 < len(chosen) == len(set(chosen))
        assert set(chosen) <= sources
        assert chosen == [graph.source for graph in data.sample()]

    def test_debugging_evaluates_few_structures(self, data: GraphSets) -> None:
        short = copy.copy(data)  # the data are shared by tests
        short.keep_first(2)
        loaders = short.evaluation_dataloaders()
        assert set(loaders) == set(data.evaluation_dataloaders())
        for loader in (*loaders.values(), short.val_dataloader()):
            assert 0 < sum(batch.num_graphs for batch in loader) <= 2

    def test_comparisons_are_errors_of_others(self, data: GraphSets) -> None:
        for name, errors in data.comparisons().items():
            assert name
            assert all(error > 0 and math.isfinite(error) for error in errors.values())

    def test_a_perfect_model_has_no_errors_and_beats_the_baseline(self, data: GraphSets) -> None:
        targets = (ENERGY, FORCES, STRESS, *data.targets)
        errors, beaten = Errors(targets, data.metrics), Errors(targets, data.metrics)
        baseline = data.baseline(data.statistics())
        for batch in data.val_dataloader():
            labels = {target.name: target.labels(batch) for target in targets}
            errors.update({name: label for name, label in labels.items() if label is not None}, batch)
            if baseline is not None:
                beaten.update(baseline(batch), batch)
        summary = errors.summary()
        assert summary["structures"] == len(data.val_graphs)
        assert all(value == 0 for name, value in summary.items() if "_mae" in name and "of_zero" not in name)
        if data.metrics is not None:
            assert {key for _, key, _ in data.metrics.columns} <= summary.keys()
        if baseline is not None:
            assert all(beaten.summary()[name] > 0 for name in summary if "_mae" in name)

    def test_a_person_sees_what_there_is(self, data: GraphSets) -> None:
        console = Console(file=io.StringIO(), width=200)
        for shown in data.tables():
            console.print(shown)
        text = console.file.getvalue()
        for name in (*SPLITS, *data.test_graphs, *(target.name for target in data.targets)):
            assert name in text

    def test_a_run(self, folder: Path, tmp_path: Path) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [self.group, *TINY, f"output_dir={tmp_path / 'run'}", *self.options(folder)])
        metrics = run(cfg, Console(file=io.StringIO(), width=120))
        assert np.isfinite([value for value in metrics["val"].values() if isinstance(value, float)]).all()
        assert metrics["val"]["structures"] == 3
        assert eqmol.load(tmp_path / "run" / "model.safetensors").elements
