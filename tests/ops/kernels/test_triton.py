"""Programs in Triton, run by its interpreter on the CPU, and compiled for a GPU that need not be there: nothing is timed."""

import re

import pytest
import torch

from eqmol.ops import Spec, kernels
from eqmol.ops.kernels import forms, library, trial, triton
from eqmol.ops.kernels.programs import edge_program, power_program, product_program
from eqmol.ops.kernels.sparse import edge_terms
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from eqmol.tuning.operations import is_reference
from tests.ops.cases import spec_id
from tests.ops.kernels.test_expressions import derivatives

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
POWER = Spec("power", "coupled", "o3", 1, 0, 1, 2)
PRODUCT = Spec("product", "gaunt", "so3", 1, 1, 1)
CONVOLUTION = Spec("convolution", "coupled", "o3", 1, 1, 1)
OTHERS = [
    Spec("power", "coupled", "o3", 2, 0, 1, 3),
    Spec("power", "gaunt", "so3", 1, 0, 2, 3),
    Spec("product", "coupled", "so3", 2, 1, 2),
    Spec("convolution", "gaunt", "so3", 1, 2, 2),
    Spec("convolution", "coupled", "o3", 0, 2, 2),
    Spec("convolution", "coupled", "so3", 2, 4, 2, order_max=1),
    Spec("convolution", "coupled", "so3", 1, 1, 1).with_separate_paths(),
]
needs_triton = pytest.mark.skipif(triton.version() is None, reason="triton is not installed: pip install triton")


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels of the CPU are in Triton, with short warps and pieces, and its interpreter runs them."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(library, "language", lambda device: "triton")
    monkeypatch.setattr(triton, "WARP", 4)
    monkeypatch.setattr(triton, "PIECE", 3)
    yield from forgotten()


def forgotten():
    """What was made before the test and in it is not used after it."""
    remembered = forms.power_kernel, forms.product_kernel, forms.edge_kernel, trial._problem, library.say
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@needs_triton
@pytest.mark.usefixtures("interpreted", "float64")
@pytest.mark.parametrize(
    "spec",
    [POWER, PRODUCT, CONVOLUTION, *(pytest.param(spec, marks=pytest.mark.slow) for spec in OTHERS)],
    ids=spec_id,
)
def test_equals_torch_and_its_derivatives(spec, monkeypatch):
    """Of two orders, over more channels than a warp has and more items than a piece has; some groups are empty."""
    monkeypatch.setattr(trial, "passed", lambda *_: True)
    case, op = make_case(spec, nodes=4, channels=5, edges=7), create(spec, "cg")
    op.kernels = "require"
    assert not is_reference(op, CPU, torch.float64)
    found = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    op.kernels = "off"
    expected = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@needs_triton
@pytest.mark.usefixtures("interpreted")
def test_kernels_are_tried_before_they_are_used(monkeypatch, caplog):
    """In float32, too; those that are wrong are not used."""
    assert trial.passed(CPU, torch.float32, "require")
    call = triton.Kernel.__call__
    monkeypatch.setattr(triton.Kernel, "__call__", lambda *args: {name: 2 * t for name, t in call(*args).items()})
    trial._problem.cache_clear()
    op = create(POWER, "cg")
    assert not trial.passed(CPU, torch.float32, "auto")
    assert "on cpu a kernel of a power is wrong by 1.0e+00: tensor products run uncompiled" in caplog.text
    op.kernels = "require"
    with pytest.raises(library.KernelError, match="on cpu a kernel of a power is wrong"):
        kernels.apply(op, CPU, torch.float32)


def test_kernels_are_used_where_they_are_required(monkeypatch):
    """Not by themselves, as nobody has timed them yet."""
    monkeypatch.setattr(triton, "version", lambda: "3.7.0")
    assert [library.are_possible(CUDA, torch.float32, wanted) for wanted in ("off", "auto", "require")] == [0, 0, 1]


def test_without_triton(monkeypatch):
    monkeypatch.setattr(triton, "version", lambda: None)
    assert not library.are_possible(CUDA, torch.float32, "off")
    with pytest.raises(library.KernelError, match="triton is not installed; pip install triton, or use auto"):
        library.are_possible(CUDA, torch.float32, "require")


def test_pieces_of_groups():
    """Every item once, in order, and never two groups in one piece."""
    begin = torch.tensor([0, 0, 20, 20, 37, 37])
    pieces = triton.cut(begin, 37)
    for group in range(5):
        first, last = pieces.first[group : group + 2].tolist()
        own = [i for s in range(first, last) for i in range(*pieces.cuts[s : s + 2].tolist())]
        assert own == list(range(*begin[group : group + 2].tolist()))
        assert all(pieces.group[s] == group for s in range(first, last) if pieces.cuts[s] < pieces.cuts[s + 1])
    assert int(pieces.cuts.diff().max()) <= triton.PIECE


@pytest.mark.parametrize("spec", [POWER, PRODUCT, CONVOLUTION], ids=spec_id)
def test_what_would_take_minutes_to_compile_has_no_kernels(spec, monkeypatch):
    assert forms._fits(spec, "triton")
    forms._fits.cache_clear()
    monkeypatch.setattr(forms, "MAX_TRITON", 10)
    assert not forms._fits(spec, "triton")
    assert forms._fits(spec, "c++")
    forms._fits.cache_clear()


def sources():
    """Of kernels that sum over groups, over channels, and not at all."""
    harmonics = edge_terms(CONVOLUTION).harmonics
    edges = [frozenset("v"), frozenset("wm"), forms.ALL_SLOPES - {"x"}]
    return [
        triton.source(power_program(POWER, frozenset("v"), 0), triton.NODES),
        triton.source(power_program(POWER, frozenset("xcv"), 1), triton.NODES),
        triton.source(product_program(PRODUCT, frozenset("xyw")), triton.NODES),
        *(triton.source(edge_program(CONVOLUTION, e), triton.BY_RECEIVER, harmonics) for e in edges[:2]),
        triton.source(edge_program(CONVOLUTION, edges[2], frozenset("wxm")), triton.BY_RECEIVER, harmonics),
        triton.source(edge_program(CONVOLUTION, frozenset("x")), triton.BY_SENDER, harmonics),
    ]


def test_sources_have_nothing_of_the_user():
    for source in sources():
        assert re.fullmatch(r"[\w\s<.*+=(),:\[\]-]*", source)
        assert "import" not in source


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_compiles_for_a_gpu(dtype, monkeypatch):
    """To machine code of an A100, by Triton and its ptxas, which need no GPU."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for source in sources():
        function = triton._function(source)
        kinds = ["*i64"] * 4 + [f"*{dtype}"] * (len(function.arg_names) - 7) + ["i32"] * 3
        signature = dict(zip(function.arg_names, kinds, strict=True))
        made = compile(ASTSource(function, signature, {}), target=GPUTarget("cuda", 80, 32), options={"num_warps": 1})
        assert made.asm["cubin"]
