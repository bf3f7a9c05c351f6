"""What is wrong with energies by themselves: none that vary, energies per atom, and constants between groups."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from eqmol.data.checks.finding import Finding, Sets, about
from eqmol.data.checks.structures import formula
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES

#: eV per atom; frames of one composition that are apart by more, with nothing between, are of different levels of theory. Heat
#: of 2000 K separates a molecule's energies by 0.26 eV per atom, isomers are closer.
APART = 0.3
#: Times the standard deviation on both sides.
CLEAR = 6.0
#: eV per atom, and eV/Å: a single frame is off by more, and its forces are not.
OFF, CALM = 1.0, 30.0
#: Frames that tell whether anything varies, and whether energies are per atom.
ENOUGH = 5


def energies(sets: Sets) -> list[Finding]:
    """Findings about energies."""
    found = []
    everything: dict[str, list[tuple[str, AtomGraph]]] = defaultdict(list)
    for name, graphs in sets.items():
        labelled = [graph for graph in graphs if ENERGY in graph and bool(graph.energy.isfinite().all())]
        for graph in labelled:
            everything[formula(graph)].append((name, graph))
        values = np.array([float(graph.energy) for graph in labelled])
        if len(labelled) >= ENOUGH and np.ptp(values) == 0:
            words = f"all {len(labelled)} energies of '{name}' are {values[0]:g}; is it another key that holds them?"
            found.append(about("energies", words, labelled))
        elif _per_atom(labelled):
            words = f"the energies of '{name}' do not grow with the structures, as energies per atom do; give total energies"
            found.append(about("energies", words, labelled))
    for composition, frames in everything.items():
        found += _offset(composition, frames)
    return found


def _per_atom(graphs: Sequence[AtomGraph]) -> bool:
    """Whether energies are sums over the composition only when they are multiplied by the number of atoms."""
    sizes = np.array([graph.num_nodes for graph in graphs], np.float64)
    if len(graphs) < ENOUGH or sizes.max() < 1.5 * sizes.min():
        return False
    kinds = np.unique(np.concatenate([graph.atomic_numbers.numpy() for graph in graphs]))
    counts = np.array([[(graph.atomic_numbers.numpy() == z).sum() for z in kinds] for graph in graphs], np.float64)
    given = np.array([float(graph.energy) for graph in graphs])
    if len(np.unique(counts, axis=0)) <= len(kinds) + 1:
        return False  # which any numbers fit
    left = [np.std(value - counts @ np.linalg.lstsq(counts, value)[0]) for value in (given, given * sizes)]
    return bool(left[1] < 0.1 * left[0] * sizes.mean())


def _offset(composition: str, frames: Sequence[tuple[str, AtomGraph]]) -> list[Finding]:
    """Findings about frames of one composition that fall into two groups of energies."""
    if len(frames) < ENOUGH:
        return []
    number = frames[0][1].num_nodes
    values = np.array([float(graph.energy) for _, graph in frames]) / number
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    cut = int(np.diff(ordered).argmax()) + 1
    gap = ordered[cut] - ordered[cut - 1]
    parts = (order[:cut], order[cut:])
    spread = max(float(values[part].std()) for part in parts)
    if gap < max(APART, CLEAR * spread):
        return []
    small = min(parts, key=len)
    offset = float(np.median(values[parts[1]]) - np.median(values[parts[0]])) * number
    chosen = [frames[index][1] for index in small]
    sides = " and ".join(_groups([frames[index] for index in part]) for part in parts)
    if len(small) == 1:
        calm = FORCES not in chosen[0] or not float(chosen[0].forces.abs().max()) > CALM
        words = (
            f"the energy of {chosen[0].source} is {abs(offset):.4g} eV {'above' if small is parts[1] else 'below'} those of the "
            f"{len(frames) - 1} other frames of {composition}; correct or remove it"
        )
        return [about("outlier", words, chosen, bool(calm and gap > OFF))]
    words = (
        f"the energies of {len(frames)} frames of {composition} fall into two groups that are {offset:.6g} eV apart ({sides}): do "
        "they come from different levels of theory, or has one another zero? give all the same"
    )
    return [about("offset", words, chosen)]


def _groups(frames: Sequence[tuple[str, AtomGraph]]) -> str:
    """The set, config type and first frame of a group."""
    counts: dict[str, int] = defaultdict(int)
    for name, graph in frames:
        counts[f"'{name}'" + (f" {graph.config_type}" if graph.config_type else "")] += 1
    shown = ", ".join(f"{number} of {where}" for where, number in counts.items())
    return f"{shown}, as {frames[0][1].source}"
