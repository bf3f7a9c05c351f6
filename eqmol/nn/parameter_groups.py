"""Which parameters are matrices: linear maps whose size as a map, not number by number, decides how far a step goes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn


class WithMatrices(nn.Module):
    """A module that names those of its parameters that are matrices.

    Tables, such as one row per element, and factors of channels are no matrices.

    Attributes:
        matrices: parameter, or list of parameters -> axis of the inputs. The last axis holds the outputs, axes besides these two
            count matrices.
    """

    matrices: ClassVar[Mapping[str, int]]


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters that are trained in groups for an optimiser, which may ignore all but "params".

    Each group has "params" and "inputs", the axis of the inputs of its matrices, None for those that are no matrices.
    """
    inputs: dict[nn.Parameter, int] = {}
    for owner in module.modules():
        if isinstance(owner, WithMatrices):
            for name, parameter in owner.named_parameters():
                axis = owner.matrices.get(name.partition(".")[0])  # those of a list are "layers.0", ...
                if axis is not None:
                    inputs[parameter] = axis % parameter.ndim
    groups: dict[int | None, list[nn.Parameter]] = {}
    for parameter in filter(lambda each: each.requires_grad, module.parameters()):
        groups.setdefault(inputs.get(parameter), []).append(parameter)
    return [{"params": parameters, "inputs": axis} for axis, parameters in groups.items()]
