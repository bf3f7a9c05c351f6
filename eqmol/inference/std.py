"""The std of predictions of a potential that knows how sure it is."""

from typing import Any

from torch import Tensor

from eqmol.errors import InputError
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import Posterior, force_variances, sums_of

#: How the std of predictions is found, see :func:`std_of`.
UNCERTAINTIES = ("auto", "off", "cheap", "exact")


class Std:
    """How the std of predictions is found.

    Args:
        posterior: of the model's last weights.
        exact: propagate it to every force component, with one backward pass for each last weight.
    """

    def __init__(self, posterior: Posterior, exact: bool) -> None:
        self.exact = exact
        self._posterior = posterior

    @property
    def has_forces(self) -> bool:
        """Whether there is a std of forces."""
        return self.exact or self._posterior.factors.forces is not None

    def __call__(self, model: Potential, batch: Any, last_layer: Tensor) -> dict[str, Tensor]:
        """Return what there are of energy_std [G], energies_std [N] and forces_std, [N] or, if exact, [N, 3]."""
        posterior, factors = self._posterior, self._posterior.factors
        found: dict[str, Tensor] = {}
        if factors.energy is not None:
            found["energy_std"] = factors.energy * posterior.spreads(sums_of(last_layer, batch))
            found["energies_std"] = factors.energy * posterior.spreads(last_layer)
        if self.exact:
            assert factors.exact is not None
            found["forces_std"] = factors.exact * force_variances(model, batch, posterior.of_structures).sqrt()
        elif factors.forces is not None:
            found["forces_std"] = factors.forces * posterior.distances(last_layer, model.species(batch))
        return found


def check_uncertainty(uncertainty: object) -> str:
    """Return one of :data:`UNCERTAINTIES`.

    Raises:
        InputError: it is none of them.
    """
    if not isinstance(uncertainty, str) or uncertainty not in UNCERTAINTIES:
        raise InputError(f"uncertainty={uncertainty!r:.80} is unknown; choose {', '.join(UNCERTAINTIES)}")
    return uncertainty


def std_of(model: Predictor, uncertainty: str) -> Std | None:
    """How the std of a model's predictions is found; None: not at all.

    Args:
        model: gives its posterior, where it has one.
        uncertainty: ``"off"``, ``"cheap"``, ``"exact"``, or ``"auto"`` for ``"cheap"`` where the model has a posterior.

    Raises:
        InputError: an unknown word, or what the model cannot have.
    """
    if check_uncertainty(uncertainty) == "off":
        return None
    posterior = Posterior.read(model)
    if posterior is None and uncertainty == "auto":
        return None
    if not isinstance(model, Potential):
        raise InputError(
            f"uncertainty={uncertainty} is for energies and forces, and this model predicts properties alone"
        )
    if posterior is None:
        raise InputError(
            f"uncertainty={uncertainty} needs a model that knows how sure it is, which eqmol train writes into its file at the "
            "end; this one does not: train it, also shortly with init_from=MODEL, or leave uncertainty out"
        )
    exact = uncertainty == "exact"
    if exact and posterior.factors.exact is None:
        why = (
            "its forces are no derivatives (forces=direct)"
            if not model.conservative
            else "its validation set had no forces"
        )
        raise InputError(f"uncertainty=exact is not possible with this model, as {why}; take uncertainty=cheap")
    return Std(posterior, exact)
