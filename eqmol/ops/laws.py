"""What every algorithm for a tensor product obeys, in float64 and on random inputs: ``eqmol.ops.check(NAME)``."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.testing import assert_close

from eqmol.errors import InputError
from eqmol.ops import dense
from eqmol.ops.contract import Convolution, EdgeProduct, Mixing, RadialWeight, TensorProduct, default_dtype
from eqmol.ops.registry import ALGORITHMS, algorithm, can_run
from eqmol.ops.spec import Spec
from eqmol.so3.layout import degrees, dim
from eqmol.so3.wigner import wigner_matrices

TOLERANCE = 1e-10  #: of results of order one; rounding stays a hundred times below it
AXES = torch.cat([torch.eye(3), -torch.eye(3)])

#: What :func:`check` asks for: every operation, family and parity, with degrees that differ.
SPECS = [
    Spec(operation, family, parity, *sizes)
    for operation in ("convolution", "product")
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for sizes in ((1, 1, 1), (2, 3, 1), (1, 2, 3))
]
SPECS += [Spec("convolution", "coupled", parity, 2, 4, 2, order_max=1) for parity in ("o3", "so3")]
SPECS += [Spec("convolution", "coupled", parity, 1, 2, 2).with_separate_paths() for parity in ("o3", "so3")]
SPECS += [
    Spec("mixing", "coupled", parity, 2, 3, 1, order_max=order_max)
    for parity in ("o3", "so3")
    for order_max in (None, 0)
]
SPECS += [
    Spec("power", family, parity, degree_in, 0, degree_out, order)
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for degree_in, degree_out, order in ((1, 1, 3), (2, 1, 2), (1, 2, 1))
]


@dataclass
class Case:
    """Inputs of one operation and the ways to evaluate it; the shapes are those of :mod:`eqmol.ops.contract`."""

    spec: Spec
    features: list[Tensor]
    weights: list[Tensor]
    vectors: Tensor
    senders: Tensor
    receivers: Tensor
    group: Tensor

    def evaluate(
        self, op: TensorProduct, features: Sequence[Tensor], weights: Sequence[Tensor], vectors: Tensor
    ) -> Tensor:
        """The result with other inputs."""
        if isinstance(op, EdgeProduct):
            (x,) = features
            ends = self.senders, self.receivers, len(x)
            return op(x, op.geometry(vectors), RadialWeight(*weights[:2]), *weights[2:], *ends)
        return op(*features, *weights, *([self.group] if self.spec.operation == "power" else []))

    @property
    def has_edges(self) -> bool:
        """Whether the operation is one of edges."""
        return self.spec.operation in ("convolution", "mixing")

    def run(self, op: TensorProduct) -> Tensor:
        """The result."""
        return self.evaluate(op, self.features, self.weights, self.vectors)

    def leaves(self) -> list[Tensor]:
        """Copies of all inputs that the operation is differentiated by: features, weights, and vectors of a convolution."""
        vectors = [self.vectors] if self.has_edges else []
        return [t.detach().clone().requires_grad_() for t in (*self.features, *self.weights, *vectors)]

    def of_leaves(self, op: TensorProduct, *leaves: Tensor) -> Tensor:
        """The result as a function of :meth:`leaves`."""
        first, second = len(self.features), len(self.features) + len(self.weights)
        vectors = leaves[-1] if self.has_edges else self.vectors
        return self.evaluate(op, leaves[:first], leaves[first:second], vectors)

    def reference(self) -> Tensor:
        """The result by :mod:`eqmol.ops.dense`."""
        if self.has_edges:
            (x,), weight = self.features, RadialWeight(*self.weights[:2])
            ends = self.senders, self.receivers, len(x)
            if self.spec.operation == "mixing":
                return dense.mixing(self.spec, x, self.vectors, weight, self.weights[2], *ends)
            return dense.convolution(self.spec, x, self.vectors, weight, *ends)
        if self.spec.operation == "product":
            x, y = self.features
            return dense.product(self.spec, x, y, self.weights[0].expand(len(x), -1, -1))
        return dense.power(self.spec, self.features[0], self.weights[0], self.group)


def make_case(
    spec: Spec, nodes: int = 4, channels: int = 3, edges: int = 9, dtype: torch.dtype = torch.float64
) -> Case:
    """Random inputs; the first six edges lie exactly along the axes, where charts have their poles."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    features = [normal(nodes, dim(spec.degree_in), channels)]
    if spec.operation == "convolution":
        # not contiguous, as a rebased matrix is
        weights = [normal(edges, 2), normal(spec.num_weights, 2, channels).transpose(0, 1)]
    elif spec.operation == "mixing":
        weights = [normal(edges, 2), normal(len(spec.own_factors), 2, channels).transpose(0, 1)]
        weights.append(normal(spec.num_weights, channels, 3))
    elif spec.operation == "product":
        features.append(normal(nodes, dim(spec.degree_filter), channels))
        weights = [normal(spec.num_weights, channels)]
    else:
        weights = [normal(3, spec.num_weights, channels)]
    vectors = torch.cat([1.7 * AXES.to(dtype), normal(max(edges - 6, 0), 3)])[:edges]
    receivers = torch.sort(torch.randint(max(nodes, 1), (edges,))).values
    senders = torch.randint(max(nodes, 1), (edges,))
    return Case(spec, features, weights, vectors, senders, receivers, torch.arange(nodes) % 3)


