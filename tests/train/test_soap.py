"""SOAP is another package's; what is ours is how it is found and asked."""

import pytest
import torch

from eqmol.errors import InputError
from eqmol.train.soap import SOAP


def test_without_the_package_it_is_refused(monkeypatch):
    monkeypatch.setattr("eqmol.train.soap.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"eqmol\[optimizers\]"):
        SOAP([torch.nn.Parameter(torch.ones(2, 2))])


def test_steps_are_adams_in_eigenbases():
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch-optimizer")
    # gradients that are diagonal in one basis: there every step is Adam's, of size lr
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] for _ in range(2))
    gradient = left @ torch.diag(torch.tensor([9.0, 3.0, 0.1], dtype=torch.float64)) @ right.T
    parameter = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    optimizer = SOAP([{"params": [parameter], "inputs": 0}], lr=0.01)
    for _ in range(4):
        parameter.grad = gradient.clone()
        optimizer.step()
    moved = left.T @ parameter.detach() @ right
    torch.testing.assert_close(moved, torch.diag(torch.full((3,), -0.03, dtype=torch.float64)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"precondition_frequency": 0.5}, {"betas": (0.9, 2.0)}])
def test_wrong_arguments(wrong):
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch-optimizer")
    with pytest.raises(ValueError, match=r"."):
        SOAP([torch.nn.Parameter(torch.ones(2, 2))], **wrong)
