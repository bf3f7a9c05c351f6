"""Local optimisers of one structure, which ask for nothing but forces: many structures can take their steps at once.

Each takes the steps of ASE's optimiser of the same name. All that one remembers are arrays, which can be kept in a file.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_STEP = 0.2  #: Å


class Optimizer(Protocol):
    """What a relaxation asks for its next step."""

    def step(self, positions: Array, forces: Array) -> Array:
        """Return the displacement [N, 3] (Å) from positions [N, 3] (Å) with forces [N, 3] (eV/Å)."""

    def state(self) -> dict[str, Array]:
        """Return all that it remembers."""

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on where another one was, see :meth:`state`."""


class Fire:
    """Fast inertial relaxation engine (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)), with the parameters published.

    Args:
        max_step: Å, largest length of a displacement of all coordinates together.
    """

    MIXING, MIXING_DECAY = 0.1, 0.99
    TIME_STEP, MAX_TIME_STEP = 0.1, 1.0
    GROWTH, DECAY = 1.1, 0.5
    PATIENCE = 5  #: steps downhill before the time step grows

    def __init__(self, max_step: float = MAX_STEP) -> None:
        self.max_step = max_step
        self._velocity: Array | None = None
        self._time_step, self._mixing, self._downhill = self.TIME_STEP, self.MIXING, 0

    def step(self, positions: Array, forces: Array) -> Array:
        """Return the displacement; the positions do not matter."""
        if self._velocity is None:
            self._velocity = np.zeros_like(forces)
        elif float(np.vdot(forces, self._velocity)) > 0.0:
            ahead = forces * (np.linalg.norm(self._velocity) / np.linalg.norm(forces))
            self._velocity = (1 - self._mixing) * self._velocity + self._mixing * ahead
            if self._downhill > self.PATIENCE:
                self._time_step = min(self.GROWTH * self._time_step, self.MAX_TIME_STEP)
                self._mixing *= self.MIXING_DECAY
            self._downhill += 1
        else:
            self._velocity = np.zeros_like(forces)
            self._mixing, self._downhill = self.MIXING, 0
            self._time_step *= self.DECAY
        self._velocity = self._velocity + self._time_step * forces
        displacement = self._time_step * self._velocity
        length = float(np.linalg.norm(displacement))
        return displacement * (self.max_step / length) if length > self.max_step else displacement

    def state(self) -> dict[str, Array]:
        """Return velocities, and time step, mixing and steps downhill."""
        if self._velocity is None:
            return {}
        return {
            "velocity": self._velocity,
            "scalars": np.array([self._time_step, self._mixing, self._downhill], np.float64),
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take up a state."""
        if state:
            self._velocity = state["velocity"]
            self._time_step, self._mixing = (float(x) for x in state["scalars"][:2])
            self._downhill = int(state["scalars"][2])


class LBFGS:
    """Quasi-Newton steps with limited memory (Nocedal, Math. Comput. 35, 773 (1980)), without line search.

    Steps along which the force does not fall tell of a negative curvature; they are left out, so that every displacement goes
    downhill.

    Args:
        max_step: Å, largest displacement of an atom; longer steps are shortened as a whole.
    """

    MEMORY = 50
    CURVATURE = 70.0  #: eV/Å², of all coordinates before anything is known

    def __init__(self, max_step: float = MAX_STEP) -> None:
        self.max_step = max_step
        self._steps: list[Array] = []
        self._changes: list[Array] = []  #: of the gradient
        self._last: tuple[Array, Array] | None = None

    def step(self, positions: Array, forces: Array) -> Array:
        """Return the displacement."""
        if self._last is not None:
            step, change = positions - self._last[0], self._last[1] - forces
            if np.vdot(step, change) > 0.0:
                self._steps = [*self._steps, step][-self.MEMORY :]
                self._changes = [*self._changes, change][-self.MEMORY :]
        self._last = positions.copy(), forces.copy()
        direction = self._direction(forces)
        longest = float(np.linalg.norm(direction, axis=1).max())
        return direction * (self.max_step / longest) if longest >= self.max_step else direction

    def _direction(self, forces: Array) -> Array:
        """Return the inverse Hessian times the forces, by recursion over the pairs in both directions."""
        pairs = [(s, y, 1.0 / float(np.vdot(y, s))) for s, y in zip(self._steps, self._changes, strict=True)]
        direction, factors = forces.copy(), []
        for step, change, inverse in reversed(pairs):
            factors.append(inverse * float(np.vdot(step, direction)))
            direction -= factors[-1] * change
        direction /= self.CURVATURE
        for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
            direction += (factor - inverse * float(np.vdot(change, direction))) * step
        return direction

    def state(self) -> dict[str, Array]:
        """Return the pairs and the last point."""
        if self._last is None:
            return {}
        last = {"positions": self._last[0], "forces": self._last[1]}
        return last | ({"steps": np.array(self._steps), "changes": np.array(self._changes)} if self._steps else {})

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take up a state."""
        if state:
            self._last = state["positions"], state["forces"]
            self._steps, self._changes = list(state.get("steps", ())), list(state.get("changes", ()))


OPTIMIZERS: dict[str, type[Fire] | type[LBFGS]] = {"lbfgs": LBFGS, "fire": Fire}
