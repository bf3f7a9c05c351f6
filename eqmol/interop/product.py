"""``e3nn.o3.TensorProduct`` of modes uvu and uuu, with the same numbers, weights and arguments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.interop.blocks import components, pack
from eqmol.interop.grouped import Grouped, as_made, make_product
from eqmol.interop.irreps import check_features
from eqmol.ops.contract import RadialWeight
from eqmol.ops.edges import sum_messages

if TYPE_CHECKING:
    from e3nn import o3
    from e3nn.o3 import Irreps


class TensorProduct(Grouped):
    """In the place of ``e3nn.o3.TensorProduct``: Clebsch-Gordan products of flat features along given paths.

    Order of paths and weights, normalisations and initialisation are e3nn's; any parities, repeated and unsorted irreps are
    allowed. Nothing but inputs is kept for derivatives, of which there may be any number. A state of e3nn's module loads as it is.

    Args:
        irreps_in1, irreps_in2, irreps_out: of the factors and of the result.
        instructions: (in1, in2, out, mode, has a weight[, path weight]) with mode uvu (every channel of the first factor meets
            all of the second, with a weight each) or uuu (channel meets channel).
        in1_var, in2_var, out_var: variance per block, 1 by default.
        irrep_normalization: ``component`` (default), ``norm`` or ``none``.
        path_normalization: ``element`` (default), ``path`` or ``none``.
        internal_weights: whether ``weight`` [weight_numel] is a parameter; by default when weights are shared.
        shared_weights: whether all rows have the same weights, the default.

    Raises:
        InputError: another mode, or instructions and options that do not fit the irreps.

    Source: Geiger and Smidt 2022, arXiv:2207.09453 (e3nn).
    """

    weight: Tensor
    output_mask: Tensor

    def __init__(
        self,
        irreps_in1: "str | Irreps",
        irreps_in2: "str | Irreps",
        irreps_out: "str | Irreps",
        instructions: Sequence[Any],
        in1_var: Sequence[float] | None = None,
        in2_var: Sequence[float] | None = None,
        out_var: Sequence[float] | None = None,
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
        internal_weights: bool | None = None,
        shared_weights: bool | None = None,
    ) -> None:
        product = make_product(
            irreps_in1,
            irreps_in2,
            irreps_out,
            instructions,
            in1_var=in1_var,
            in2_var=in2_var,
            out_var=out_var,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            internal_weights=internal_weights,
            shared_weights=shared_weights,
        )
        super().__init__(product)
        self.internal_weights: bool = product.internal_weights
        self.shared_weights: bool = product.shared_weights
        if isinstance(product.weight, nn.Parameter):
            self.weight = product.weight
        else:
            self.register_buffer("weight", product.weight)
        self.register_buffer("output_mask", product.output_mask)

    @classmethod
    def from_e3nn(cls, product: "o3.TensorProduct") -> Self:
        """The same product, of the same dtype and device; an internal weight is the same parameter.

        Raises:
            InputError: it has other modes than uvu and uuu.
        """
        options = {"internal_weights": product.internal_weights, "shared_weights": product.shared_weights}
        made = cls(**as_made(product), **options).to(product.weight.device, product.weight.dtype)
        if product.internal_weights:
            made.weight = product.weight
        return made.train(product.training)

    def to_e3nn(self) -> "o3.TensorProduct":
        """The same product by e3nn; an internal weight is the same parameter."""
        from e3nn import o3

        options = {"internal_weights": self.internal_weights, "shared_weights": self.shared_weights}
        made = o3.TensorProduct(**as_made(self), **options).to(self.weight.device, self.weight.dtype)
        if self.internal_weights:
            made.weight = self.weight
        return made.train(self.training)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """The product of two features.

        Args:
            x: [..., irreps_in1.dim].
            y: [..., irreps_in2.dim]; leading dimensions are broadcast.
            weight: [weight_numel], or [..., weight_numel] unless weights are shared; may be left out where they are internal.

        Returns:
            [..., irreps_out.dim].

        Raises:
            InputError: shapes that do not fit, or no weight.
        """
        check_features(x, self.irreps_in1, "features of the first factor")
        check_features(y, self.irreps_in2, "features of the second factor")
        weight = self._check_weight(weight)
        leading = [x.shape[:-1], y.shape[:-1], *([] if weight.dim() == 1 else [weight.shape[:-1]])]
        shape = torch.broadcast_shapes(*leading)
        x, y = (t.expand(*shape, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (x, y))
        rows = len(x)
        own: RadialWeight | Tensor
        if weight.dim() == 1:
            own = RadialWeight(x.new_ones(rows, 1), weight.unsqueeze(0))
        else:
            own = weight.expand(*shape, self.weight_numel).reshape(rows, self.weight_numel)
        results = []
        for g, group in enumerate(self.groups):
            first = pack(x, group.first, group.channels)
            second = pack(y, group.second, group.channels) if group.has_channels else y
            weights = self.weights_of(g, own)
            results.append(sum_messages(self.message(g), components(group.out), first, [second], weights))
        return self.assemble(results, rows, x).unflatten(0, shape)

    def _check_weight(self, weight: Tensor | None) -> Tensor:
        given = self.weight if weight is None and (self.internal_weights or not self.weight_numel) else weight
        if given is None:
            raise InputError(f"this product has no weights of its own; give {self.weight_numel} to every call")
        if given.shape[-1:] != (self.weight_numel,) or (
            weight is not None and self.shared_weights and given.dim() != 1
        ):
            wanted = f"[{'' if self.shared_weights else '..., '}{self.weight_numel}]"
            raise InputError(f"weights have shape {tuple(given.shape)}, but this product needs {wanted}")
        return given

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # e3nn's module keeps its 3j symbols beside the weights
        for name in [name for name in state_dict if name.startswith(f"{prefix}_compiled_main_")]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *others)


def replace_products(network: nn.Module) -> list[str]:
    """Put :class:`TensorProduct` in the place of every ``e3nn.o3.TensorProduct`` of modes uvu and uuu, with its weights.

    Subclasses, such as fully connected products, and other modes stay.

    Args:
        network: changed in place; parameters stay the same objects, so that an optimizer need not be made anew.

    Returns:
        Names of the replaced modules.
    """
    from e3nn import o3

    replaced = []
    for name, module in list(network.named_modules()):
        for child_name, child in list(module.named_children()):
            # a subclass may mean something else
            if type(child) is o3.TensorProduct and {i.connection_mode for i in child.instructions} <= {"uvu", "uuu"}:
                setattr(module, child_name, TensorProduct.from_e3nn(child))
                replaced.append(f"{name}.{child_name}".lstrip("."))
    return replaced
