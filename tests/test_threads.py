"""Work in parts: every part once, whatever the number of threads, and torch's threads as they were."""

import os
import threading

import pytest
import torch

from eqmol import threads
from eqmol.nn import linear
from eqmol.so3 import directions


@pytest.fixture
def of_torch(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2, 8])
@pytest.mark.parametrize("parts", [0, 1, 5, 100])
def test_every_part_is_done_once(number, parts, monkeypatch):
    monkeypatch.setattr(threads, "number", lambda: number)
    done = []
    threads.each(done.append, parts)
    assert sorted(done) == list(range(parts))


@pytest.mark.parametrize("number", [1, 2, 8])
def test_chains_are_done_in_order(number, monkeypatch):
    monkeypatch.setattr(threads, "number", lambda: number)
    done = []
    threads.each(done.append, 60, 5)
    assert sorted(done) == list(range(60))
    for chain in range(12):
        assert [part for part in done if part // 5 == chain] == list(range(5 * chain, 5 * chain + 5))


def test_parts_are_done_by_several_threads(monkeypatch):
    monkeypatch.setattr(threads, "number", lambda: 3)
    together = threading.Barrier(3, timeout=60)
    threads.each(lambda _: together.wait(), 3)


def test_errors_of_any_thread_come_out(monkeypatch):
    monkeypatch.setattr(threads, "number", lambda: 2)
    together = threading.Barrier(2, timeout=60)

    def fail(part):
        together.wait()
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(part)

    with pytest.raises(ValueError, match=r"[01]"):
        threads.each(fail, 2)


@pytest.mark.parametrize("of_torch", [2], indirect=True)
def test_torch_has_its_threads_back(of_torch):
    with threads.alone():
        assert (torch.get_num_threads(), threads.number()) == (1, 2)
        with threads.alone():
            assert (torch.get_num_threads(), threads.number()) == (1, 2)
        assert (torch.get_num_threads(), threads.number()) == (1, 2)
    assert (torch.get_num_threads(), threads.number()) == (2, 2)
    with pytest.raises(KeyError), threads.alone():
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("of_torch", [2], indirect=True)
def test_threads_of_parts_have_no_torch_threads(of_torch):
    numbers, together = [], threading.Barrier(2, timeout=60)

    def note(_):
        together.wait()
        numbers.append(torch.get_num_threads())

    threads.each(note, 2)
    assert numbers == [1, 1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of later Pythons
def test_a_forked_child_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(threads, "number", lambda: 2)
    threads.each(lambda _: None, 4)
    child = os.fork()
    if child == 0:
        done = []
        threads.each(done.append, 4)
        os._exit(len(done))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


@pytest.mark.parametrize("lm", [1, 4])
def test_maps_in_parts(lm, monkeypatch):
    """Values, slopes and slopes of slopes, and the same bits for any number of threads."""
    monkeypatch.setattr(linear, "NODES", 4)
    weight = torch.randn(lm, 3, 5, dtype=torch.float64)
    x = torch.randn(11, lm + 2, 3, dtype=torch.float64, requires_grad=True)

    def derivatives(mapped):
        (slope,) = torch.autograd.grad(mapped.sin().sum(), x, create_graph=True)
        return [mapped, slope, *torch.autograd.grad(slope.cos().sum(), x)]

    expected = derivatives(torch.einsum("nlc,lcd->nld", x[:, :lm], weight))
    found = []
    for number in (1, 2, 8):
        monkeypatch.setattr(threads, "number", lambda number=number: number)
        found.append(derivatives(linear._per_component(x, weight)))
        torch.testing.assert_close(found[-1], expected, atol=1e-12, rtol=0)
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))


@pytest.mark.parametrize("of_torch", [1], indirect=True)
def test_harmonics_in_parts(of_torch, monkeypatch):
    monkeypatch.setattr(directions, "CHUNK", 5)
    vectors, found = torch.randn(17, 3, requires_grad=True), []
    for number in (1, 2, 8):
        monkeypatch.setattr(threads, "number", lambda number=number: number)
        values = directions.harmonics_of(vectors, 3)
        found.append([values, *torch.autograd.grad(values.sin().sum(), vectors)])
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))
