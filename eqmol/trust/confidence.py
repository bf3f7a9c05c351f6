"""Whether a model that knows how sure it is tells the truth, and how much it is asked about what it does not know."""

from collections.abc import Iterator, Sequence

import numpy as np

from eqmol.graph.keys import FORCES
from eqmol.inference.calibration import Calibration
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.inference.std import std_of
from eqmol.models.uncertainty import Posterior
from eqmol.trust.labels import Frame
from eqmol.trust.report import Line, judge
from eqmol.trust.subject import Subject

#: Force components from which on a calibration tells something.
ENOUGH = 100


def confidence(subject: Subject, frames: Sequence[Frame]) -> Iterator[Line]:
    """The part of the atoms that are farther from the training set than any of the validation set, in the model's own last
    features; and for the others, with labels, whether errors of forces are as large as their std.
    """
    posterior = None if subject.potential is None else Posterior.read(subject.native)
    if posterior is None or posterior.factors.forces is None:
        return
    std = std_of(subject.native, "cheap")
    factors = posterior.factors
    distances, stds, errors = [], [], []
    for frame in frames:
        result = evaluate_graphs(subject.native, [graph_of(subject.native, frame.atoms, frame.source)], std)[0]
        far = result["forces_std"] / factors.forces
        distances.append(far)
        if FORCES in frame.labels:
            known = far <= factors.farthest
            errors.append((result["forces"] - frame.labels[FORCES])[known])
            stds.append(np.broadcast_to(result["forces_std"][:, None], result["forces"].shape)[known])
    everything = np.concatenate(distances)
    beyond = float((everything > factors.farthest).mean())
    words = f"median {np.median(everything):.2f}, largest {everything.max():.2f}, of the validation set {factors.farthest:.2f}"
    yield judge("extrapolation", beyond, subject.kinds, words)
    if sum(part.size for part in errors) >= ENOUGH:
        found = Calibration.of(np.concatenate(stds), np.concatenate(errors))
        words = (
            f"errors are {found.ratio:.2f} times the std, on {found.number} components of atoms that are not farther"
        )
        yield judge("calibration", found.area, subject.kinds, words)
