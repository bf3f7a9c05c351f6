"""The weighted loss: energy per atom, forces, stress, properties.

loss = Σ_t w_t · mean(error_t), with error_energy that of (E - E*)/N per structure (eV per atom), error_forces that of all
force components of the batch's free atoms (eV/Å), error_stress that of the nine components of every labelled periodic
structure (eV/Å³) and that of a property of all its labelled components, each first divided by how much its label varies in the
training set. So the loss has no unit, and equal weights mean equal relative errors whatever the system. Energies enter per atom
so that large structures do not drown small ones. Labels that a structure lacks (NaN) do not count. With several processes the
means are those over the batches of all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from eqmol.errors import InputError
from eqmol.graph import keys
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.train import processes

_ERRORS = ("mse", "mae", "norm", "huber")
#: Weight of the stress beside that of the forces (or energies), where it is labelled and no weight is given.
STRESS_WEIGHT = 0.1
#: Weight of a property beside energies and forces, if none is given.
PROPERTY_WEIGHT = 1.0
#: Weight of energies beside that of the forces, if none is given: so little holds their mean, which forces alone would let drift.
#: Of 3BPA after eight epochs, forces have errors of 49 meV/Å with it and without, and 82 with a hundred times as much.
EARLY_ENERGY_WEIGHT = 1e-4
#: Steps of a run that is long enough for weights to stay what they are until ``raise_at``.
LONG = 500
#: Weight of squared energies per atom (eV²) beside squared forces (eV²/Å²), at least: forces may be nothing but noise.
UNDIVIDED = 0.01


@dataclass(frozen=True)
class Term:
    """How much one target counts.

    Args:
        weight: factor of its mean relative error in the loss; 0 leaves it out; None: see :meth:`WeightedLoss.settled`.
        final_weight: the factor at the end of the run (see :class:`WeightedLoss`); None keeps ``weight``.
        loss: "mse" for e², "mae" for |e|, "norm" for the length of each vector of errors, "huber" for e² up to δ and
            δ·(2|e| - δ) beyond (twice Huber's function, so that it agrees with "mse" for small errors); e is the error
            divided by the scale.
        delta: where "huber" turns linear, in the target's unit; None: at the scale (δ = 1).
        scale: of the errors, in the target's unit.
    """

    weight: float | None = None
    final_weight: float | None = None
    loss: str = "mse"
    delta: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in _ERRORS:
            raise InputError(f"unknown loss {self.loss!r}; choose one of {', '.join(_ERRORS)}")
        if min(self.weight or 0.0, self.final_weight or 0.0) < 0:
            raise InputError(f"a loss weight cannot be negative: {self.weight}, final {self.final_weight}")

    @property
    def is_used(self) -> bool:
        """Whether the weight is not zero at any time of the run."""
        return self.weight is None or max(self.weight, self.final_weight or 0.0) > 0

    def weight_at(self, raised: float) -> float:
        """Return the weight on its way from ``weight`` (0) to ``final_weight`` (1), by equal factors if it can."""
        assert self.weight is not None
        if self.final_weight is None:
            return self.weight
        if self.weight == 0 or self.final_weight == 0:
            return (1.0 - raised) * self.weight + raised * self.final_weight
        return self.weight ** (1.0 - raised) * self.final_weight**raised

    def errors(self, difference: Tensor) -> Tensor:
        """Return the relative errors of all elements of a difference, or of all its rows for "norm"."""
        relative = difference / self.scale
        match self.loss:
            case "huber":
                delta = 1.0 if self.delta is None else self.delta / self.scale
                return 2.0 * huber_loss(relative, torch.zeros_like(relative), reduction="none", delta=delta)
            case "mae":
                return relative.abs()
            case "norm":
                return torch.linalg.vector_norm(relative.reshape(-1, relative.shape[-1]), dim=-1)
            case _:
                return relative.square()


def read_term(name: str, settings: Any) -> Term:
    """Return the term of a target from plain settings.

    Raises:
        InputError: no settings of a term.
    """
    known = [field.name for field in fields(Term) if field.name != "scale"]
    if not isinstance(settings, Mapping) or not settings.keys() <= set(known):
        raise InputError(f"task.targets.{name}={settings} must be {{weight: 1.0, loss: mse}}, of {', '.join(known)}")
    return Term(**settings)


class WeightedLoss:
    """The sum of the weighted mean errors of all targets.

    Args:
        terms: how much each target counts, by name.
        raise_at: the fraction of the run (see :mod:`eqmol.train.schedule`) from which on the weights move to their final
            values. They arrive at the end: a step would upset Adam's averages of squared gradients. See :meth:`raised` for
            short runs.
        targets: what the terms are of.

    Raises:
        InputError: nothing would be trained on, or terms that cannot be.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        raise_at: float = 1.0,
        targets: Sequence[Target] = (ENERGY, FORCES, STRESS),
    ) -> None:
        self.raise_at = raise_at
        self.terms = dict(terms)
        self.targets = {target.name: target for target in targets}
        for name, term in self.terms.items():
            if term.loss == "norm" and name != keys.FORCES:
                raise InputError(f"task.targets.{name}.loss=norm is for vectors, the forces; choose mse, mae or huber")
        if not self.used:
            raise InputError("every loss weight is zero, so there is nothing to train on; set one in task.targets")

    @property
    def used(self) -> tuple[str, ...]:
        """The targets with a weight at any time of the run."""
        return tuple(name for name, term in self.terms.items() if term.is_used)

    @property
    def required(self) -> tuple[str, ...]:
        """The labels that must be there: those in use, but for a stress whose weight was not given."""
        return tuple(name for name in self.used if name != keys.STRESS or self.terms[name].weight is not None)

    def settled(self, scales: Mapping[str, float]) -> "WeightedLoss":
        """Return the loss of errors divided by how much the labels of the training set vary, with all weights.

        Of weights that were not given, that of the energy is ``EARLY_ENERGY_WEIGHT``, at most its final weight, that of the
        stress, where it has a scale, ``STRESS_WEIGHT``, that of a property ``PROPERTY_WEIGHT``.

        Args:
            scales: by target, in its unit, of an energy per atom: of the labels that the training set has.

        Raises:
            InputError: only the stress was to be trained on, and there is none.
        """
        energy, forces = (self.terms.get(name, Term(0.0)) for name in (keys.ENERGY, keys.FORCES))
        if forces.weight is None:
            forces = replace(forces, weight=1.0)
        if energy.weight is None:
            early = energy.final_weight or max(forces.weight_at(0.0), 1.0)
            if forces.is_used and keys.ENERGY in scales and keys.FORCES in scales:
                ratio = scales[keys.ENERGY] / scales[keys.FORCES]
                early = min(early, max(EARLY_ENERGY_WEIGHT, UNDIVIDED * ratio**2) * forces.weight_at(0.0))
            energy = replace(energy, weight=early)
        beside = forces.weight_at(0.0) if forces.is_used else energy.weight_at(1.0)
        weights = {
            keys.ENERGY: energy.weight,
            keys.FORCES: forces.weight,
            keys.STRESS: STRESS_WEIGHT * beside if keys.STRESS in scales else 0.0,
        }
        terms = {
            name: replace(
                term,
                weight=weights.get(name, PROPERTY_WEIGHT) if term.weight is None else term.weight,
                scale=scales.get(name, 1.0),
            )
            for name, term in self.terms.items()
        }
        return WeightedLoss(terms, self.raise_at, tuple(self.targets.values()))

    def raised(self, progress: float, steps: int | None = None) -> float:
        """Return how far the weights are on their way to the final ones, 0 to 1, at a fraction of the run.

        In a run of fewer than ``LONG`` steps they take as many as in one of so many; where the run has not even these, it begins
        on the way. So twenty steps learn energies from the first one, which five would not.
        """
        raise_at = self.raise_at
        if steps is not None and steps < LONG:
            raise_at = 1.0 - (1.0 - raise_at) * LONG / max(steps, 1)
        return max(progress - raise_at, 0.0) / max(1.0 - raise_at, 1e-9)

    def __call__(self, output: Mapping[str, Tensor], batch: Any, raised: float, shared: bool = False) -> Tensor:
        """Return the scalar loss (float64).

        Args:
            output: what the model returned.
            batch: a batch of graphs with labels.
            raised: how far the weights are on their way, 1 for the final ones.
            shared: means over the batches of all processes, which must all call this.
        """
        total = torch.zeros((), dtype=torch.float64, device=batch.pos.device)
        sums = self.sums(output, batch)
        counts = total.new_tensor([count for _, count in sums.values()])
        if shared:  # gradients are averaged over processes, so sums divided by mean counts give the means over all
            counts = processes.mean(counts)
        for (name, (errors, _)), count in zip(sums.items(), counts, strict=True):
            # a batch may hold no label of a kind at all
            total = total + self.terms[name].weight_at(raised) * errors / count.clamp(min=1e-9)
        return total

    def sums(self, output: Mapping[str, Tensor], batch: Any) -> dict[str, tuple[Tensor, int]]:
        """Return the sum of the relative errors and their number, by target; arguments as of :meth:`__call__`."""
        found = {name: _difference(self.targets[name], output, batch) for name in self.used}
        errors = {name: self.terms[name].errors(each) for name, each in found.items() if each is not None}
        return {name: (error.sum(), error.numel()) for name, error in errors.items()}


