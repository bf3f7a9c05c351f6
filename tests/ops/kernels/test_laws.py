"""The laws of the contract hold for compiled code."""

from functools import partial

import pytest

from eqmol.ops import laws
from eqmol.ops.registry import create
from tests.ops import test_contract as contract
from tests.ops.cases import spec_id
from tests.ops.kernels.test_compiled import OTHERS, SPECS

pytestmark = pytest.mark.usefixtures("kernels", "float64")

#: The dense reference is compared, with derivatives, in test_compiled.
LAWS = [law for law in laws.LAWS if law is not laws.equals_the_dense_reference]
CASES = [
    (law, spec) for law in LAWS for spec in SPECS + OTHERS if spec.operation in contract.OF.get(law, (spec.operation,))
]


@pytest.mark.parametrize(("law", "spec"), CASES, ids=contract.law_id)
def test_of_the_contract(law, spec):
    law(partial(create, spec, "cg"), spec)


@pytest.mark.parametrize("spec", SPECS + OTHERS, ids=spec_id)
def test_of_the_variance(spec):
    contract.test_unit_variance(spec, "cg")
