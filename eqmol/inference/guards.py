"""What a prediction must not exceed to be believed."""

import warnings
from collections.abc import Mapping
from typing import Any

import ase
import numpy as np

from eqmol.errors import InputError, check_mode
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import Posterior

#: Times as far from the training set as the farthest atom of the validation set. Frames of 3BPA at 1200 K reach 3.5 times in a
#: model trained at 300 K; atoms that are displaced at random by 0.2 Å and more are beyond.
FAR = 5.0


def usual_uncertainty(model: Predictor) -> float | None:
    """The std of a force (eV/Å) at :data:`FAR` times the farthest distance of the validation set; None without uncertainty."""
    posterior = Posterior.read(model)
    if posterior is None or posterior.factors.forces is None:
        return None
    return FAR * posterior.factors.farthest * posterior.factors.forces


class Limits:
    """The guard of results: of the largest force and of the largest std of a force.

    Args:
        force: eV/Å; None for no limit, as of the next.
        uncertainty: eV/Å, of ``forces_std``.
        mode: "stop" refuses results beyond, "warn" says so once for each limit.

    Raises:
        InputError: a limit that is none, or an unknown mode.
    """

    def __init__(self, force: float | None, uncertainty: float | None, mode: str = "stop") -> None:
        self.mode = check_mode(mode, "limits")
        given = {"largest_force": force, "largest_uncertainty": uncertainty}
        for name, limit in given.items():
            if limit is not None and (
                isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < np.inf
            ):
                raise InputError(f"{name}={limit!r} must be a positive number of eV/Å, or None")
        self._limits = {name: limit for name, limit in given.items() if limit is not None}
        self._said: set[str] = set()

    def check(self, result: Mapping[str, Any], atoms: ase.Atoms) -> None:
        """Refuse a result beyond a limit, or warn of it; names the atom.

        Raises:
            InputError: in the mode "stop".
        """
        for name, limit in self._limits.items():
            key, what = ("forces", "force") if name == "largest_force" else ("forces_std", "std of the force")
            values = np.asarray(result[key])
            size = values if values.ndim == 1 else np.linalg.norm(values, axis=1)
            worst = int(size.argmax())
            if size[worst] <= limit:
                continue
            sentence = f"the {what} on atom {worst} ({atoms.symbols[worst]}) is {size[worst]:.3g} eV/Å, more than {name}={limit:g}"
            if self.mode == "stop":
                raise InputError(sentence)
            if name not in self._said:
                self._said.add(name)
                warnings.warn(f"{sentence} (said once)", stacklevel=2)
