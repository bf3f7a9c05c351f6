"""What a model is trained for: which targets, how much each counts, and how it is asked for them.

An objective is made from the settings ``task`` alone, so that it is known what is wanted before there are data or a model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from eqmol.errors import InputError
from eqmol.graph import keys, moved
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.models import Potential, Properties
from eqmol.models.predictor import Predictor
from eqmol.train import processes
from eqmol.train.freeze import read_patterns
from eqmol.train.loss import Term, WeightedLoss, read_term
from eqmol.train.schedule import Schedule

LOSSES = ("mae", "mse", "huber")

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


class Objective(ABC):
    """An objective of training.

    Args:
        loss: with the weights that are given.
        optimizer: takes groups of parameters (:func:`eqmol.nn.parameter_groups`), returns an optimiser; its learning rate
            is the one before the schedule's factor.
        schedule: factor of the learning rate over the run.
        freeze: names of parameters that stay as they are, see :func:`eqmol.train.freeze.freeze`.

    Raises:
        InputError: arguments that the optimiser refuses.
    """

    def __init__(self, loss: WeightedLoss, optimizer: MakeOptimizer, schedule: Schedule, freeze: Any = None) -> None:
        self.loss = loss
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.freeze = read_patterns(freeze)
        _check_optimizer(optimizer)

    @property
    def required(self) -> tuple[str, ...]:
        """Labels that the data must have."""
        return self.loss.required

    @abstractmethod
    def targets(self, model: Predictor) -> tuple[Target, ...]:
        """Return what the model is judged by.

        Raises:
            InputError: it cannot be trained for this.
        """

    def loss_of(self, targets: Sequence[Target]) -> WeightedLoss:
        """Return the loss of a model that is judged by some targets, with the weights that are given."""
        return WeightedLoss(self.loss.terms, self.loss.raise_at, targets)

    @abstractmethod
    def ask(self, model: Predictor, batch: Any, wanted: Container[str], last_layer: bool = False) -> dict[str, Tensor]:
        """Return what a model predicts for a batch.

        Args:
            model: in training or evaluation mode.
            batch: of graphs.
            wanted: contains the names of the labels that it is compared with.
            last_layer: of a potential, also return this, see :meth:`eqmol.models.Potential.forward`.
        """

    def further_loss(self, output: Mapping[str, Tensor], shared: bool) -> Tensor | None:
        """Return what the loss has besides the errors of targets; ``shared`` as in :class:`WeightedLoss`."""
        return None


class PotentialObjective(Objective):
    """Energies, forces and stress, and the properties that the model predicts besides.

    Args:
        targets: weight and kind of error per label, see :class:`eqmol.train.loss.Term`; those of a property may be left out.
        optimizer, schedule, freeze: see :class:`Objective`.
        raise_at: fraction of the run from which on the weights move to their final values.

    Raises:
        InputError: what :class:`eqmol.train.loss.WeightedLoss` refuses.

    Attributes:
        further: what else :meth:`ask` returns.
    """

    further: ClassVar[tuple[Target, ...]] = ()

    def __init__(
        self,
        targets: Mapping[str, Mapping[str, Any]],
        optimizer: MakeOptimizer,
        schedule: Schedule,
        raise_at: float = 1.0,
        freeze: Any = None,
    ) -> None:
        terms = {name: read_term(name, settings) for name, settings in targets.items()}
        own = {name: term for name, term in terms.items() if name in keys.LABELS}
        super().__init__(WeightedLoss(own, raise_at), optimizer, schedule, freeze)
        self._of_properties = {name: term for name, term in terms.items() if name not in keys.LABELS}

    def targets(self, model: Predictor) -> tuple[Target, ...]:
        """Return energy, forces and stress, and the properties.

        Raises:
            InputError: no potential, a weight for the stress of one that has none, or for a property that is not declared.
        """
        if not isinstance(model, Potential):
            raise InputError(
                "energies and forces are trained with predictor=potential; for properties alone use task=properties"
            )
        if not model.conservative and keys.STRESS in self.required:
            raise InputError(
                "predictor.forces=direct has no stress, which is a derivative of the energy; set "
                "task.targets.stress.weight=0, or use predictor.forces=conservative"
            )
        known = (*keys.LABELS, *model.targets, *(target.name for target in self.further))
        for name in self._of_properties:
            if name not in known:
                raise InputError(
                    f"unknown target {name!r} in task.targets; choose among {', '.join(known)}, or declare it in data.targets"
                )
        return (ENERGY, FORCES, STRESS, *model.targets.values(), *self.further)

    def loss_of(self, targets: Sequence[Target]) -> WeightedLoss:
        """Return the loss with a term for each property."""
        own = {
            target.name: self._of_properties.get(target.name, Term(None)) for target in targets if target.is_property
        }
        return WeightedLoss({**self.loss.terms, **own}, self.loss.raise_at, targets)

    def ask(self, model: Predictor, batch: Any, wanted: Container[str], last_layer: bool = False) -> dict[str, Tensor]:
        """Return energy, forces, stress where it is wanted and the model has one, and properties."""
        assert isinstance(model, Potential)
        return model(batch, forces=True, stress=keys.STRESS in wanted and model.conservative, last_layer=last_layer)


class DistilObjective(PotentialObjective):
    """Besides, the energy of each atom as a teacher tells it, the target ``site_energy`` (Matin et al. 2025, arXiv:2502.05379)."""

    further = (Target("site_energy", "atomic", "eV"),)

    def ask(self, model: Predictor, batch: Any, wanted: Container[str], last_layer: bool = False) -> dict[str, Tensor]:
        """Return what a potential says, its energies of atoms under the name of the target too."""
        output = super().ask(model, batch, wanted, last_layer)
        return output | {"site_energy": output["energies"]}


class RelaxedObjective(PotentialObjective):
    """Relaxed energies of initial structures, and as an auxiliary task the way of every free atom to its relaxed position.

    With ``displacement_weight``, in training: a share of the structures is taken from anywhere on the straight way from the
    initial to the relaxed one, free atoms are displaced by normal noise, and a head predicts where they belong. The energy to be
    learnt stays that of the relaxed structure. Noisy nodes: Godwin et al. 2022, arXiv:2106.07971. Structures whose relaxed
    positions are not known are taken as they are.

    Args:
        targets, optimizer, schedule, raise_at, freeze: see :class:`PotentialObjective`.
        displacement_weight: of the mean absolute error of the components, Å; 0: nothing of this.
        interpolate: share of the structures on the way.
        noise: Å, standard deviation of each component.

    Raises:
        InputError: a negative weight or noise, or a share outside 0 to 1.
    """

    def __init__(
        self,
        targets: Mapping[str, Mapping[str, Any]],
        optimizer: MakeOptimizer,
        schedule: Schedule,
        raise_at: float = 1.0,
        freeze: Any = None,
        displacement_weight: float = 0.0,
        interpolate: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__(targets, optimizer, schedule, raise_at, freeze)
        for name, value, high in (
            ("displacement_weight", displacement_weight, math.inf),
            ("interpolate", interpolate, 1.0),
            ("noise", noise, 2.0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
                raise InputError(f"task.{name}={value} must be a number from 0 to {high:g}")
        self.displacement_weight, self.interpolate, self.noise = displacement_weight, interpolate, noise

    def targets(self, model: Predictor) -> tuple[Target, ...]:
        """Return the targets of a potential.

        Raises:
            InputError: as :meth:`PotentialObjective.targets`, or a model without a head for displacements.
        """
        found = super().targets(model)
        assert isinstance(model, Potential)
        if self.displacement_weight > 0 and model.noise is None:
            raise InputError(
                f"task.displacement_weight={self.displacement_weight} needs a model that predicts displacements: set "
                "predictor.denoise=true"
            )
        return found

    def ask(self, model: Predictor, batch: Any, wanted: Container[str], last_layer: bool = False) -> dict[str, Tensor]:
        """Return energies, forces where they are wanted, and in training "way" [N, 3], what "noise" [N, 3] should be.

        Raises:
            InputError: the auxiliary task for data without relaxed positions.
        """
        assert isinstance(model, Potential)
        forces = keys.FORCES in wanted
        if not (model.training and self.displacement_weight > 0):
            return model(batch, forces=forces, last_layer=last_layer)
        if keys.DISPLACEMENT not in batch:
            raise InputError(
                f"task.displacement_weight={self.displacement_weight} needs initial structures with relaxed positions; "
                "take data=oc20 data.kind=is2re, or displacement_weight=0"
            )
        position, way = self._displaced(batch)
        return model(moved(batch, position, model.cutoff), forces=forces, last_layer=last_layer) | {"way": way}

    def further_loss(self, output: Mapping[str, Tensor], shared: bool) -> Tensor | None:
        """Return the loss of the displacements of free atoms that have one."""
        if "way" not in output:
            return None
        errors = (output["noise"] - output["way"])[output["way"].isfinite().all(1)].abs()
        count = errors.new_tensor(errors.numel())
        if shared:
            count = processes.mean(count)
        return self.displacement_weight * errors.sum() / count.clamp(min=1e-9)

    def _displaced(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return positions of training, and from there the ways to the relaxed ones, NaN where they do not count; each [N, 3]."""
        way = batch.displacement
        if keys.FIXED in batch:
            way = way.masked_fill(batch.fixed.unsqueeze(1), torch.nan)
        chosen = torch.rand(2, batch.num_graphs, dtype=way.dtype, device=way.device)
        along = (chosen[0] < self.interpolate) * chosen[1]
        step = along[batch.batch].unsqueeze(1) * way + self.noise * torch.randn_like(way)
        return batch.pos + step.nan_to_num(0.0), way - step


