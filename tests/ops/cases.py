"""Specs shared by the tests of the contract."""

from eqmol.ops import Spec
from eqmol.ops.registry import candidates


def spec_id(value: object) -> str:
    if isinstance(value, Spec):
        order = f"-order{value.order}" if value.operation == "power" else ""
        order += "" if value.order_max is None else f"-m{value.order_max}"
        order += "" if value.block_paths is None else f"-blocks{value.num_blocks}"
        degrees = f"{value.degree_in}{value.degree_filter}{value.degree_out}"
        return f"{value.operation}-{value.family}-{value.parity}-{degrees}{order}"
    return str(value)


def runnable(specs: list[Spec]) -> list[tuple[Spec, str]]:
    """Every spec with every algorithm that runs it."""
    return [(spec, name) for spec in specs for name in candidates(spec)]


PAIRS = [
    Spec(operation, family, parity, *degrees)
    for operation in ("convolution", "product")
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for degrees in ((1, 1, 1), (2, 3, 2), (1, 3, 3), (3, 2, 4), (0, 3, 2), (2, 0, 3), (3, 2, 0), (2, 4, 0), (0, 1, 0))
]
RESTRICTED = [
    Spec("convolution", "coupled", parity, *degrees, order_max=order_max)
    for parity in ("o3", "so3")
    for *degrees, order_max in ((2, 5, 3, 0), (3, 5, 2, 1), (3, 6, 3, 2))
]
#: Every path has a block of its own, a path has two, a degree of a block has none.
BLOCKS = [
    Spec("convolution", "coupled", "o3", 2, 3, 2).with_separate_paths(),
    Spec("convolution", "coupled", "so3", 1, 2, 0).with_separate_paths(),
    Spec(
        "convolution",
        "coupled",
        "so3",
        1,
        2,
        2,
        block_paths=(((1, 1, 1), (0, 1, 1)), ((0, 0, 0), (1, 1, 1), (1, 2, 1))),
    ),
]
PAIRS += RESTRICTED + BLOCKS
MIXINGS = [
    Spec("mixing", "coupled", parity, degree_in, degree_in + degree_out, degree_out, order_max=order_max)
    for parity in ("o3", "so3")
    for degree_in, degree_out, order_max in ((1, 2, None), (3, 2, 1), (2, 0, None))
]
POWERS = [
    Spec("power", family, parity, degree_in, 0, degree_out, order)
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
    for degree_in, degree_out, order in ((1, 1, 3), (3, 1, 3), (2, 2, 2), (1, 2, 1), (1, 1, 4), (0, 1, 3), (2, 0, 4))
]
