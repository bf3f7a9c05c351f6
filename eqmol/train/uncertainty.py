"""How sure the saved potential is, learnt while its sets are evaluated: the training set gives covariances, the validation set the
factors of the std (:mod:`eqmol.models.uncertainty`), and what was not trained on is judged.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol import checkpoint, plots
from eqmol.files import replacing
from eqmol.graph.targets import ENERGY, FORCES
from eqmol.inference.calibration import Calibration, named
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import MAX_LAST, Covariance, Factors, Posterior, force_variances, sums_of
from eqmol.train import folder
from eqmol.train.folder import RunFolder

#: Validation batches at most, and their atoms, on which exact variances are estimated from so many random last weights.
EXACT_BATCHES, EXACT_ATOMS, DRAWS = 8, 2000, 2
#: Values of a set that the figure shows at most.
MAX_POINTS = 20_000


class Pairs(NamedTuple):
    """Errors of a batch that are known, and their std without its factor."""

    std: Tensor
    errors: Tensor

    @classmethod
    def of(cls, std: Tensor, errors: Tensor) -> "Pairs":
        """Leave out errors without labels."""
        known = errors.isfinite()
        return cls(std.expand_as(errors)[known].cpu(), errors[known].cpu())


class Uncertainty:
    """What is learnt about one potential; the training set must come first.

    Args:
        model: in evaluation mode.
        calibration: name of the set that gives the factors.
    """

    def __init__(self, model: Potential, calibration: str) -> None:
        self._model = model
        self.calibration = calibration
        self._covariance = Covariance(model.num_last, len(model.elements))
        self._posterior: Posterior | None = None
        self._pairs: dict[str, dict[str, list[Pairs]]] = {}
        self._exact: list[Pairs] = []
        self._farthest, self._batches, self._structures = 0.0, 0, 0
        self._generator = torch.Generator().manual_seed(0)

    @classmethod
    def of(cls, model: Predictor, calibration: str) -> "Uncertainty | None":
        """For a model that can have one: a potential without heads and without too many last weights."""
        possible = isinstance(model, Potential) and not model.readout_heads and model.num_last <= MAX_LAST
        return cls(model, calibration) if possible else None  # type: ignore[arg-type]

    def learn(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch of the training set."""
        self._covariance.add(output["last_layer"], batch, self._model.species(batch))

    def judge(self, name: str, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch of another set."""
        if self._posterior is None:
            learnt = self._covariance.posterior(Factors(None, None, None, 0.0, 0, 0))
            self._posterior = learnt.to(output["last_layer"].device)
        last_layer = output["last_layer"]
        distances = self._posterior.distances(last_layer, self._model.species(batch))
        stds = {ENERGY: self._posterior.spreads(sums_of(last_layer, batch)), FORCES: distances[:, None]}
        for target, std in stds.items():
            labels = target.labels(batch)
            if labels is not None:
                pairs = self._pairs.setdefault(name, {}).setdefault(target.name, [])
                pairs.append(Pairs.of(std, output[target.name] - labels))
        if name == self.calibration:
            self._farthest = max(self._farthest, float(distances.max()))
            self._structures += batch.num_graphs
            self._batches += 1
            self._estimate_exact(output, batch, self._posterior.of_structures)

    def posterior(self) -> Posterior | None:
        """What the model will carry; None if the set that gives the factors has no labels."""
        found = self._pairs.get(self.calibration, {})
        energy, forces = (factor_of(found.get(target.name, [])) for target in (ENERGY, FORCES))
        if self._posterior is None or (energy is None and forces is None):
            return None
        exact = factor_of(self._exact)
        factors = Factors(energy, forces, exact, self._farthest, self._covariance.structures, self._structures)
        return replace(self._posterior, factors=factors)

    def stds_and_errors(self, posterior: Posterior) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """Std and errors of "energy" and "forces" of each set."""
        factors = {ENERGY.name: posterior.factors.energy, FORCES.name: posterior.factors.forces}
        found: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for name, targets in self._pairs.items():
            for target, pairs in targets.items():
                factor, std = factors[target], torch.cat([pair.std for pair in pairs])
                if factor is not None and len(std):
                    found.setdefault(name, {})[target] = factor * std, torch.cat([pair.errors for pair in pairs])
        return found

    def _estimate_exact(self, output: Mapping[str, Tensor], batch: Any, root: Tensor) -> None:
        """Add exact variances of force components of a batch: those of random last weights, on average."""
        labels = FORCES.labels(batch)
        seen = sum(len(pairs.errors) for pairs in self._exact)
        enough = self._batches > EXACT_BATCHES or seen >= 3 * EXACT_ATOMS
        if labels is None or enough or not has_exact(self._model):
            return
        draws = torch.randn(root.shape[1], DRAWS, generator=self._generator, dtype=torch.float64).to(root.device)
        std = force_variances(self._model, batch, root @ draws / DRAWS**0.5).sqrt()
        self._exact.append(Pairs.of(std, output[FORCES.name] - labels))


def has_exact(model: Predictor) -> bool:
    """Whether exact variances of its forces can be had."""
    return isinstance(model, Potential) and model.conservative and model.num_last <= MAX_LAST


def factor_of(pairs: list[Pairs]) -> float | None:
    """What makes the root mean square of the std equal that of the errors; None without errors, or where one of both is zero."""
    errors = sum(float(pair.errors.square().sum()) for pair in pairs)
    std = sum(float(pair.std.square().sum()) for pair in pairs)
    return (errors / std) ** 0.5 if errors > 0 and std > 0 else None


def finish(run: RunFolder, model: Predictor, learnt: Uncertainty | None) -> tuple[dict[str, Any], list[str]]:
    """Write what was learnt into the model file, and draw it.

    Args:
        run: the folder with model.safetensors.
        model: read from that file.
        learnt: from all sets; None for a model that has no uncertainty.

    Returns:
        The entry of metrics.json, by set, and what to print.
    """
    posterior = None if learnt is None else learnt.posterior()
    if learnt is None or posterior is None:
        return {}, []
    assert isinstance(model, Potential)
    posterior.write(model)
    path = run.path / folder.MODEL
    checkpoint.save(model, path, metrics=checkpoint.read_header(path).document["metrics"])
    points = learnt.stds_and_errors(posterior)
    found = {
        name: {target: Calibration.of(std, errors) for target, (std, errors) in targets.items()}
        for name, targets in points.items()
    }
    shown = {}
    for name, targets in points.items():
        for target, pair in targets.items():
            step = max(1, -(-len(pair[0]) // MAX_POINTS))
            shown[f"{name}/{target}"] = torch.stack(pair).numpy()[:, ::step].astype(np.float32)
    with replacing(run.path / folder.CALIBRATION_DATA, "wb") as file:
        np.savez_compressed(file, **shown)  # type: ignore[arg-type]
    plots.calibration(run.path / folder.CALIBRATION_DATA, run.path / folder.CALIBRATION)
    tensors = (posterior.of_structures, posterior.of_atoms, posterior.means)
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    sentences = [
        f"uncertainty: from {model.num_last} last weights, {size / 1024:.3g} KiB of the model file, calibrated on "
        f"{posterior.factors.validation} structures of {learnt.calibration}; see {folder.CALIBRATION}"
    ]
    sentences += [
        calibration.words(f"{name}: std of {target}")
        for name, targets in found.items()
        for target, calibration in targets.items()
        if name != learnt.calibration
    ]
    return {name: named(targets) for name, targets in found.items()}, sentences