class PropertyObjective(Objective):
    """Properties: loss = Σ_t w_t · mean error of (prediction - label) / spread_t, and noise · mean |ξ̂ - ξ|².

    Noisy nodes (Godwin et al. 2021, arXiv:2106.07971): in training every atom is displaced by σξ with standard normal ξ, and
    a head predicts ξ beside the properties of the undisturbed molecule.

    Args:
        target: name of a property, or several.
        optimizer, schedule, freeze: see :class:`Objective`.
        weights: w_t, None for 1 each.
        loss: "mae", "mse" or "huber" of the scaled errors.
        noise: σ in Å; 0 for undisturbed molecules.
        noise_weight: weight of the denoising loss.

    Raises:
        InputError: an unknown loss, a negative weight, or weights that do not match the targets.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        optimizer: MakeOptimizer,
        schedule: Schedule,
        weights: Sequence[float] | None = None,
        loss: str = "mae",
        noise: float = 0.0,
        noise_weight: float = 0.1,
        freeze: Any = None,
    ) -> None:
        names = (target,) if isinstance(target, str) else tuple(target)
        if not names or len(set(names)) != len(names):
            raise InputError(f"task.target={list(names)} must name at least one target, each once")
        if weights is not None and len(weights) != len(names):
            raise InputError(f"task.weights has {len(weights)} weights for {len(names)} targets; give one for each")
        if loss not in LOSSES:
            raise InputError(f"task.loss={loss} is unknown; choose one of {', '.join(LOSSES)}")
        terms = {
            name: Term(weight, loss=loss) for name, weight in zip(names, weights or [1.0] * len(names), strict=True)
        }
        super().__init__(WeightedLoss(terms), optimizer, schedule, freeze)
        self.noise, self.noise_weight = noise, noise_weight

    @property
    def required(self) -> tuple[str, ...]:
        """All targets, also those without a weight."""
        return tuple(self.loss.terms)

    def targets(self, model: Predictor) -> tuple[Target, ...]:
        """Return the properties.

        Raises:
            InputError: a property that the model does not predict, or noisy nodes for one that predicts no displacements.
        """
        if not isinstance(model, Properties):
            raise InputError(
                "properties are trained with predictor=properties; for energies and forces use task=forces"
            )
        if self.noise > 0 and model.noise is None:
            raise InputError(
                f"task.noise={self.noise} needs a model that predicts displacements: set predictor.denoise=true"
            )
        for name in self.required:
            if name not in model.targets:
                raise InputError(
                    f"the model does not predict {name}, but {', '.join(model.targets)}; correct task.target"
                )
        return tuple(model.targets[name] for name in self.required)

    def ask(self, model: Predictor, batch: Any, wanted: Container[str], last_layer: bool = False) -> dict[str, Tensor]:
        """Return all properties, in training of disturbed molecules and with the disturbance "xi" [N, 3]."""
        if not (model.training and self.noise > 0):
            return model(batch)
        disturbance = torch.randn_like(batch.pos)
        undisturbed = batch.pos
        batch.pos = undisturbed + self.noise * disturbance
        try:
            return model(batch) | {"xi": disturbance}
        finally:
            batch.pos = undisturbed

    def further_loss(self, output: Mapping[str, Tensor], shared: bool) -> Tensor | None:
        """Return the denoising loss."""
        if "xi" not in output:
            return None
        count = output["xi"].new_tensor(len(output["xi"]))
        if shared:
            count = processes.mean(count)
        return self.noise_weight * (output["noise"] - output["xi"]).square().sum() / (3 * count)


def scales(statistics: Mapping[str, Any], model: Predictor) -> dict[str, float]:
    """Return how much the labels of a training set vary, by target; of a stress only if the model has one."""
    found = dict(statistics.get("label_scales", {}))
    if isinstance(model, Potential) and not model.conservative:
        found.pop(keys.STRESS, None)
    return found | {name: entry["spread"] for name, entry in statistics.get("properties", {}).items()}


def _check_optimizer(make_optimizer: MakeOptimizer) -> None:
    """Refuse arguments that the optimiser refuses."""
    groups = [{"params": [torch.zeros(1, 1, requires_grad=True)], "inputs": inputs} for inputs in (None, 0)]
    try:
        make_optimizer(groups)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"task.optimizer is wrong: {error}") from error
