"""What is kept is right after every way in which a tensor changes."""

import copy
import gc
import weakref

import torch

from eqmol.so3.kept import kept

calls: list[tuple[torch.Tensor, float]] = []


@kept
def scaled(weight: torch.Tensor, factor: float) -> torch.Tensor:
    calls.append((weight.detach().clone(), factor))
    return weight * factor


def test_constants_are_made_once_and_anew_when_they_change():
    weight = torch.nn.Parameter(torch.randn(3), requires_grad=False)
    assert scaled(weight, 2.0) is scaled(weight, 2.0)
    with torch.no_grad():
        weight.add_(1)
    torch.testing.assert_close(scaled(weight, 2.0), 2 * weight)
    torch.testing.assert_close(scaled(weight, 3.0), 3 * weight)
    weight.data = torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(scaled(weight, 3.0), 3 * weight)
    other = copy.deepcopy(weight)
    other.mul_(2)
    torch.testing.assert_close(scaled(other, 3.0), 3 * other)
    torch.testing.assert_close(scaled(weight, 3.0), 3 * weight)


def test_what_is_learned_or_transformed_is_never_kept():
    weight = torch.randn(3, requires_grad=True)
    calls.clear()
    for _ in range(2):
        scaled(weight, 2.0).sum().backward()
    assert len(calls) == 2
    torch.testing.assert_close(weight.grad, torch.full((3,), 4.0))
    slopes = torch.func.vmap(lambda w: scaled(w, 2.0))(torch.ones(4, 3))
    torch.testing.assert_close(slopes, torch.full((4, 3), 2.0))


def test_values_made_in_inference_mode_have_derivatives_later():
    weight = torch.ones(3)
    with torch.inference_mode():
        scaled(weight, 2.0)
    x = torch.ones(3, requires_grad=True)
    (x * scaled(weight, 2.0)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 2.0))


def test_values_go_with_their_tensor():
    weight = torch.ones(3)
    value = weakref.ref(scaled(weight, 2.0))
    del weight
    gc.collect()
    assert value() is None
