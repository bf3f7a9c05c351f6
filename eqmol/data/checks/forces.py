"""What is wrong with forces by themselves: their balance, zeros, and sizes that no bond has."""

from collections.abc import Callable, Sequence

import numpy as np

from eqmol.data.checks.finding import Finding, Sets, about, share
from eqmol.graph import AtomGraph
from eqmol.graph.keys import FORCES

#: eV/Å; components beyond it are of trial steps of an optimiser or of a calculation that failed, if they are rare.
HUGE, RARE = 50.0, 0.02
#: eV/Å; forces below are those of a relaxed structure, whose balance is noise.
RELAXED = 0.05
#: |Σ F| over what forces of the same sizes in random directions have. Grids of DFT leave up to some percent.
UNBALANCED = 0.2
#: |Σ r × F| over the same.
TURNING = 0.2
#: Part of the frames of a set in which forces are unbalanced.
OFTEN = 0.05


def forces(sets: Sets) -> list[Finding]:
    """Findings about forces."""
    found = []
    for name, graphs in sets.items():
        labelled = [graph for graph in graphs if FORCES in graph and bool(graph.forces.isfinite().all())]
        if not labelled:
            continue
        if not any(bool(graph.forces.any()) for graph in labelled):
            if any(graph.num_nodes > 1 for graph in labelled):
                words = f"all forces of '{name}' are zero; the file has no forces, or they are under another key"
                found.append(about("forces", words, labelled))
            continue
        found += _huge(name, labelled)
        zeroed = [graph for graph in labelled if _is_zeroed(graph)]
        if zeroed:
            where = share(len(zeroed), len(labelled), name)
            words = (
                f"in {where} some atoms have forces of exactly zero, and the others do not balance: "
                "constraints have zeroed them; write the forces without constraints (ase: apply_constraint=False)"
            )
            found.append(about("constraints", words, zeroed))
        whole = [graph for graph in labelled if not _is_zeroed(graph)]
        found += _unbalanced(name, whole, net, UNBALANCED, "net force", "do not add up to zero", "was a part left out?")
        words = "turn the molecule as a whole"
        found += _unbalanced(
            name, whole, torque, TURNING, "torque", words, "are positions and forces in the same frame of axes?"
        )
    return found


def _huge(name: str, graphs: Sequence[AtomGraph]) -> list[Finding]:
    largest = np.array([float(graph.forces.abs().max()) for graph in graphs])
    beyond = [graph for graph, force in zip(graphs, largest, strict=True) if force > HUGE]
    if not beyond:
        return []
    rare = len(beyond) <= max(1, RARE * len(graphs))
    worst = graphs[int(largest.argmax())].source
    where = share(len(beyond), len(graphs), name)
    words = f"forces have components beyond {HUGE:g} eV/Å in {where} (up to {largest.max():.3g} in {worst})"
    advice = (
        "remove them if these calculations failed"
        if rare
        else "look whether structures so far from equilibrium are meant"
    )
    return [about("huge forces", f"{words}; {advice}", beyond, rare)]


def _unbalanced(
    name: str,
    graphs: Sequence[AtomGraph],
    measure: Callable[[AtomGraph], float],
    most: float,
    check: str,
    words: str,
    question: str,
) -> list[Finding]:
    values = np.array([measure(graph) for graph in graphs])
    wrong = [graph for graph, value in zip(graphs, values, strict=True) if value > most]
    if not wrong:
        return []
    sentence = (
        f"the forces {words} in {share(len(wrong), len(graphs), name)}: in {graphs[int(values.argmax())].source} to "
        f"{100 * values.max():.0f} % of what random directions would give; {question}"
    )
    return [about(check, sentence, wrong, len(wrong) > OFTEN * len(graphs))]


def _is_zeroed(graph: AtomGraph) -> bool:
    """Whether some atoms have no forces at all where the forces of the others do not balance."""
    still = (graph.forces == 0).all(dim=1)
    return bool(still.any()) and not bool(still.all()) and net(graph) > UNBALANCED


def net(graph: AtomGraph) -> float:
    """|Σ F| over sqrt(Σ |F|²); 0 for relaxed structures."""
    sizes = float(graph.forces.square().sum().sqrt())
    if graph.num_nodes < 2 or float(graph.forces.abs().max()) < RELAXED:
        return 0.0
    return float(graph.forces.sum(dim=0).norm()) / sizes


def torque(graph: AtomGraph) -> float:
    """|Σ r × F| over sqrt(Σ |r|² |F|²), r from the centre; 0 for periodic and for relaxed structures."""
    if graph.num_nodes < 2 or bool(graph.pbc.any()) or float(graph.forces.abs().max()) < RELAXED:
        return 0.0
    force = graph.forces.numpy()
    place = graph.pos.numpy() - graph.pos.numpy().mean(axis=0)
    size = np.sqrt((np.square(place).sum(axis=1) * np.square(force).sum(axis=1)).sum())
    return float(np.linalg.norm(np.cross(place, force).sum(axis=0)) / size) if size > 0 else 0.0
