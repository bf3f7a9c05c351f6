"""Training with products in bfloat16."""

import copy
import csv

import pytest
import torch

from eqmol.nn import Linear
from eqmol.train.precision import allow_tf32, multiply_in_bfloat16
from tests.models.systems import VARIANTS, graph_of, make_model, structures
from tests.train.runs import train


def test_training_is_about_that_in_float32(tmp_path):
    curves = []
    for precision in ("float32", "bf16-mixed"):
        options = ["backend=grid", "model.checkpointing=true", f"trainer.precision={precision}"]
        options.append("task.optimizer.lr=0.001")  # steps that do not magnify roundings
        train(tmp_path, precision, *options)
        with (tmp_path / precision / "log.csv").open() as file:
            curves.append([float(row["train_loss"]) for row in csv.DictReader(file)])
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.02)  # roundings of 2^-9 in a few layers


def test_products_are_as_exact_as_their_roundings():
    """Both factors and the result are rounded once, to eight bits; sums are kept in float32."""
    layer, x = Linear(2, 2, 40, 30), torch.randn(50, 9, 40)
    exact, sizes = layer(x).double(), copy.deepcopy(layer)
    with torch.no_grad():
        sizes.weight.abs_()
    multiply_in_bfloat16(layer)
    bound = 2**-8 * (sizes(x.abs()).double() + exact.abs())
    error = (layer(x).double() - exact).abs()
    assert (error <= bound).all()
    assert error.max() > 0.01 * bound.max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_function_is_the_same_up_to_rounding(variant):
    model, graph = make_model(variant=variant), graph_of(structures()["slab"])
    exact = model.train()(graph)["forces"].detach()
    rounded = copy.deepcopy(model)
    multiply_in_bfloat16(rounded)
    average = copy.deepcopy(rounded)  # as that of the weights is made
    forces = rounded(graph)["forces"]
    assert forces.dtype == torch.float64
    error = float((forces.detach() - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.05  # layers and their derivatives add up roundings of 2^-9; float32 alone gives 1e-6
    assert torch.equal(average(graph)["forces"], forces)
    assert torch.equal(model(graph)["forces"], exact)
    forces.square().sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in rounded.parameters())


def test_other_layers_keep_their_precision_after_an_error():
    layer = Linear(1, 1, 3, 3)
    multiply_in_bfloat16(layer)
    with pytest.raises(RuntimeError):
        layer(torch.zeros(2, 4, 7))
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert layer(torch.ones(2, 4, 3)).dtype == torch.float32


def test_tf32_is_for_gpus():
    before = torch.backends.cuda.matmul.allow_tf32
    allow_tf32(not before)
    assert torch.backends.cuda.matmul.allow_tf32 != before
    allow_tf32(before)
