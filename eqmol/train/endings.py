"""What a finished run says about itself in words: each judgement is one function, which returns a sentence or nothing."""

from collections.abc import Mapping

from eqmol.train.baseline import ROUNDING
from eqmol.units import number


def forgetting(
    judged: Mapping[str, str], before: Mapping[str, float], after: Mapping[str, float], allowed: float
) -> tuple[str, dict[str, float]] | None:
    """Compare errors on old data with those of the model that a run started from.

    Args:
        judged: errors by their names in summaries -> what a person calls the quantity.
        before: errors of the model that was started from.
        after: of the model that was trained.
        allowed: growth that is accepted, relative.

    Returns:
        A sentence; growth by quantity. None where nothing can be compared.
    """
    growth, shown = {}, []
    for key, quantity in judged.items():
        if key in before and key in after:
            growth[quantity] = after[key] / max(before[key], ROUNDING) - 1.0
            change = f"{100 * growth[quantity]:+.0f} %"
            shown.append(f"{quantity} {number(before[key])} -> {number(after[key])} ({change})")
    if not growth:
        return None
    words = f"errors on the old data before and after: {', '.join(shown)}"
    if max(growth.values()) <= allowed:
        return f"{words}; within the {100 * allowed:.0f} % that data.replay.growth allows", growth
    return (
        f"{words}; that is more than the {100 * allowed:.0f} % that data.replay.growth allows: the model forgets. Raise "
        "data.replay.share, leave more as it is (task.freeze), or lower task.optimizer.lr",
        growth,
    )
