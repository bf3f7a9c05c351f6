"""Parts of a model that training leaves as they are (``task.freeze=[backbone.*]``)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from eqmol.errors import InputError, short

SHOWN = 24  #: names that a message lists


def read_patterns(freeze: Any) -> tuple[str, ...]:
    """Return the patterns of an option: null, one, or a list.

    Raises:
        InputError: it is something else.
    """
    patterns = [] if freeze is None else [freeze] if isinstance(freeze, str) else freeze
    is_list = isinstance(patterns, Sequence) and all(isinstance(pattern, str) and pattern for pattern in patterns)
    if not is_list:
        raise InputError(f"task.freeze={short(freeze)} must be names of parameters, as in [backbone.*]")
    return tuple(patterns)


def freeze(model: nn.Module, patterns: Sequence[str]) -> str | None:
    """Let the parameters that patterns name have no gradients; they stay as they are to the last bit.

    Args:
        model: in which parameters have names like "backbone.layers.0.up.weight".
        patterns: with ``*`` and ``?``; the name of a part means everything in it.

    Returns:
        What is trained and what is not, in a sentence; None where everything is trained.

    Raises:
        InputError: a pattern that matches nothing, or nothing that is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        matched = [name for name in named if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not matched:
            raise InputError(
                f"task.freeze: '{pattern}' matches none of the model's parameters, which are {_parts(named)}; name one of these "
                "parts, or several as in backbone.layers.*"
            )
        for name in matched:
            named[name].requires_grad_(False)
    if not patterns:
        return None
    total = sum(parameter.numel() for parameter in named.values())
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    if not trained:
        raise InputError(f"task.freeze={list(patterns)} leaves nothing to train; name fewer parts")
    number = sum(named[name].numel() for name in trained)
    return f"frozen: {total - number:,} of {total:,} weights; trained are {_parts(trained)}"


def _parts(names: Sequence[str] | dict[str, Any]) -> str:
    """Return the modules that parameters belong to, as a list for a person."""
    parts = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return ", ".join(parts[:SHOWN]) + more
