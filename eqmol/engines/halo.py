"""A part of a divided structure: energies of its own atoms, and what these are to all atoms near by.

A model of k message-passing steps and cutoff r gives the energy of an atom from the atoms within k edges, none of which is farther
than k r: the halo. Energies of own atoms are then those of the whole structure, and forces and virials of the parts add up to those
of the whole, exactly.

Shapes: N atoms, own ones first, then those of the halo; n own atoms; E edges.
"""

from typing import NamedTuple

import ase
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from eqmol.errors import InputError
from eqmol.graph import AtomGraph, NeighborList
from eqmol.inference.evaluate import close_contacts, graph_of
from eqmol.models import Potential


class Part(NamedTuple):
    """What the own atoms of a part contribute.

    Attributes:
        energies: [n] eV, of the own atoms.
        forces: [N, 3] eV/Å, minus the derivative of the sum of ``energies``, on own atoms and on those of the halo.
        virial: [3, 3] eV, -d(sum of energies)/dstrain.
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]


class HaloPotential:
    """A potential for parts of structures.

    Args:
        model: in evaluation mode.
        skin: Å, see :class:`eqmol.graph.NeighborList`.
        contacts: ``"stop"`` or ``"warn"``, see :class:`eqmol.Calculator`.

    Raises:
        InputError: forces that are no derivatives, or a backbone that does not say how far atoms act.

    Attributes:
        halo: Å, how far away atoms act on the energy of an atom.
    """

    def __init__(self, model: Potential, skin: float = 0.0, contacts: str = "stop") -> None:
        if not model.conservative:
            raise InputError(
                "this model's forces are no derivatives (forces=direct): its energies of parts give no forces; use a model "
                "with forces=conservative"
            )
        if model.backbone.hops is None:
            raise InputError(
                f"{type(model.backbone).__name__} does not say how many edges away atoms act; set its attribute hops"
            )
        if model.dispersion is not None:
            raise InputError(
                f"the model has {model.dispersion.words()}, which reaches beyond the parts that LAMMPS divides structures into; "
                "use eqmol md, or another engine"
            )
        self.model = model
        self.hops = model.backbone.hops
        self.halo = self.hops * model.cutoff
        self._skin = skin
        self._contacts = close_contacts(model, contacts)
        self._numbers: NDArray[np.int64] | None = None
        self._neighbors = NeighborList(model.cutoff, skin)

    def __call__(self, positions: ArrayLike, numbers: ArrayLike, own: int, source: str = "") -> Part:
        """Evaluate a part.

        Args:
            positions: [N, 3] Å, of all own atoms and at least of all images of others that are nearer than :attr:`halo` to one.
            numbers: [N] atomic numbers.
            own: n.
            source: for messages.

        Raises:
            InputError: see :class:`eqmol.Calculator`.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        if own == 0:
            return Part(np.zeros(0), np.zeros((len(numbers), 3)), np.zeros((3, 3)))
        if not np.array_equal(numbers, self._numbers if self._numbers is not None else ()):
            self._neighbors = NeighborList(self.model.cutoff, self._skin)
            self._numbers = numbers
        atoms = ase.Atoms(numbers, positions=np.asarray(positions))
        whole = graph_of(self.model, atoms, source, self._neighbors, self._contacts)
        graph, kept = _reachable(whole, own, self.hops)
        device = next(self.model.parameters()).device
        owned = torch.arange(len(kept), device=device) < own
        output = self.model(graph.to(device), forces=True, stress=True, owned=owned)
        values = {name: output[name].cpu().double().numpy() for name in ("energies", "forces", "virial")}
        forces = np.zeros((len(numbers), 3))
        forces[kept.numpy()] = values["forces"]
        part = Part(values["energies"][:own], forces, values["virial"][0])
        if not all(np.isfinite(value).all() for value in part):
            raise InputError(
                f"{source}{': ' if source else ''}energies or forces are not finite; atoms are too close to each other, or "
                "the structure is far outside the training data"
            )
        return part


def _reachable(graph: AtomGraph, own: int, hops: int) -> tuple[AtomGraph, Tensor]:
    """The graph of what acts on the first atoms, and which atoms these are, in their order.

    The last step reads features of the own atoms' neighbours, for which those of their neighbours are read, ...: edges are needed
    to receivers within ``hops - 1`` edges of an own atom.
    """
    senders, receivers = graph.edge_index
    near = torch.arange(len(graph.pos)) < own
    for _ in range(hops - 1):
        near[senders[near[receivers]]] = True
    edges = torch.nonzero(near[receivers]).squeeze(-1)
    senders, receivers = senders[edges], receivers[edges]
    used = torch.arange(len(graph.pos)) < own
    used[senders] = True
    kept = torch.nonzero(used).squeeze(-1)
    place = torch.cumsum(used, 0) - 1
    part = AtomGraph(
        pos=graph.pos[kept],
        atomic_numbers=graph.atomic_numbers[kept],
        cell=graph.cell,
        pbc=graph.pbc,
        edge_index=place[torch.stack([senders, receivers])],
        shifts=graph.shifts[edges],
        config_type=graph.config_type,
        source=graph.source,
    )
    return part, kept
