"""Which parameters are matrices: linear maps whose size as a map, not number by number, decides how far a step goes.

A module names its matrices in a class attribute ``matrices``: parameter, or list of parameters -> axis of the inputs. The
last axis holds the outputs, axes besides these two count matrices. Tables, such as one row per element, and factors of
channels are no matrices.
"""

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return all parameters in groups for an optimiser, which may ignore all but "params".

    Each group has "params" and "inputs", the axis of the inputs of its matrices, None for those that are no matrices.
    """
    inputs: dict[nn.Parameter, int] = {}
    for owner in module.modules():
        for name, axis in getattr(owner, "matrices", {}).items():
            entry = getattr(owner, name)
            for parameter in entry if isinstance(entry, nn.ParameterList) else [entry]:
                if parameter is not None:
                    inputs[parameter] = axis % parameter.ndim
    groups: dict[int | None, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        groups.setdefault(inputs.get(parameter), []).append(parameter)
    return [{"params": parameters, "inputs": axis} for axis, parameters in groups.items()]
