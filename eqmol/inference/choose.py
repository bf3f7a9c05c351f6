"""Which structures of a pool are worth labelling: those of which a potential is unsure, and which are far from one another."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.inference.batches import batches
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import graph_of
from eqmol.inference.std import std_of
from eqmol.inference.structures import Frame
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import Posterior, sums_of

#: Structures nearer than this, in units of the training set's spread, are copies up to rounding.
COPIES = 1e-5


class Scores(NamedTuple):
    """What a model says of structures.

    Attributes:
        distances: [P], the largest distance of an atom's environment from the training set, see :mod:`eqmol.models.uncertainty`.
        places: [P, F], mean over atoms of their last features, in units of those of the training set.
    """

    distances: NDArray[np.float64]
    places: NDArray[np.float64]


def score(model: Predictor, frames: Iterable[Frame], batch_size: int = 16, close_contacts: str = "warn") -> Scores:
    """Score structures; one batch of them is in memory.

    Args:
        model: a potential that knows how sure it is.
        frames: as :func:`eqmol.data.xyz.reader.read_frames` gives them.
        batch_size: structures evaluated together.
        close_contacts: see :class:`eqmol.Calculator`.

    Raises:
        InputError: a model without uncertainty, or a structure that it cannot evaluate.
    """
    std_of(model, "cheap")
    posterior = Posterior.read(model)
    assert posterior is not None
    contacts = guard_of(model, close_contacts)
    device = next(model.parameters()).device
    graphs = ((None, graph_of(model, frame[0], frame[2], contacts=contacts)) for frame in frames)
    distances, places = [], []
    for batch in batches(graphs, batch_size):
        joined = collate([graph for _, graph in batch]).to(device)
        last_layer = model(joined, forces=False, last_layer=True)["last_layer"]
        rows = posterior.deviations(last_layer, model.species(joined))
        largest = rows.new_zeros(len(batch)).scatter_reduce(0, joined.batch, rows.norm(dim=1), "amax")
        distances.append(largest.cpu())
        places.append((sums_of(rows, joined) / joined.ptr.diff()[:, None]).cpu())
    if not distances:
        raise InputError("there are no structures to choose from")
    return Scores(torch.cat(distances).numpy(), torch.cat(places).numpy())


def choose(pool: Scores, number: int, known: NDArray[np.float64] | None = None) -> list[int]:
    """Choose one after the other: the next has the largest product of its distance from the training set and of that to the
    nearest structure which is chosen or known (farthest-point sampling, weighted by the uncertainty).

    Args:
        pool: P structures.
        number: how many, at most P.
        known: [K, F], places of structures that need not be chosen again.

    Returns:
        Indices in the order of the choice; fewer where all that are left are copies of what is chosen or known.
    """
    nearest = np.full(len(pool.distances), np.inf)
    for place in [] if known is None else known:
        nearest = np.minimum(nearest, np.linalg.norm(pool.places - place, axis=1))
    chosen: list[int] = []
    while len(chosen) < number:
        apart = np.ones_like(nearest) if np.isinf(nearest).all() else nearest
        value = np.where(nearest > COPIES, pool.distances * apart, -1.0)
        best = int(value.argmax())
        if value[best] < 0:
            break
        chosen.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(pool.places - pool.places[best], axis=1))
    return chosen
