"""The short form of the fuzz of structures; ``make fuzz`` runs the long one."""

import numpy as np
import pytest

from eqmol.graph import NeighborList
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from tests.fuzz.structures import KINDS, RIGHT, WRONG, WrongError, check_derivatives, examine, fuzz_model


@pytest.fixture(scope="module")
def model():
    return fuzz_model()


@pytest.mark.parametrize("kind", KINDS)
def test_structures_are_right_or_refused(model, kind):
    start = list(KINDS).index(kind)
    for index in (start, start + len(KINDS)):
        finding = examine(model, seed=0, index=index)
        assert finding.kind == kind
        assert finding.outcome in ("right", "refused"), finding


@pytest.mark.parametrize("fault", ["lost edge", "wrong shift", "wrong sender"])
def test_the_oracle_notices(model, monkeypatch, fault):
    search = NeighborList.__call__

    def faulty(self, positions, cell, pbc):
        edges, shifts = search(self, positions, cell, pbc)
        if fault == "lost edge":
            return edges[:, 1:], shifts[1:]
        if fault == "wrong shift":
            shifts[0, 0] += 1
        else:
            edges[0, 0] = (edges[0, 0] + 1) % len(positions)
        return edges, shifts

    index = list(KINDS).index("bulk")
    assert examine(model, 0, index).outcome == RIGHT
    monkeypatch.setattr(NeighborList, "__call__", faulty)
    assert examine(model, 0, index).outcome == WRONG


@pytest.mark.parametrize(("name", "kind"), [("forces", "molecule"), ("stress", "bulk")])
def test_the_differences_notice(model, name, kind):
    rng = np.random.default_rng(0)
    atoms = KINDS[kind](rng).atoms
    result = evaluate_graphs(model, [graph_of(model, atoms)])[0]
    check_derivatives(model, atoms, result, rng)
    result[name] = result[name] * (1 + 1e-4)
    with pytest.raises(WrongError, match=f"{name}, by differences"):
        check_derivatives(model, atoms, result, rng)
