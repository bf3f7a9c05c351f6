"""Stretches of edges that threads take."""

import pytest
import torch

from eqmol.ops.kernels import stretches


@pytest.mark.parametrize("edges", [0, 3, 40, 5000])
def test_no_two_stretches_share_a_receiver(edges, monkeypatch):
    monkeypatch.setattr(stretches, "SIZE", 10)
    receivers = torch.randint(0, 17, (edges,)).sort().values
    starts = stretches.by_receiver(receivers)
    assert len(starts) - 1 == max(1, min(edges // 10, stretches.MOST))
    assert (starts[0], starts[-1]) == (0, edges)
    assert (starts.diff() >= 0).all()
    for start in starts[1:-1].tolist():
        assert start == 0 or receivers[start - 1] < receivers[start]


def test_receivers_that_are_not_sorted_are_not_divided(monkeypatch):
    monkeypatch.setattr(stretches, "SIZE", 2)
    assert stretches.by_receiver(torch.tensor([0, 1, 2, 3, 4, 5, 3, 7])).tolist() == [0, 8]


@pytest.mark.parametrize(
    ("edges", "number", "together"), [(0, 1, 1), (3, 1, 1), (9, 3, 1), (17, 4, 1), (26, 8, 2), (5000, 32, 8)]
)
def test_sums_have_as_many_stretches_each(edges, number, together, monkeypatch):
    monkeypatch.setattr(stretches, "SIZE", 3)
    starts, chain = stretches.by_sum(edges)
    assert (len(starts) - 1, chain) == (number, together)
    assert (starts[0], starts[-1]) == (0, edges)
    assert number % together == 0
    assert number // together <= stretches.SUMS
