"""Convolutions of e3nn's features: gathering, harmonics of edges, product and sum at receivers in one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.interop.blocks import components, pack
from eqmol.interop.grouped import Grouped, as_made, make_product
from eqmol.interop.irreps import Layout, check_features, read_irreps
from eqmol.interop.paths import Group
from eqmol.ops.contract import RadialWeight
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.escn import inward_rotations
from eqmol.ops.registry import convolution
from eqmol.ops.so2 import Block, EdgeFrame
from eqmol.ops.spec import MAX_DEGREE, Parity, Spec
from eqmol.so3.directions import harmonics_of
from eqmol.so3.frames import polar_coupling
from eqmol.so3.layout import degrees

if TYPE_CHECKING:
    from e3nn import o3
    from e3nn.o3 import Irreps

Normalization = Literal["component", "norm", "integral"]


class Convolution(Grouped):
    """In the place of ``e3nn.o3.TensorProduct`` between a gather and a scatter, as in NequIP: the same numbers from edge vectors.

        result[r] = Σ over edges e into r of  TensorProduct(x[sender of e], Y(vector of e), weight[e])

    Nothing that has edges and channels is kept, but for the weights that are given.

    Args:
        irreps_in: of the features; any parities, multiplicities and order.
        degree_filter: highest degree of the harmonics.
        irreps_out: of the result.
        instructions: as for :class:`eqmol.interop.TensorProduct`, mode uvu, the second place being the degree of the harmonics;
            by default all paths between blocks of equal multiplicity. :func:`eqmol.interop.uvu_paths` makes those of NequIP.
        backend: ``cg`` contracts 3j symbols, ``escn`` works in the frame of the edge; the numbers are the same.
        p: parity of vectors, as in ``Irreps.spherical_harmonics``.
        normalization: of the harmonics, e3nn's ``component`` (default), ``norm`` or ``integral``.
        irrep_normalization, path_normalization: as for :class:`eqmol.interop.TensorProduct`.

    Raises:
        InputError: another mode or backend, a block of the result that no path reaches, or what does not fit the irreps.

    Sources: Geiger and Smidt 2022, arXiv:2207.09453 (e3nn); Batzner et al. 2022, arXiv:2101.03164 (NequIP); Passaro and Zitnick
    2023, arXiv:2302.03655 (edge frame).
    """

    scale: Tensor

    def __init__(
        self,
        irreps_in: "str | Irreps",
        degree_filter: int,
        irreps_out: "str | Irreps",
        instructions: Sequence[Any] | None = None,
        *,
        backend: str = "cg",
        p: int = -1,
        normalization: Normalization = "component",
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
    ) -> None:
        if backend not in ("cg", "escn"):
            raise InputError(
                f"backend={backend!r} does not compute products with a weight per path; choose cg or escn, or take "
                f"eqmol.interop.GauntConvolution in a new model"
            )
        if normalization not in ("component", "norm", "integral"):
            raise InputError(
                f"normalization={normalization!r} of harmonics is unknown; choose component, norm or integral"
            )
        if type(degree_filter) is not int or not 0 <= degree_filter <= MAX_DEGREE:
            raise InputError(f"degree_filter={degree_filter!r} must be an integer from 0 to {MAX_DEGREE}")
        irreps_in, irreps_out = read_irreps(irreps_in), read_irreps(irreps_out)
        harmonics = read_irreps([(1, (l, p**l)) for l in range(degree_filter + 1)])
        if instructions is None:
            instructions = _all_paths(irreps_in, harmonics, irreps_out)
        product = make_product(
            irreps_in,
            harmonics,
            irreps_out,
            instructions,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            internal_weights=False,
            shared_weights=False,
        )
        super().__init__(product)
        if any(group.has_channels for group in self.groups):
            raise InputError("instructions of mode uuu need channels in both factors, but harmonics have none; use uvu")
        self.backend, self.degree_filter, self.normalization = backend, degree_filter, normalization
        scale = _harmonics_scale(degree_filter, normalization)
        self.add_table("scale", scale[degrees(degree_filter)])
        if backend == "escn":
            self._frames = [_Frame(group, scale) for group in self.groups]
            for g, frame in enumerate(self._frames):
                self.add_table(f"rows{g}", frame.rows)
                self.add_table(f"entries{g}", frame.columns)
                self.add_table(f"values{g}", frame.values[:, None])

    @classmethod
    def from_e3nn(
        cls, product: "o3.TensorProduct", backend: str = "cg", normalization: Normalization = "component"
    ) -> Self:
        """The convolution that gathers, applies ``product`` to harmonics of the given normalisation, and sums.

        Weights are given to every call, in the same order; so is the ``weight`` of a product that has one.

        Raises:
            InputError: the second factor is not 0e + 1p + 2e + ..., or a mode is another than uvu.
        """
        irreps = product.irreps_in2
        p = irreps[1].ir.p if len(irreps) > 1 else -1
        if [(mul, ir.l, ir.p) for mul, ir in irreps] != [(1, l, p**l) for l in range(len(irreps))]:
            raise InputError(
                f"the second factor of this product is {str(irreps)!r}, not harmonics of degrees 0, 1, 2, ... of one channel; "
                f"use eqmol.interop.TensorProduct"
            )
        made = as_made(product)
        irreps_in, irreps_out, instructions = made["irreps_in1"], made["irreps_out"], made["instructions"]
        options = {name: made[name] for name in ("irrep_normalization", "path_normalization")}
        built = cls(
            irreps_in,
            len(irreps) - 1,
            irreps_out,
            instructions,
            backend=backend,
            p=p,
            normalization=normalization,
            **options,
        )
        return built.to(product.weight.device, product.weight.dtype)

    def geometry(self, vectors: Tensor) -> Tensor:
        """What the convolution needs of edge vectors [E, 3] of any non-zero length.

        With ``cg`` these are the harmonics [E, (degree_filter + 1)²] as e3nn has them, of the chosen normalisation; with ``escn``
        rotations up to the highest degree of features and result. Lower degrees come first: layers of one backend and
        normalisation may share the geometry of the one with the highest degrees.
        """
        if self.backend == "cg":
            return harmonics_of(vectors, self.degree_filter) * self.scale
        degree = max((frame.frame.order for frame in self._frames), default=0)
        return inward_rotations(vectors, degree, degree)

    def forward(
        self,
        x: Tensor,
        geometry: Tensor,
        weight: RadialWeight | Tensor,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        """Sum of messages at every receiver.

        Args:
            x: node features [N, irreps_in.dim].
            geometry: what :meth:`geometry` of this or a shared layer returned.
            weight: [E, weight_numel], [weight_numel] for all edges, or the last layer of a radial network not yet applied:
                hidden [E, H] and matrix [H, weight_numel], whose product then is never kept.
            senders, receivers: [E] node indices in any order.
            num_receivers: number of rows of the result.

        Returns:
            [num_receivers, irreps_out.dim].

        Raises:
            InputError: shapes that do not fit.
        """
        check_features(x, self.irreps_in1, "node features")
        own = self._check_weight(weight, len(senders))
        nodes = Nodes(senders, receivers, num_receivers)
        results = []
        for g, group in enumerate(self.groups):
            features = pack(x, group.first, group.channels)
            rows, weights = components(group.out), self.weights_of(g, own)
            if self.backend == "cg":
                harmonics = geometry[:, : self.irreps_in2.dim]
                results.append(sum_messages(self.message(g), rows, features, [harmonics], weights, nodes))
            else:
                frame = self._frames[g].frame
                rotations = [geometry[:, : frame.rotation_size(d)] for d in (frame.degrees_in, frame.degrees_out)]
                weights = self._in_frame(g, weights)
                results.append(sum_messages(frame, rows, features, rotations, weights, nodes))
        return self.assemble(results, num_receivers, x)

    def _check_weight(self, weight: RadialWeight | Tensor, edges: int) -> RadialWeight | Tensor:
        wide = weight.matrix if isinstance(weight, RadialWeight) else weight
        rows = edges if wide is weight and wide.dim() == 2 else len(wide)
        if wide.shape[-1:] != (self.weight_numel,) or wide.dim() > 2 or (wide.dim() == 2 and len(wide) != rows):
            raise InputError(
                f"weights have shape {tuple(wide.shape)}, but this convolution of {edges} edges needs [{edges}, "
                f"{self.weight_numel}], or [{self.weight_numel}] for all edges"
            )
        if isinstance(weight, Tensor) and weight.dim() == 1:
            return RadialWeight(weight.new_ones(edges, 1), weight.unsqueeze(0))
        return weight

    def _in_frame(self, g: int, weight: RadialWeight | Tensor) -> RadialWeight | Tensor:
        """Weights of paths as those of orders in the frame, of edges or of the radial network."""
        if isinstance(weight, RadialWeight):
            inside = self._in_frame(g, weight.matrix)
            assert isinstance(inside, Tensor)
            return RadialWeight(weight.hidden, inside)
        rows, columns, values = (self.get_buffer(f"{name}{g}") for name in ("rows", "entries", "values"))
        found = weight.index_select(1, rows) * values
        size = self._frames[g].size
        if len(columns) == size:  # every order of a block has one path
            return found
        return found.new_zeros(len(found), size, found.shape[2]).index_add(1, columns, found)


class _Frame:
    """A group in the frame of the edge: a block of weights per pair of features and result.

    Attributes:
        frame: the blocks.
        size: S, weights in the frame.
        rows, columns, values: of the sparse matrix from path weights to weights in the frame, in the order of its columns.
    """

    def __init__(self, group: Group, scale: np.ndarray) -> None:
        pairs: dict[tuple[int, int], list[int]] = {}
        for p, path in enumerate(group.paths):
            pairs.setdefault((path.first, path.out), []).append(p)
        blocks: list[Block] = []
        entries: list[tuple[int, int, float]] = []
        self.size = 0
        for (first, out), paths in pairs.items():
            k = min(group.first[first].degree, group.out[out].degree)
            found = [False, False]
            for odd in (0, 1):
                own = [p for p in paths if sum(group.degrees(group.paths[p])) % 2 == odd]
                # the sine weight of m = 0 is zero
                if not own or odd > k:
                    continue
                found[odd] = True
                for p in own:
                    l1, l2, l3 = group.degrees(group.paths[p])
                    polar = polar_coupling(l1, l2, l3)[odd:] * group.paths[p].constant * scale[l2]
                    row = group.paths[p].weight
                    entries += [(self.size + m, row, float(value)) for m, value in enumerate(polar)]
                self.size += k + 1 - odd
            blocks.append(Block(first, out, k, *found))
        entries.sort()
        self.columns, self.rows = (np.array([e[i] for e in entries], dtype=np.int64) for i in (0, 1))
        self.values = np.array([value for _, _, value in entries])
        degrees_in, degrees_out = ([slot.degree for slot in slots] for slots in (group.first, group.out))
        # all orders, so that rotations do not depend on the layer
        self.frame = EdgeFrame(degrees_in, degrees_out, max(degrees_in + degrees_out), tuple(blocks))


def _harmonics_scale(degree: int, normalization: Normalization) -> np.ndarray:
    """e3nn's harmonics of every degree relative to component-normalised ones."""
    l = np.arange(degree + 1)
    if normalization == "norm":
        return (2 * l + 1) ** -0.5
    return np.full(degree + 1, 1.0 if normalization == "component" else (4 * np.pi) ** -0.5)


