"""What is measured: a training step of a model on one slab."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import ase
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eqmol.checkpoint import build
from eqmol.data import places
from eqmol.data.oc20.frame import Reading
from eqmol.data.oc20.readers.find import reader
from eqmol.graph import AtomGraph, collate, from_atoms
from eqmol.train.loss import Term, WeightedLoss

CONF = Path(__file__).parents[2] / "conf"
SLAB, SAMPLE = "trajectories/random1000120.traj", "emt_0.extxyz.xz"
FORCES = ("conservative", "direct")
#: model of conf/model -> its family and the algorithms that run it
MODELS = {"gaunt": ("gaunt", ("cg", "escn", "gaunt", "gaunt_fft", "grid")), "equiformer": ("coupled", ("cg", "escn"))}
LEARNING_RATE = 1e-4


class Case(NamedTuple):
    """One measurement; ``options`` are those of train.py."""

    forces: str
    model: str
    degree: int
    backend: str
    options: tuple[str, ...] = ()


class Step:
    """A model, its optimiser and a batch of one slab; calling it trains one step."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        settings = [f"model={case.model}", f"backend={case.backend}", f"predictor.forces={case.forces}", "data=oc20"]
        settings += ["model.cutoff=6", f"model.family={MODELS[case.model][0]}", f"model.degree={case.degree}"]
        settings += [f"model.filter_degree={2 * case.degree}", f"model.degree_out={int(case.forces == 'direct')}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", [*settings, *case.options])
        graph = slab(config.model.cutoff)
        self.batch, elements = collate([graph]), graph.atomic_numbers.unique().tolist()
        config.statistics = {
            "elements": elements,
            "e0": [0.0] * len(elements),
            "scale": 1.0,
            "label_scales": {"energy": 1.0, "forces": 1.0},
            "avg_num_neighbors": graph.num_edges / graph.num_nodes,
        }
        task = OmegaConf.to_container(config.task, resolve=True)
        assert isinstance(task, dict)
        terms = {name: Term(**settings) for name, settings in task["targets"].items()}
        self.loss = WeightedLoss(terms, task["raise_at"]).settled(config.statistics.label_scales)
        self.model = build(OmegaConf.to_container(config.predictor, resolve=True)).train()  # type: ignore[arg-type]
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE)

    def __call__(self) -> None:
        self.loss(self.model(self.batch), self.batch, raised=0.0).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def peak_memory(self) -> float:
        """MiB that PyTorch's allocator hands out at most at one time during a step."""
        cpu = torch.profiler.ProfilerActivity.CPU
        with silent(), torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
            self()
        events = profile.profiler.kineto_results.events()
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        return max(accumulate(size for _, size in changes)) / 2**20


@contextmanager
def silent() -> Iterator[None]:
    """Drop what the profiler writes to the standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def slab(cutoff: float) -> AtomGraph:
    """The first frame of the slab of OC20, or of the embedded sample."""
    folder = places.find("oc20", [SLAB])
    path = Path(SLAB) if folder else Path(SAMPLE)
    folder = folder or places.find("oc20_sample", [SAMPLE])
    if folder is None:
        raise places.not_found("oc20_sample", "it is part of a checkout")
    frame, source = next(reader(path.name)(folder / path, 0, 1, Reading(infer_tags=True)))
    atoms = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    labels = {"energy": frame.energy, "forces": frame.forces, "tags": frame.tags, "fixed": frame.fixed}
    return from_atoms(atoms, cutoff, source=source, **labels)  # type: ignore[arg-type]