def _difference(target: Target, output: Mapping[str, Tensor], batch: Any) -> Tensor | None:
    """Return the errors of what a batch has labels of; None where its graphs do not carry them."""
    if not target.is_property:
        return _DIFFERENCES[target.kind](output, batch) if target.field in batch else None
    labels = batch[target.field]
    known = labels.isfinite()
    return output[target.name][known] - labels[known]


def _energy_difference(output: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Return the errors [labelled structures] of the energies, eV per atom."""
    difference = (output["energy"] - batch.energy) / batch.ptr.diff()
    return difference[batch.energy.isfinite()]


def _forces_difference(output: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Return the errors [labelled free atoms, 3] of the forces, eV/Å; atoms that were held fixed do not count."""
    counts = batch.forces.isfinite().all(dim=1)
    if keys.FIXED in batch:
        counts = counts & ~batch.fixed
    return (output["forces"] - batch.forces)[counts]


def _stress_difference(output: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Return the errors [labelled structures, 3, 3] of the stress, eV/Å³.

    From the virial, because a row of undefined stress (no volume) would put NaN into every gradient even when masked.
    """
    labelled = batch.stress.isfinite().all(dim=(1, 2)) & batch.pbc.all(dim=1)
    volume = torch.linalg.det(batch.cell[labelled]).abs()
    return -output["virial"][labelled] / volume[:, None, None] - batch.stress[labelled]


_DIFFERENCES = {
    keys.ENERGY: _energy_difference,
    keys.FORCES: _forces_difference,
    keys.STRESS: _stress_difference,
}
