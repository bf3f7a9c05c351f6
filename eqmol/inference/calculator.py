"""ASE calculator: ``atoms.calc = eqmol.Calculator("model.safetensors")``."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, NeighborList
from eqmol.graph.electronic import StateGuard
from eqmol.inference.committee import joined
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of, second_derivatives
from eqmol.inference.guards import Limits
from eqmol.inference.std import check_uncertainty, std_of
from eqmol.models import Potential
from eqmol.units import DEBYE


class Calculator(ASECalculator):
    """Energy, forces and stress of a trained potential for ASE's dynamics, optimisers and filters.

    Results are float64 NumPy arrays in eV, eV/Å and eV/Å³: ``energy`` (= ``free_energy``), ``energies`` [N], ``forces``
    [N, 3] and, for structures that are periodic in three directions and no others, ``stress`` [6] in ASE's order
    (xx, yy, zz, yz, xz, xy) and sign (+dE/dstrain/V); and ``node_energy`` [N], ``energies`` less those of isolated atoms.
    Properties that the model predicts besides are there by their names, as of :func:`eqmol.predict`; ``dipole`` alone is in ASE's
    unit, e·Å.

    Where the model knows how sure it is (:mod:`eqmol.models.uncertainty`), results also have ``energy_std`` (eV), ``energies_std``
    [N] (eV) and ``forces_std`` [N] (eV/Å, of each component of an atom's force).

    Threads may share a calculator: they take turns, and ``atoms.get_forces()`` is right in each of them.

    Args:
        path_or_model: a model file, or a model, of which a copy is made; of several, a committee, results are the mean, and their
            std is how much the models differ.
        backend: algorithm of the tensor products, ``"auto"`` for the fastest on the first structure; None keeps the model's.
        device: ``"cpu"``, ``"cuda"``, ...
        dtype: ``"float32"`` or ``"float64"``; None keeps the model's.
        skin: Å; neighbours are searched anew only when an atom has moved half of it. 0 searches at every step.
        verify: compare the algorithms with the reference on a part of the first structure, see :func:`eqmol.load`.
        close_contacts: ``"stop"`` refuses atoms that are much closer than any of the training set, ``"warn"`` only says so, see
            :class:`eqmol.graph.contacts.CloseContacts`.
        electronic_state: ``"stop"`` refuses structures that state another charge or spin than the training set has, which the
            model does not know; ``"warn"`` only says so, see :mod:`eqmol.graph.electronic`.
        uncertainty: ``"auto"`` finds the std of energies and forces where the model has one, ``"cheap"`` refuses models that have
            none, ``"exact"`` propagates it to every force component (``forces_std`` [N, 3]) with one backward pass for each last
            weight, ``"off"`` does nothing.
        largest_force, largest_uncertainty: eV/Å, of the norm of a force and of ``forces_std``; results beyond are refused, or said
            with ``limits="warn"``, naming the atom. None: no limit.
        limits: see above.
        kernels: whether tensor products are compiled for this machine, ``"auto"``, ``"off"`` or ``"require"``, see
            :func:`eqmol.load`.
        radial_table: ``"auto"`` reads radial weights from tables, ``"off"`` evaluates the network; see
            :func:`eqmol.checkpoint.for_prediction`.
        head: of a model with several.

    Raises:
        InputError: a bad model file or argument (see :func:`eqmol.load`); at a calculation, no structure, an element that the
            model has not seen, positions that are not finite, atoms that are much too close, or a result that is not finite.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's interface)
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012
    nolabel = True  # `ase run` then passes no label
    name = "eqmol"  # in trajectories

    def __init__(
        self,
        path_or_model: str | os.PathLike[str] | Potential | Sequence[str | os.PathLike[str] | Potential],
        backend: str | Mapping[str, str] | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        skin: float = 0.5,
        verify: bool = True,
        close_contacts: str = "stop",
        electronic_state: str = "stop",
        kernels: str | None = None,
        radial_table: str | None = None,
        uncertainty: str = "auto",
        largest_force: float | None = None,
        largest_uncertainty: float | None = None,
        limits: str = "stop",
        head: str | None = None,
    ) -> None:
        super().__init__()
        members: list[Any] = list(path_or_model) if isinstance(path_or_model, list | tuple) else [path_or_model]
        if not members:
            raise InputError("a committee has at least one model; give a model file, or several as a list")
        if isinstance(skin, bool) or not isinstance(skin, int | float) or not 0 <= skin <= 10:
            raise InputError(f"skin={skin!r} must be a length from 0 to 10 Å")
        model = for_prediction(members[0], backend, device, dtype, verify, kernels, radial_table, head)
        if not isinstance(model, Potential):
            raise InputError(
                "the model predicts properties of molecules and no forces; use it with eqmol.predict or predict.py, and a "
                "potential with the calculator"
            )
        self.model = model
        own = [
            *model.targets,
            *(name for name in ("dipole", "charges") if model.heads is not None and model.heads.molecular),
        ]
        self.implemented_properties = list(dict.fromkeys([*type(self).implemented_properties, *own]))
        self._neighbors = NeighborList(self.model.cutoff, skin)
        self._contacts = guard_of(self.model, close_contacts)
        self._states = StateGuard(self.model.electronic_state, electronic_state)
        self._limits = Limits(largest_force, largest_uncertainty, limits)
        alone = (backend, device, dtype, skin, verify, close_contacts, electronic_state, kernels, radial_table, "off")
        self._others = [type(self)(member, *alone, head=head) for member in members[1:]]
        self._spread = bool(self._others) and check_uncertainty(uncertainty) != "off"
        self._std = None if self._others else std_of(self.model, uncertainty)
        if self._others and uncertainty == "exact":
            raise InputError("uncertainty=exact is of one model; of a committee take uncertainty=cheap")
        if self._std is not None or self._spread:
            self.implemented_properties += ["energy_std", "energies_std", "forces_std"]
        if largest_uncertainty is not None and not (self._spread or (self._std is not None and self._std.has_forces)):
            raise InputError(
                f"largest_uncertainty={largest_uncertainty} needs a model that knows how sure it is of forces, or a committee of "
                "several, and uncertainty other than off; leave it out"
            )
        self._numbers: Tensor | None = None
        self._turn = threading.RLock()
        names = ["in memory" if isinstance(member, Potential) else os.fspath(member) for member in members]
        # plain values: trajectories write them
        self.parameters.update(
            model=names if self._others else names[0],
            backend=self.model.recipe["backbone"].get("backend"),
            device=str(device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            skin=float(skin),
            close_contacts=close_contacts,
            electronic_state=electronic_state,
            uncertainty=uncertainty,
            largest_force=largest_force,
            largest_uncertainty=largest_uncertainty,
            limits=limits,
        )

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse changes: the model is built when the calculator is made."""
        if kwargs:
            raise InputError(f"a calculator's {next(iter(kwargs))} cannot be changed; make a new eqmol.Calculator")
        return {}

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result, of the last calculation where nothing has changed; ASE does not count ``info`` as a change."""
        with self._turn:
            if atoms is None:
                atoms = self._last_atoms()
            self._states.check(atoms)
            return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        """What of a structure differs from that of the last calculation; ASE's own, by tolerances, takes longer than a kernel."""
        if self.atoms is None:
            return list(all_changes)
        pairs = ((name, getattr(self.atoms, name), getattr(atoms, name)) for name in ("positions", "numbers", "pbc"))
        cells = "cell", self.atoms.cell.array, atoms.cell.array
        return [name for name, old, new in (*pairs, cells) if not np.array_equal(old, new)]

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``self.results`` for ``atoms``; ASE calls this when something has changed."""
        with self._turn:
            self._calculate(self._last_atoms() if atoms is None else atoms, properties, system_changes)

    def get_descriptors(self, atoms: ase.Atoms | None = None, num_layers: int = -1) -> NDArray[np.float64]:
        """Invariant features of every atom after each layer, one layer after another.

        Args:
            atoms: by default those of the last calculation.
            num_layers: of the first so many layers; -1: of all.

        Returns:
            [N, layers · channels].

        Raises:
            InputError: as a calculation, or more layers than the model has.
        """
        self._check_alone("descriptors")
        layers = self.model.backbone.num_outputs
        if type(num_layers) is not int or not (num_layers == -1 or 1 <= num_layers <= layers):
            raise InputError(f"num_layers={num_layers!r} must be -1 or an integer from 1 to {layers}")
        with self._turn:
            graph = self._graph(self._last_atoms() if atoms is None else atoms).to(next(self.model.parameters()).device)
            found = self.model.descriptors(graph).cpu().double().numpy()
        kept = layers if num_layers == -1 else num_layers
        return found[:, : kept * self.model.backbone.channels]

    def get_hessian(self, atoms: ase.Atoms | None = None, indices: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Second derivatives of the energy by the positions, in float64 whatever the precision of the calculator.

        Args:
            atoms: by default those of the last calculation.
            indices: atoms whose rows are wanted; None: all.

        Returns:
            [3 N, N, 3], eV/Å².

        Raises:
            InputError: as a calculation, or a model with direct forces.
        """
        self._check_alone("Hessian")
        if not self.model.conservative:
            raise InputError("this model's forces are no derivatives (forces=direct); it has no Hessian")
        with self._turn:
            graph = self._graph(self._last_atoms() if atoms is None else atoms)
            model = for_prediction(self.model, dtype="float64", radial_table="off")
            assert isinstance(model, Potential)
            return second_derivatives(model, graph, range(len(graph.pos)) if indices is None else indices)

    def _check_alone(self, what: str) -> None:
        """Refuse what a committee does not have."""
        if self._others:
            raise InputError(f"a committee of models has no {what}; make a calculator of one model")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or another process gets: all but the turn of threads."""
        return {name: value for name, value in self.__dict__.items() if name != "_turn"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__ |= {**state, "_turn": threading.RLock()}

    def _last_atoms(self) -> ase.Atoms:
        if self.atoms is None:
            raise InputError(
                "the calculator has no structure yet; set atoms.calc = calculator and ask the atoms, or give the atoms here"
            )
        return self.atoms

    def _graph(self, atoms: ase.Atoms, neighbors: NeighborList | None = None) -> AtomGraph:
        """The graph of a structure that the model may see."""
        graph = graph_of(self.model, atoms, neighbors=neighbors, contacts=self._contacts)
        if self._numbers is not None and torch.equal(self._numbers, graph.atomic_numbers):
            graph.atomic_numbers = self._numbers  # what was made of them is kept
        self._numbers = graph.atomic_numbers
        self._states.check(atoms)
        return graph

    def _calculate(self, atoms: ase.Atoms, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        if "stress" in properties and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                f"stress is defined for three periodic directions only, and this structure has pbc={atoms.pbc.tolist()}"
            )
        if "stress" in properties and not self.model.conservative:
            raise PropertyNotImplementedError(
                "this model's forces are no derivatives (forces=direct); it has no stress"
            )
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        if self._neighbors.skin and "numbers" in system_changes:
            self._neighbors = NeighborList(self.model.cutoff, self._neighbors.skin)
        graph = self._graph(atoms, self._neighbors)
        results = evaluate_graphs(self.model, [graph], self._std)[0]
        results["free_energy"] = results["energy"]
        free = self.model.reference.e0.cpu().numpy()
        results["node_energy"] = results["energies"] - free[self.model.species(graph)]
        if "dipole" in results:
            results["dipole"] = DEBYE * results["dipole"]
        if "stress" in results:
            results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
        if self._others:
            for other in self._others:
                other.calculate(atoms, properties, system_changes)
            results = joined([results, *(other.results for other in self._others)], self._spread)
        self._limits.check(results, atoms)
        self.results = results
