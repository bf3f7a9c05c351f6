"""The predictor without a network that a model of OC20 has to beat: the mean energy of each system, and no forces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqmol.data.oc20.graphs import FrameGraphs


class MeanEnergy:
    """Mean over the training frames of a structure's system: the same atoms at other places.

    Of a system without training frames it is the energy of its elements and the mean, over all training frames, of what
    their energies are beyond that.

    Args:
        train: the training set.
        elements: atomic numbers.
        e0: their energies, eV; 0 where adsorption energies are learnt.
    """

    name, learns = "mean energy, zero forces", False

    def __init__(self, train: FrameGraphs, elements: Sequence[int], e0: Sequence[float]) -> None:
        library, systems = train.library, train.library.system[train.indices]
        self.of_element = np.zeros(library.composition.shape[1])
        self.of_element[list(elements)] = e0
        beyond = train.energy[train.indices] - (library.composition @ self.of_element)[systems]
        counts, sums = np.bincount(systems), np.bincount(systems, beyond)
        self.of_system = {library.systems[i]: float(sums[i] / counts[i]) for i in np.flatnonzero(counts)}
        self.overall = float(beyond.mean())

    def learn(self, batch: Any) -> None:
        """Do nothing: all is known."""

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return energy [G] (eV) and forces [N, 3] of a batch."""
        elements = torch.from_numpy(self.of_element).to(batch.pos.device)
        beyond = [self.of_system.get(_system(source), self.overall) for source in batch.source]
        energy = elements.new_tensor(beyond).index_add(0, batch.batch, elements[batch.atomic_numbers])
        return {"energy": energy, "forces": torch.zeros_like(batch.pos)}


def _system(source: str) -> str:
    """Return "random12" of the source "FILE, random12 frame 3"."""
    return source.rpartition(" frame ")[0].rpartition(", ")[2]