Make = Callable[[], TensorProduct]


def equals_the_dense_reference(make: Make, spec: Spec) -> None:
    """And leaves its inputs to the reference as they were."""
    case = make_case(spec)
    assert_close(case.run(make()), case.reference(), atol=TOLERANCE, rtol=0)


def messages_sum_to_the_convolution(make: Make, spec: Spec) -> None:
    op, case = make(), make_case(spec)
    if not isinstance(op, Convolution | Mixing):
        return
    x = case.features[0]
    factors = RadialWeight(*case.weights[:2])
    messages = op.message(x[case.senders], op.geometry(case.vectors), factors, *case.weights[2:])
    summed = x.new_zeros(len(x), *messages.shape[1:]).index_add(0, case.receivers, messages)
    assert_close(summed, case.reference(), atol=TOLERANCE, rtol=0)


def takes_weights_of_every_node(make: Make, spec: Spec) -> None:
    if spec.operation == "product":
        case = make_case(spec)
        case = replace(case, weights=[torch.randn(len(case.features[0]), *case.weights[0].shape)])
        assert_close(case.run(make()), case.reference(), atol=TOLERANCE, rtol=0)


def owns_no_parameters(make: Make, spec: Spec) -> None:
    op = make()
    names = [name for name, _ in op.named_parameters()] + list(op.state_dict())
    if names:
        raise AssertionError(f"it owns {', '.join(names)}; weights are arguments, tables are made by add_table")


def is_exact_after_a_cast(make: Make, spec: Spec) -> None:
    with default_dtype(torch.float32):
        op = make()
    case = make_case(spec)
    assert_close(case.run(op.double()), case.reference(), atol=TOLERANCE, rtol=0)


def is_equivariant(make: Make, spec: Spec) -> None:
    """Under rotations, and for ``o3`` under the inversion of space."""
    op, case, highest = make(), make_case(spec), max(spec.degree_in, spec.degree_filter, spec.degree_out)
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)
    matrices = torch.block_diag(*wigner_matrices(rotation, highest))
    for sign in (1.0, -1.0) if spec.parity == "o3" else (1.0,):
        signs = torch.tensor([sign ** int(l) for l in degrees(highest)])

        def act(x: Tensor, signs: Tensor = signs) -> Tensor:
            n = x.shape[1]
            return signs[:n, None] * (matrices[:n, :n] @ x)

        moved = replace(case, features=[act(x) for x in case.features], vectors=sign * case.vectors @ rotation.T)
        assert_close(moved.run(op), act(case.run(op)), atol=TOLERANCE, rtol=0)


def is_twice_differentiable(make: Make, spec: Spec) -> None:
    """In features, weights and edge vectors, against finite differences."""
    case = make_case(spec, nodes=3, channels=1, edges=7)
    function = partial(case.of_leaves, make())
    torch.autograd.gradcheck(function, case.leaves(), fast_mode=True)
    torch.autograd.gradgradcheck(function, case.leaves(), fast_mode=True)


