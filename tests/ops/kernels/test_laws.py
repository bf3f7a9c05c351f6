"""The laws of the contract hold for compiled code."""

import pytest
import torch

from tests.ops import test_contract as contract
from tests.ops.cases import spec_id
from tests.ops.kernels.test_compiled import OTHERS, SPECS

pytestmark = pytest.mark.usefixtures("kernels", "float64")
CONVOLUTIONS = [spec for spec in SPECS + OTHERS if spec.operation == "convolution"]


@pytest.mark.parametrize("spec", SPECS + OTHERS, ids=spec_id)
@pytest.mark.parametrize(
    "law",
    [
        contract.test_tables_are_exact_after_a_cast,
        contract.test_equivariant,
        contract.test_twice_differentiable,
        contract.test_functional_gradients_agree_with_autograd,
        contract.test_unit_variance,
    ],
    ids=lambda law: law.__name__,
)
def test_of_the_contract(law, spec):
    law(spec, "cg")
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("spec", CONVOLUTIONS, ids=spec_id)
def test_of_messages(spec):
    contract.test_messages_of_edges_sum_to_the_convolution(spec, "cg")
