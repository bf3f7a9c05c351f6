"""What is examined: a potential in float64 and as it is used, or any calculator of ASE."""

import copy
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator as ASECalculator
from ase.stress import voigt_6_to_full_3x3_stress

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.graph import NeighborList
from eqmol.graph.contacts import SHORTEST
from eqmol.inference.calculator import Calculator
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.trust.limits import CHIRAL, D3, DIRECT, S2

#: Structures -> energy (eV), forces [N, 3] and, if periodic in three directions, stress [3, 3] of each, evaluated together.
Evaluate = Callable[[Sequence[ase.Atoms]], list[dict[str, Any]]]


class Subject:
    """A potential under examination.

    Args:
        given: a model file, a potential, an :class:`eqmol.Calculator`, or another calculator of ASE.

    Raises:
        InputError: something else, or a model that is no potential.

    Attributes:
        title: what a person calls it.
        potential: the model, in float64; None of a calculator of another kind.
        exact: evaluates in float64; ``used`` as predictions do.
        kinds: what limits it has, see :mod:`eqmol.trust.limits`.
    """

    def __init__(self, given: "str | os.PathLike[str] | Potential | ASECalculator") -> None:
        self.title = os.fspath(given) if isinstance(given, str | os.PathLike) else type(given).__name__
        self.potential: Potential | None = None
        self.kinds: frozenset[str] = frozenset()
        if isinstance(given, Calculator):
            given = given.model
        if isinstance(given, ASECalculator):
            calculator = given
            self.exact = self.used = lambda structures: [_ask(calculator, atoms) for atoms in structures]
            return
        model = for_prediction(given)
        if isinstance(given, Potential) and type(given) is not type(model):
            model = copy.deepcopy(given).eval()  # which no recipe builds
        if not isinstance(model, Potential):
            raise InputError(f"{self.title} predicts properties of molecules; examine takes a potential")
        exact = model if model.dtype == torch.float64 else for_prediction(given, dtype=torch.float64, verify=False)
        assert isinstance(exact, Potential)
        self.potential, self.native = exact, model
        backbone = model.recipe["backbone"]
        found = {
            CHIRAL: backbone.get("parity") == "so3",
            S2: model.backbone.samples_sphere,
            DIRECT: not model.conservative,
            D3: model.dispersion is not None,
        }
        self.kinds = frozenset(kind for kind, has in found.items() if has)
        self.exact, self.used = evaluation(exact), evaluation(model)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that a potential knows; none of a calculator."""
        return [] if self.potential is None else list(self.potential.elements)

    @property
    def shortest(self) -> torch.Tensor | None:
        """Shortest distances of the training set [elements, elements], Å, if the model knows them."""
        return None if self.potential is None else self.potential.aux.get(SHORTEST)

    def energy(self, atoms: ase.Atoms) -> float:
        """Energy in float64, eV."""
        return float(self.exact([atoms])[0]["energy"])

    def moving(self) -> Callable[[ase.Atoms], tuple[float, np.ndarray]]:
        """What gives energy and forces in float64 step by step, with neighbours searched anew only when they must be."""
        if self.potential is None:
            return lambda atoms: (self.energy(atoms), self.exact([atoms])[0]["forces"])
        potential, neighbors = self.potential, NeighborList(self.potential.cutoff, 0.5)

        def evaluate(atoms: ase.Atoms) -> tuple[float, np.ndarray]:
            result = evaluate_graphs(potential, [graph_of(potential, atoms, neighbors=neighbors)])[0]
            return result["energy"], result["forces"]

        return evaluate


def seconds(evaluations: Sequence[Evaluate], atoms: ase.Atoms, number: int = 5) -> list[float]:
    """Median CPU time of evaluations of a structure, of this process and those that it started.

    Args:
        evaluations: take their turns.
        atoms: moved a little before each turn, since calculators of ASE remember their last results.
        number: of turns, after one that does not count.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(number + 1):
        moved = atoms.copy()
        moved.positions += rng.normal(scale=1e-3, size=moved.positions.shape)
        row = []
        for evaluate in evaluations:
            began = _cpu_time()
            evaluate([moved])
            row.append(_cpu_time() - began)
        found.append(row)
    return [float(value) for value in np.median(found[1:], axis=0)]


def _cpu_time() -> float:
    others = os.times()
    return time.process_time() + others.children_user + others.children_system


def evaluation(model: Potential) -> Evaluate:
    """What a potential predicts, without guards."""
    return lambda structures: evaluate_graphs(model, [graph_of(model, atoms) for atoms in structures])


def _ask(calculator: ASECalculator, atoms: ase.Atoms) -> dict[str, Any]:
    atoms = atoms.copy()
    atoms.set_constraint()  # which would zero forces
    atoms.calc = calculator
    result = {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces())}
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        result["stress"] = voigt_6_to_full_3x3_stress(atoms.get_stress())
    return result
