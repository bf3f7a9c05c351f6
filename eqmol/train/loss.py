"""The weighted loss: energy per atom, forces, stress.

loss = Σ_t w_t · mean(error_t), with error_energy = (E - E*)/N per structure (eV per atom), error_forces over all force
components of the batch's free atoms (eV/Å) and error_stress over the nine components of every labelled periodic structure
(eV/Å³). Energies enter per atom so that large structures do not drown small ones. With several processes the means are
those over the batches of all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from eqmol.errors import InputError
from eqmol.graph import keys
from eqmol.train import processes

_ERRORS = ("mse", "mae", "norm", "huber")


@dataclass(frozen=True)
class Target:
    """How much one quantity counts.

    Args:
        weight: factor of its mean error in the loss; 0 leaves it out.
        final_weight: the factor at the end of the run (see :class:`WeightedLoss`); None keeps ``weight``.
        loss: "mse" for e², "mae" for |e|, "norm" for the length of each vector of errors, "huber" for e² up to ``delta``
            and delta·(2|e| - delta) beyond (twice Huber's function, so that it agrees with "mse" for small errors).
        delta: where "huber" turns linear, in the quantity's unit.
    """

    weight: float
    final_weight: float | None = None
    loss: str = "mse"
    delta: float = 0.01

    def __post_init__(self) -> None:
        if self.loss not in _ERRORS:
            raise InputError(f"unknown loss {self.loss!r}; choose one of {', '.join(_ERRORS)}")
        if self.delta <= 0:
            raise InputError(f"delta={self.delta} of a Huber loss must be positive")
        if min(self.weight, self.weight if self.final_weight is None else self.final_weight) < 0:
            raise InputError(f"a loss weight cannot be negative: {self.weight}, final {self.final_weight}")

    @property
    def is_used(self) -> bool:
        """Whether the weight is not zero at any time of the run."""
        return max(self.weight_at(0.0), self.weight_at(1.0)) > 0

    def weight_at(self, raised: float) -> float:
        """Return the weight on its way from ``weight`` (0) to ``final_weight`` (1), by equal factors if it can."""
        if self.final_weight is None:
            return self.weight
        if self.weight == 0 or self.final_weight == 0:
            return (1.0 - raised) * self.weight + raised * self.final_weight
        return self.weight ** (1.0 - raised) * self.final_weight**raised

    def errors(self, difference: Tensor) -> Tensor:
        """Return the errors of all elements of a difference, or of all its rows for "norm"."""
        match self.loss:
            case "huber":
                return 2.0 * huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=self.delta)
            case "mae":
                return difference.abs()
            case "norm":
                return torch.linalg.vector_norm(difference.reshape(-1, difference.shape[-1]), dim=-1)
            case _:
                return difference.square()


class WeightedLoss:
    """The sum of the weighted mean errors of all targets.

    Args:
        targets: keys among "energy", "forces", "stress".
        raise_at: the fraction of the run (see :mod:`eqmol.train.schedule`) from which on the weights move to their final
            values. They arrive at the end: a step would upset Adam's averages of squared gradients.
    """

    def __init__(self, targets: Mapping[str, Target], raise_at: float = 1.0):
        unknown = set(targets) - set(keys.LABELS)
        if unknown:
            raise InputError(
                f"unknown target {sorted(unknown)[0]!r} in the loss; choose among {', '.join(keys.LABELS)}"
            )
        if not 0.0 <= raise_at <= 1.0:
            raise InputError(f"task.raise_at={raise_at} must be a fraction of the run, between 0 and 1")
        self.targets = dict(targets)
        self.raise_at = raise_at
        for name, target in self.targets.items():
            if target.loss == "norm" and name != keys.FORCES:
                raise InputError(f"task.targets.{name}.loss=norm is for vectors, the forces; choose mse, mae or huber")
        if not self.required:
            raise InputError("every loss weight is zero, so there is nothing to train on; set one in task.targets")

    @classmethod
    def from_config(cls, targets: Mapping[str, Mapping[str, Any]], raise_at: float) -> "WeightedLoss":
        """Return the loss for plain settings, as ``conf/task/forces.yaml`` has them."""
        return cls({name: Target(**target) for name, target in targets.items()}, raise_at)

    @property
    def required(self) -> tuple[str, ...]:
        """The labels that must be there: those with a weight at any time of the run."""
        return tuple(name for name, target in self.targets.items() if target.is_used)

    def raised(self, progress: float) -> float:
        """Return how far the weights are on their way to the final ones, 0 to 1, at a fraction of the run."""
        return max(progress - self.raise_at, 0.0) / max(1.0 - self.raise_at, 1e-9)

    def __call__(self, output: Mapping[str, Tensor], batch: Any, raised: float, shared: bool = False) -> Tensor:
        """Return the scalar loss (float64).

        Args:
            output: what the model returned.
            batch: a batch of graphs with labels.
            raised: how far the weights are on their way, 1 for the final ones.
            shared: means over the batches of all processes, which must all call this.
        """
        total = torch.zeros((), dtype=torch.float64, device=batch.pos.device)
        errors = [self.targets[name].errors(_DIFFERENCES[name](output, batch)) for name in self.required]
        counts = total.new_tensor([error.numel() for error in errors])
        if shared:  # gradients are averaged over processes, so sums divided by mean counts give the means over all
            counts = processes.mean(counts)
        for name, error, count in zip(self.required, errors, counts, strict=True):
            # a batch may hold no stress label at all
            total = total + self.targets[name].weight_at(raised) * error.sum() / count.clamp(min=1e-9)
        return total


def _energy_difference(output: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Return the errors [G] of the energies, eV per atom."""
    return (output["energy"] - batch.energy) / batch.ptr.diff()


def _forces_difference(output: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Return the errors [free atoms, 3] of the forces, eV/Å; atoms that were held fixed do not count."""
    difference = output["forces"] - batch.forces
    return difference[~batch.fixed] if keys.FIXED in batch else difference


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