def _all_paths(irreps_in: "Irreps", harmonics: "Irreps", irreps_out: "Irreps") -> list[Any]:
    """All paths between blocks of equal multiplicity, in e3nn's order."""
    paths = [
        (i, j, k, "uvu", True)
        for i, (mul, ir1) in enumerate(irreps_in)
        for j, (_, ir2) in enumerate(harmonics)
        for k, (mul_out, ir) in enumerate(irreps_out)
        if ir in ir1 * ir2 and mul == mul_out
    ]
    reached = {path[2] for path in paths}
    for k, block in enumerate(irreps_out):
        if k not in reached and block.dim:
            raise InputError(
                f"no path leads from {str(irreps_in)!r} and harmonics of degree {harmonics.lmax} to {block} of the result: a path "
                f"needs as many channels in the features, and degrees and parities that couple"
            )
    return paths


class GauntConvolution(nn.Module):
    """For new models: a convolution of the gaunt family, a weight per degree of the filter, between e3nn's features.

    It is the product of functions on the sphere, a smaller space of functions than one weight per path, computed in O(L³).

    Args:
        irreps_in: of natural parity, as many channels of every degree from 0 to the highest.
        degree_filter: highest degree of the harmonics.
        irreps_out: likewise, with as many channels.
        backend: ``grid`` (default), ``gaunt``, ``escn``, ``cg`` or a registered one; the numbers are the same.
        parity: ``o3``, or ``so3`` with the curl pairing, for rotations only.

    Attributes:
        weight_numel: number of weights per edge.

    Raises:
        InputError: other parities, uneven channels, or an unknown backend.

    Source: Luo et al. 2024, arXiv:2401.10216.
    """

    def __init__(
        self,
        irreps_in: "str | Irreps",
        degree_filter: int,
        irreps_out: "str | Irreps",
        *,
        backend: str = "grid",
        parity: Parity = "o3",
    ) -> None:
        super().__init__()
        self.layout_in, self.layout_out = Layout(irreps_in), Layout(irreps_out)
        if not (self.layout_in.is_uniform and self.layout_out.is_uniform) or (
            self.layout_in.channels != self.layout_out.channels
        ):
            raise InputError(
                f"{str(self.layout_in.irreps)!r} and {str(self.layout_out.irreps)!r} do not have one number of channels in every "
                f"degree from 0 on, which the gaunt family needs; take irreps like '32x0e+32x1o+32x2e', or Convolution"
            )
        degrees = self.layout_in.degree, degree_filter, self.layout_out.degree
        self.op = convolution(Spec("convolution", "gaunt", parity, *degrees), backend)

    @property
    def weight_numel(self) -> int:
        return self.op.spec.num_weights * self.layout_in.channels

    def geometry(self, vectors: Tensor) -> Any:
        """What the convolution needs of edge vectors [E, 3] of any non-zero length."""
        return self.op.geometry(vectors)

    def forward(
        self, x: Tensor, geometry: Any, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        """Sum of messages at every receiver.

        Args:
            x: node features [N, irreps_in.dim].
            geometry: what :meth:`geometry` returned.
            weight: the last layer of the radial network not yet applied: hidden [E, H] and matrix [H, weight_numel].
            senders, receivers: [E] node indices.
            num_receivers: number of rows of the result.

        Returns:
            [num_receivers, irreps_out.dim].

        Raises:
            InputError: shapes that do not fit.
        """
        if weight.matrix.shape[-1:] != (self.weight_numel,):
            raise InputError(
                f"the matrix of the weights has shape {tuple(weight.matrix.shape)}; give [H, {self.weight_numel}]"
            )
        own = RadialWeight(weight.hidden, weight.matrix.unflatten(-1, (self.op.spec.num_weights, -1)))
        dense = self.op(self.layout_in.unflatten(x), geometry, own, senders, receivers, num_receivers)
        return self.layout_out.flatten(dense)
