"""Energy, forces and stress of atomistic systems from node features.

Shapes: N atoms, E edges, G graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.errors import InputError, short
from eqmol.graph import edge_vectors, owners
from eqmol.graph.dispersion import Dispersion
from eqmol.graph.edges import CHUNK
from eqmol.graph.targets import Target, check_beside_energies
from eqmol.models.arguments import check_flag, check_integer, check_list, check_number
from eqmol.models.backbone import Backbone
from eqmol.models.force_head import ForceHead
from eqmol.models.predictor import Predictor
from eqmol.models.properties import PropertyHeads, check_pooling
from eqmol.models.property_heads import AtomVectors
from eqmol.models.reference import BindingEnergy, ReferenceEnergy
from eqmol.models.repulsion import AUTO, make_repulsion
from eqmol.nn import LinearReadout, NonlinearReadout
from eqmol.so3.kept import kept
from eqmol.threads import each

if TYPE_CHECKING:
    from eqmol.graph.geometric import Data

FORCES = ("conservative", "direct")
MOST_HEADS = 64


class Potential(Predictor):
    """Potential energy and forces.

    The energy of atom i is E0(Z_i) + scale · gain · [f(Z_i, environment) - f(Z_i, no neighbours)] (+ binding) (+ repulsion):
    an atom without neighbours has exactly E0, and the energy is twice continuously differentiable when atoms cross the cutoff.

    Args:
        backbone: returns node features after each layer.
        elements: atomic numbers, the same as the backbone's.
        e0: energy of the isolated atom of each element, eV.
        scale: eV, unit of the network's energies; the root mean square of force components in eV/Å serves well.
        zbl: add the screened repulsion of nuclei; true, or as :func:`eqmol.models.repulsion.make_repulsion` describes. Direct
            forces have none with ``auto``.
        readout_hidden: width of the last readout's hidden layer.
        forces: ``conservative``, minus the derivative of the energy, or ``direct``, an equivariant reading of the features
            that is cheaper but is the derivative of nothing: no energy is conserved and there is no stress.
        gain, force_gain: of what the network returns for energies and for direct forces, so that an untrained model has
            the size of its labels, see :mod:`eqmol.train.start`.
        binding: what atoms of each element have besides E0 with neighbours, eV; see :class:`BindingEnergy`. None: nothing.
        properties: what else is read from the features, see ``statistics`` of :class:`eqmol.models.properties.PropertyHeads`.
        pooling: see :class:`eqmol.models.properties.PropertyHeads`.
        denoise: in training also predict how far atoms are from where they belong, see
            :class:`eqmol.train.objectives.RelaxedObjective`.
        readout_heads: names of H sets of labels, such as levels of theory, each with readouts of its own on the same features;
            ``e0`` and ``binding`` are then lists for each, and graphs say by ``head`` [G] which one is asked. None: one, without
            a name.

    Raises:
        InputError: an argument of the wrong type, size or range.

    Attributes:
        conservative: whether forces are derivatives; only then is there a stress.
        num_last: F, the number of last weights, see :meth:`last_layer`.
    """

    def __init__(
        self,
        backbone: Backbone,
        elements: list[int],
        e0: list[float],
        scale: float,
        zbl: bool | str | Mapping[str, object] = False,
        readout_hidden: int = 16,
        forces: str = "conservative",
        gain: float = 1.0,
        force_gain: float = 1.0,
        binding: list[float] | None = None,
        properties: dict[str, Any] | None = None,
        pooling: str = "softmax",
        readout_heads: list[str] | None = None,
        denoise: bool = False,
    ) -> None:
        super().__init__(backbone, elements)
        self.readout_heads = check_heads(readout_heads)
        energies = self._per_row("e0", e0)
        check_integer("readout_hidden", readout_hidden, 1, 2048)
        channels = backbone.channels
        readouts: list[nn.Module] = []
        for _ in self.readout_heads or ("",):
            readouts += [LinearReadout(channels) for _ in range(backbone.num_outputs - 1)]
            readouts.append(NonlinearReadout(channels, readout_hidden))
        self.readouts = nn.ModuleList(readouts)
        self.num_last = channels * (backbone.num_outputs - 1) + readout_hidden
        self.conservative = _check_forces(forces, backbone, zbl)
        self.force_head = None if self.conservative else ForceHead(channels)
        self.reference = ReferenceEnergy(energies, check_number("scale", scale, 1e-9, 1e9))
        self.gain = check_number("gain", gain, 1e-12, 1e12)
        self.force_gain = check_number("force_gain", force_gain, 1e-12, 1e12)
        self.binding = None if binding is None else BindingEnergy(self._per_row("binding", binding), self.cutoff)
        wanted = self.conservative or zbl != AUTO
        self.repulsion = make_repulsion(zbl, self.elements, self.cutoff) if wanted else None
        check_pooling(pooling)
        self.heads = None if properties is None else PropertyHeads(backbone, properties, readout_hidden, pooling)
        check_beside_energies(self.targets)
        self.noise = AtomVectors(backbone, "denoise=True") if check_flag("denoise", denoise) else None

    @property
    def targets(self) -> dict[str, Target]:
        """The properties besides energies, by name."""
        return {} if self.heads is None else self.heads.targets

    def forward(
        self,
        graph: Data,
        forces: bool = True,
        stress: bool = False,
        owned: Tensor | None = None,
        last_layer: bool = False,
    ) -> dict[str, Tensor]:
        """Predict.

        In training mode the results can be differentiated again; in evaluation mode they are detached. Works under
        ``torch.no_grad``.

        Args:
            graph: one or several, see :class:`eqmol.graph.AtomGraph`.
            forces: also return forces.
            stress: also return virial and stress.
            owned: [N] bool, the atoms whose energies are summed and differentiated; None: all. The others are neighbours that
                belong to another part of a divided structure.
            last_layer: also return what the last weights multiply, see :meth:`last_layer`.

        Returns:
            energy [G] eV; energies [N] eV per atom; forces [N, 3] eV/Å; virial [G, 3, 3] = -dE/dstrain in eV;
            stress [G, 3, 3] = dE/dstrain / volume in eV/Å³, NaN for graphs that are not periodic in three directions;
            and every property, as of :class:`eqmol.models.Properties`, NaN where it is one of molecules and the graph is
            periodic; with ``last_layer`` also last_layer [N, F] eV; with ``denoise`` in training also noise [N, 3]. All float64.

        The dispersion of :attr:`dispersion` is in all of it; derivatives of the results are without it.

        Raises:
            InputError: an element that the model does not know, two atoms at the same place, or stress of a model with
                direct forces.
        """
        if stress and not self.conservative:
            raise InputError(
                "this model predicts forces directly (forces=direct) and has no stress, which is a derivative of the energy; "
                "leave stress out, or use a model with forces=conservative"
            )
        differentiate = stress or (forces and self.conservative)
        with torch.inference_mode(False), torch.set_grad_enabled(self.training or differentiate):
            species = self.species(graph)
            batch = owners(graph)
            vectors = edge_vectors(graph)
            plain = differentiate and not self.training and owned is None and not last_layer
            if plain and (found := self._read(graph, vectors.detach(), species)) is not None:
                return self._results(graph, batch, vectors.detach(), *found, forces, stress)
            if differentiate and not vectors.requires_grad:
                vectors.requires_grad_()
            features = self.features(graph, vectors, species)
            energies, direct = self._site_energies(graph, features, vectors, species, forces)
            parts = energies if owned is None else energies * owned
            energy = energies.new_zeros(len(graph.cell)).index_add(0, batch, parts)
            results = self._properties(graph, features, species) | {"energy": energy, "energies": energies}
            if direct is not None:
                results["forces"] = direct
            if self.noise is not None and self.training:
                results["noise"] = self.noise([x[: len(species)] for x in features])
            if last_layer:
                results["last_layer"] = self.last_layer(graph, features, species)
            if differentiate:
                # the energy depends on positions and strain through the edge vectors alone
                (gradient,) = torch.autograd.grad(
                    energy.sum(), vectors, create_graph=self.training, materialize_grads=True
                )
                if forces:
                    results["forces"] = forces_of(graph, gradient)
                if stress:
                    results |= _virial_and_stress(graph, batch, vectors, gradient)
            if self.dispersion is not None:
                results |= _dispersed(self.dispersion, graph, results)
        return results if self.training else {name: value.detach() for name, value in results.items()}

    @torch.no_grad()
    def _read(self, graph: Data, vectors: Tensor, species: Tensor) -> tuple[Tensor, Tensor] | None:
        """Energies [N] and derivatives of their sum by the vectors [E, 3], float64, where the backbone knows a way without a record
        of operations and nothing else is read from the features.
        """
        if self.readout_heads or self.heads is not None or self.force_head is not None:
            return None
        dtype, number = self.dtype, len(species)
        bound = _bound(graph).to(dtype)
        factor = torch.nn.functional.pad(self.gain * self.reference.scale * bound, (0, len(self.elements))).to(bound)

        def read(features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            readouts: Iterable[Any] = self.readouts
            terms = [readout.slopes(x[:, 0]) for readout, x in zip(readouts, features, strict=True)]
            total = sum(values for values, _ in terms)
            assert isinstance(total, Tensor)
            interaction = (total[:number] - total[number:].index_select(0, species)) * bound
            return interaction, [slope * factor.unsqueeze(1) for _, slope in terms]

        senders, receivers = graph.edge_index
        extended = _with_free(species, len(self.elements))
        found = self.backbone.read(vectors.to(dtype), extended, senders, receivers, read)
        if found is None:
            return None
        energies, gradient = self.reference(self.gain * found[0], species), found[1].to(vectors)
        if self.binding is None and self.repulsion is None:
            return energies, gradient
        with torch.enable_grad():
            lengths = torch.linalg.vector_norm(vectors, dim=-1).requires_grad_()
            more = self._pairwise(lengths, species, species, senders, receivers)
            if more.requires_grad:
                (slopes,) = torch.autograd.grad(more.sum(), lengths)
                gradient += (slopes / lengths.detach()).unsqueeze(1) * vectors
        return energies + more.detach(), gradient

    def _results(
        self,
        graph: Data,
        batch: Tensor,
        vectors: Tensor,
        energies: Tensor,
        gradient: Tensor,
        forces: bool,
        stress: bool,
    ) -> dict[str, Tensor]:
        """What :meth:`forward` returns of energies and derivatives by the vectors."""
        results = {"energy": energies.new_zeros(len(graph.cell)).index_add(0, batch, energies), "energies": energies}
        if forces:
            results["forces"] = forces_of(graph, gradient)
        if stress:
            results |= _virial_and_stress(graph, batch, vectors, gradient)
        return results if self.dispersion is None else results | _dispersed(self.dispersion, graph, results)

    def last_layer(self, graph: Data, features: list[Tensor], species: Tensor) -> Tensor:
        """What the last weights multiply, [N, F] float64 eV: energies of atoms are linear in it.

        Last are the linear readout of each set of features but the last one (C weights each), and the linear map behind the
        hidden layer of the readout of the last set (``readout_hidden`` weights).

        Args:
            graph: one or several.
            features: of :meth:`features`.
            species: [N] index of each atom's element.
        """
        readouts: Iterable[Any] = self.readouts
        terms = [readout.features(x[:, 0]) for readout, x in zip(readouts, features, strict=True)]
        own = _without_free(graph, torch.cat(terms, -1), species)
        return self.reference.scale * self.gain * own.double()

    def rows(self, graph: Data) -> Tensor:
        """Place [N] of each atom in E0s and binding energies, which are those of its element and, of several heads, of its graph's.

        Raises:
            InputError: no head is chosen where there are several.
        """
        species = self.species(graph)
        if not self.readout_heads:
            return species
        if "head" not in graph:
            raise InputError(f"the model has the heads {', '.join(self.readout_heads)}; choose one by head= or --head")
        return graph.head.index_select(0, owners(graph)) * len(self.elements) + species

    def references(self, name: str, graph: Data) -> Tensor:
        """What the elements contribute to a target of every structure, [G]."""
        if name != "energy" or not self.readout_heads:
            return super().references(name, graph)
        contributions = self.reference.e0.index_select(0, self.rows(graph))
        return contributions.new_zeros(len(graph.cell)).index_add(0, owners(graph), contributions)

    def element_values(self, name: str) -> Tensor:
        """Energies of isolated atoms, eV, or atom references of a property."""
        return self.reference.e0 if self.heads is None or name == "energy" else self.heads.element_values(name)

    @torch.no_grad()
    def descriptors(self, graph: Data) -> Tensor:
        """Invariant features of the atoms after every layer, one layer after another, [N, layers · C].

        Raises:
            InputError: as :meth:`forward`.
        """
        species = self.species(graph)
        features = self.features(graph, edge_vectors(graph), species)
        return torch.cat([x[: len(species), 0] for x in features], -1)

    def features(self, graph: Data, vectors: Tensor, species: Tensor) -> list[Tensor]:
        """Features of the atoms, followed by those of one atom without neighbours of each element."""
        extended = _with_free(species, len(self.elements))
        free = torch.arange(len(self.elements), device=species.device) + len(graph.cell)
        graphs = torch.cat([owners(graph), free])
        senders, receivers = graph.edge_index
        return self.backbone.of_graphs(vectors.to(self.dtype), extended, senders, receivers, graphs)

    def _properties(self, graph: Data, features: list[Tensor], species: Tensor) -> dict[str, Tensor]:
        """What the heads read, NaN where it has no meaning."""
        if self.heads is None:
            return {}
        own = [x[: len(species)] for x in features]
        results: dict[str, Tensor] = self.heads(own, graph, species, own[0].new_zeros(len(species), 0))
        periodic = graph.pbc.any(-1)
        for target in self.heads.molecular:
            value = results[target.name]
            results[target.name] = torch.where(periodic.view(-1, *[1] * (value.ndim - 1)), torch.nan, value)
        return results

    def _site_energies(
        self, graph: Data, features: list[Tensor], vectors: Tensor, species: Tensor, forces: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Energies [N] and, where they are wanted and not derivatives, forces [N, 3]."""
        senders, receivers = graph.edge_index
        if self.readout_heads:
            rows, interaction = self._of_heads(graph, features, species)
        else:
            terms = [readout(x[:, 0]) for readout, x in zip(self.readouts, features, strict=True)]
            rows, interaction = species, _without_free(graph, torch.stack(terms).sum(0), species)
        energies = self.reference(self.gain * interaction, rows)
        if self.binding is not None or self.repulsion is not None:
            lengths = torch.linalg.vector_norm(vectors, dim=-1)
            energies = energies + self._pairwise(lengths, rows, species, senders, receivers)
        if self.force_head is None or not forces:
            return energies, None
        direct = self.force_head(features[-1][: len(species)]) * _bound(graph).unsqueeze(-1)
        return energies, self.reference.scale * self.force_gain * direct.double()

    def _pairwise(self, lengths: Tensor, rows: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Energies [N] of binding and repulsion."""
        energies = lengths.new_zeros(len(species))
        if self.binding is not None:
            energies = energies + self.binding(lengths, rows, receivers)
        if self.repulsion is not None:
            energies = energies + self.repulsion(lengths, species, senders, receivers)
        return energies

    def _of_heads(self, graph: Data, features: list[Tensor], species: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`rows`, and what the readouts of each atom's head say of it beyond an atom without neighbours [N]."""
        rows = self.rows(graph)
        heads, atoms = rows // len(self.elements), torch.arange(len(rows), device=rows.device)
        terms = [readout(x[:, 0]) for readout, x in zip(self.readouts, features * len(self.readout_heads), strict=True)]
        values = torch.stack(terms).view(len(self.readout_heads), len(features), -1).sum(1)
        return rows, values[heads, atoms] - values[heads, len(atoms) + species]

    def _per_row(self, name: str, value: object) -> list[float]:
        """A number per element, of all heads one after another, eV."""
        if not self.readout_heads:
            return self._per_element(name, value)
        lists = check_list(name, value, len(self.readout_heads))
        if len(lists) != len(self.readout_heads):
            raise InputError(f"{name} has {len(lists)} lists for {len(self.readout_heads)} heads; give one for each")
        return [energy for each in lists for energy in self._per_element(name, each)]

    def _per_element(self, name: str, value: object) -> list[float]:
        """A number per element, eV."""
        energies = [check_number(f"each of {name}", e, -1e9, 1e9) for e in check_list(name, value, len(self.elements))]
        if len(energies) != len(self.elements):
            raise InputError(
                f"{name} has {len(energies)} energies for {len(self.elements)} elements; give one per element"
            )
        return energies


def check_heads(names: object) -> tuple[str, ...]:
    """The names of several heads; none of None.

    Raises:
        InputError: not two or more different names.
    """
    if names is None:
        return ()
    found = tuple(check_list("readout_heads", names, MOST_HEADS))
    if len(found) < 2 or not all(isinstance(name, str) and 0 < len(name) <= 80 for name in found):
        raise InputError(f"readout_heads={short(names)} must be at least two names")
    if len(set(found)) < len(found):
        raise InputError(f"readout_heads={short(names)} has one name twice")
    return found


def _check_forces(forces: object, backbone: Backbone, zbl: object) -> bool:
    """Whether forces are conservative."""
    if forces not in FORCES:
        raise InputError(f"forces={forces!r} is unknown; choose from {', '.join(FORCES)}")
    if forces == "direct" and backbone.degree_out < 1:
        raise InputError(
            f"forces=direct reads vectors, but the last features have degree {backbone.degree_out}; set degree_out of the "
            "backbone (model.degree_out) to 1"
        )
    if forces == "direct" and zbl and zbl != AUTO:
        raise InputError(
            f"zbl={short(zbl)} is a repulsive energy, which direct forces would not feel; use forces=conservative"
        )
    return forces == "conservative"


def _bound(graph: Data) -> Tensor:
    """Which atoms have neighbours [N]."""
    bound = torch.zeros(len(graph.pos), dtype=torch.bool, device=graph.pos.device)
    return bound.index_fill(0, graph.edge_index[1], True)


@kept
def _with_free(species: Tensor, number: int) -> Tensor:
    """Indices of the atoms' elements, followed by those of one atom of each."""
    return torch.cat([species, torch.arange(number, device=species.device)])


def _without_free(graph: Data, values: Tensor, species: Tensor) -> Tensor:
    """Values [N, ...] of atoms less those of free atoms, which follow them in the order of the elements."""
    number = len(species)
    own = values[:number] - values[number:].index_select(0, species)
    # rounding aside both terms are equal for atoms without neighbours: make their difference exactly zero
    return own * _bound(graph).view(-1, *[1] * (own.ndim - 1))


def forces_of(graph: Data, gradient: Tensor) -> Tensor:
    """Forces [N, 3] from dE/d(edge vector) [E, 3]."""
    senders, receivers = graph.edge_index
    zeros = torch.zeros_like(graph.pos)
    # with alpha=-1 it takes ten times as long
    if not gradient.requires_grad and gradient.device.type == "cpu" and len(gradient) > CHUNK:
        sums = zeros, torch.zeros_like(zeros)
        each(lambda i: sums[i].index_add_(0, (receivers, senders)[i], gradient), 2)
        return sums[0] - sums[1]
    return zeros.index_add(0, receivers, gradient) - zeros.index_add(0, senders, gradient)


def _dispersed(dispersion: Dispersion, graph: Data, results: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Energies, forces, virial and stress with the dispersion, those there are."""
    ends = torch.bincount(owners(graph), minlength=len(graph.cell)).cumsum(0).tolist()
    columns = zip([0, *ends[:-1]], ends, graph.cell.cpu().numpy(), graph.pbc.cpu().numpy(), strict=True)
    numbers, positions = graph.atomic_numbers.cpu().numpy(), graph.pos.detach().cpu().numpy()
    found = [dispersion(numbers[a:b], positions[a:b], cell, pbc) for a, b, cell, pbc in columns]
    like = results["energies"]
    energies, forces, strain = (
        torch.as_tensor(value, dtype=like.dtype, device=like.device)
        for value in (
            np.concatenate([each.energies for each in found]),
            np.concatenate([each.forces for each in found]),
            np.stack([each.strain for each in found]),
        )
    )
    volume = torch.linalg.det(graph.cell).abs()[:, None, None]
    added = {
        "energies": energies,
        "energy": torch.zeros_like(results["energy"]).index_add(0, owners(graph), energies),
        "forces": forces,
        "virial": -strain,
        "stress": strain / volume,
    }
    return {name: results[name] + value for name, value in added.items() if name in results}


def _virial_and_stress(graph: Data, batch: Tensor, vectors: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Virial and stress [G, 3, 3]: a strain ε takes each edge vector v to v + v ε, so dE/dε = Σ v ⊗ dE/dv."""
    if len(graph.cell) == 1:
        strain = (vectors.mT @ gradient).unsqueeze(0)
    else:
        outer = vectors.unsqueeze(-1) * gradient.unsqueeze(-2)
        strain = torch.zeros_like(graph.cell).index_add(0, batch.index_select(0, graph.edge_index[1]), outer)
    # symmetric up to rounding, as the energy does not change under rotation
    strain = (strain + strain.mT) / 2
    volume = torch.linalg.det(graph.cell).abs()
    volume = torch.where(graph.pbc.all(-1), volume, torch.nan)
    return {"virial": -strain, "stress": strain / volume[:, None, None]}