def has_functional_gradients(make: Make, spec: Spec) -> None:
    """Under ``torch.func.grad``."""
    op, case = make(), make_case(spec, nodes=3, channels=1, edges=7)

    def energy(*inputs: Tensor) -> Tensor:
        return case.of_leaves(op, *inputs).square().sum()

    leaves = case.leaves()
    direct = torch.autograd.grad(energy(*leaves), leaves, materialize_grads=True)
    functional = torch.func.grad(energy, argnums=tuple(range(len(leaves))))(*(leaf.detach() for leaf in leaves))
    assert_close(functional, direct, atol=TOLERANCE, rtol=TOLERANCE)


def takes_empty_inputs(make: Make, spec: Spec) -> None:
    """Neither nodes nor edges, or nodes without edges: nothing comes out, and derivatives are zero."""
    op = make()
    for nodes in (0, 4) if make_case(spec).has_edges else (0,):
        case = make_case(spec, nodes=nodes, edges=0)
        leaves = case.leaves()
        result = case.of_leaves(op, *leaves)
        assert_close(result, result.new_zeros(nodes, dim(spec.degree_out), spec.num_blocks * 3))
        if result.requires_grad:
            slopes = torch.autograd.grad(result.sum(), leaves, materialize_grads=True)
            assert_close(slopes, tuple(torch.zeros_like(leaf) for leaf in leaves))


def takes_inputs_of_any_layout(make: Make, spec: Spec) -> None:
    """Transposed in memory, or every second row of something larger."""
    op, case = make(), make_case(spec)

    def transposed(x: Tensor) -> Tensor:
        return x.mT.contiguous().mT

    def thinned(x: Tensor) -> Tensor:
        return torch.stack([x, x], dim=1)[:, 0]

    features, weights = [transposed(x) for x in case.features], [transposed(x) for x in case.weights]
    indices = thinned(case.vectors), thinned(case.senders), thinned(case.receivers), thinned(case.group)
    strided = Case(spec, features, weights, *indices)
    assert_close(strided.run(op), case.run(op), atol=TOLERANCE, rtol=0)


LAWS: tuple[Callable[[Make, Spec], None], ...] = (
    equals_the_dense_reference,
    messages_sum_to_the_convolution,
    takes_weights_of_every_node,
    owns_no_parameters,
    is_exact_after_a_cast,
    is_equivariant,
    is_twice_differentiable,
    has_functional_gradients,
    takes_empty_inputs,
    takes_inputs_of_any_layout,
)


def check(backend: str, specs: Sequence[Spec] = SPECS) -> list[Spec]:
    """Check every law of the contract for the algorithms of a backend; random numbers elsewhere are left alone.

    >>> spec = Spec("product", "gaunt", "o3", 1, 1, 1)
    >>> check("gaunt", [spec]) == [spec]
    True

    Args:
        backend: registered by :func:`eqmol.ops.register`, or one of eqmol's.
        specs: what is computed.

    Returns:
        The specs that were computed: those of its families that no constructor refused by an InputError, without those that
        ``cg`` computes for it.

    Raises:
        AssertionError: a law is broken; names it and the spec.
        InputError: the backend is unknown, or computes none of the specs.
    """
    if backend not in ALGORITHMS:
        raise InputError(f"backend {backend!r} is not registered; call eqmol.ops.register({backend!r}, ...) before")
    tried = []
    with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for spec in specs:
            if not can_run(backend, spec.family):
                continue
            own = algorithm(spec, backend)
            if own is algorithm(spec, "cg") and backend != "cg":
                continue
            with suppress(InputError):
                own(spec)
                tried.append(spec)
        for spec in tried:
            for law in LAWS:
                _check(law, algorithm(spec, backend), spec)
    if not tried:
        raise InputError(f"backend {backend!r} computes none of the {len(specs)} specs; give some that it computes")
    return tried


def _check(law: Callable[[Make, Spec], None], own: type[TensorProduct], spec: Spec) -> None:
    try:
        law(lambda: own(spec), spec)
    except Exception as error:
        name = law.__name__.replace("_", " ")
        raise AssertionError(f"{own.__name__} breaks the law that it {name}, for {spec}: {error}") from error
