"""Weights of e3nn's products that mix channels (mode uvw, with the harmonics of an edge) as those of a mixing, and back."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.interop.paths import coupling_sign
from eqmol.ops.spec import Spec

if TYPE_CHECKING:
    from e3nn import o3


class UVWWeights:
    """The mixing that computes what a product of mode uvw with harmonics does, and its weights.

    >>> from e3nn import o3
    >>> irreps = "8x0e + 8x1o + 8x2e"
    >>> weights = UVWWeights(o3.FullyConnectedTensorProduct(irreps, "0e + 1o + 2e + 3o + 4e", irreps))
    >>> weights.spec == Spec("mixing", "coupled", "o3", 2, 4, 2)
    True

    Features of the mixing are [edges, lm, channels]; :class:`eqmol.interop.Layout` turns e3nn's into them.

    Args:
        product: with all paths between one block of every degree 0 ... L of the features, the harmonics of one channel up to the
            sum of the degrees, and one block of every degree of the result; one number of channels in, one out. With parities
            (-1)^l those are the paths of parity ``o3``, with all blocks even (0e, 1e, ...) those of ``so3``.

    Attributes:
        spec: of the mixing.

    Raises:
        InputError: other blocks, modes or paths.
    """

    def __init__(self, product: "o3.TensorProduct") -> None:
        first, second, out = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.channels = first[0].mul, out[0].mul
        even = all(ir.p == 1 for irreps in (first, second, out) for _, ir in irreps)
        for irreps, mul in ((first, self.channels[0]), (second, 1), (out, self.channels[1])):
            if [(m, ir.l, ir.p) for m, ir in irreps] != [
                (mul, l, 1 if even else (-1) ** l) for l in range(len(irreps))
            ]:
                raise InputError(
                    f"irreps {str(irreps)!r} are no features of a mixing, which have one block of equally many channels for every "
                    f"degree 0, 1, 2, ..., of parities (-1)^l or all even"
                )
        degrees = len(first) - 1, len(second) - 1, len(out) - 1
        self.spec = Spec("mixing", "coupled", "so3" if even and degrees != (0, 0, 0) else "o3", *degrees)
        paths = {(i.i_in1, i.i_in2, i.i_out): i for i in product.instructions}
        if set(paths) != set(self.spec.pair_paths) or len(paths) < len(product.instructions):
            raise InputError(
                f"this product has {len(product.instructions)} paths, not the {self.spec.num_paths} of {self.spec}"
            )
        if any(i.connection_mode != "uvw" or not i.has_weight for i in product.instructions):
            raise InputError(
                "this product has paths of another mode than uvw, or without a weight; a mixing has weights for all"
            )
        #: rows of the product's weights in the order of the spec's paths
        self.order = [list(paths).index(path) for path in self.spec.pair_paths]
        constants = [paths[path].path_weight * coupling_sign(*path) for path in self.spec.pair_paths]
        self.to_paths = (self.spec.paths * self.spec.path_normalization / np.array(constants)).T

    def from_e3nn(self, weight: Tensor) -> Tensor:
        """Weights [weight_numel] of the product -> [W, C, C'] of the mixing."""
        paths = weight.reshape(-1, *self.channels)[self.order]
        return torch.einsum("sp,puw->suw", torch.tensor(np.linalg.inv(self.to_paths)).to(weight), paths)

    def to_e3nn(self, weight: Tensor) -> Tensor:
        """Weights [W, C, C'] of the mixing -> [weight_numel] of the product."""
        paths = torch.einsum("ps,suw->puw", torch.tensor(self.to_paths).to(weight), weight)
        return paths[np.argsort(self.order).tolist()].flatten()
