"""Laws of physics that hold for every structure, whatever the labels were."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from eqmol.trust.limits import DIRECT, LIMITS
from eqmol.trust.report import Line, judge
from eqmol.trust.subject import Evaluate, Subject

#: Å and strain; steps of the five-point stencil, whose error is of fourth order.
STEP = 1e-3
#: Å; how near to the cutoff an atom is on both sides.
NEAR = 1e-9
#: Å; how far apart two systems are besides the cutoff.
APART = 2.0


def laws(subject: Subject, structures: Sequence[ase.Atoms]) -> Iterator[Line]:
    """Check all laws on a few small structures."""
    yield from symmetries(subject, structures)
    if subject.potential is not None:
        if subject.native is not subject.potential:
            yield _precision(subject, structures)
        yield _sum(subject, structures)
        yield _isolated(subject)
        yield _cutoff(subject, structures)
    yield _forces(subject, structures)
    if DIRECT not in subject.kinds:
        yield from _stress(subject, structures)
    yield _stretch(subject, structures)
    yield _batches(subject, structures)
    yield from _extensivity(subject, structures)


def symmetries(subject: Subject, structures: Sequence[ase.Atoms]) -> Iterator[Line]:
    """Rotation, mirror, translation and permutation."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    images: dict[str, Callable[[ase.Atoms], tuple[ase.Atoms, Callable[[NDArray[np.float64]], Any]]]] = {
        "rotation": lambda atoms: (moved(atoms, turn), lambda forces: forces @ turn),
        "mirror": lambda atoms: (moved(atoms, -np.eye(3)), lambda forces: -forces),
        "translation": lambda atoms: (_shifted(atoms, [1.7, -0.6, 0.9]), lambda forces: forces),
        "permutation": lambda atoms: (atoms[::-1], lambda forces: forces[::-1]),
    }
    for name, image in images.items():
        yield judge(f"{name}, float64", _image_error(subject.exact, structures, image), subject.kinds)
    yield judge("rotation, as used", _image_error(subject.used, structures, images["rotation"]), subject.kinds)


def moved(atoms: ase.Atoms, matrix: NDArray[np.float64]) -> ase.Atoms:
    """The structure in which every position and lattice vector v is v @ matrix."""
    image = atoms.copy()
    image.set_cell(atoms.cell.array @ matrix)
    image.positions = atoms.positions @ matrix
    return image


def _shifted(atoms: ase.Atoms, by: Sequence[float]) -> ase.Atoms:
    image = atoms.copy()
    image.positions += by
    return image


def _image_error(evaluate: Evaluate, structures: Sequence[ase.Atoms], image: Any) -> float:
    """The largest difference between structures and their images."""
    errors = []
    for atoms in structures:
        other, back = image(atoms)
        (own,), (imaged,) = evaluate([atoms]), evaluate([other])
        errors.append(difference(own | {"forces": back(own["forces"])}, imaged))
    return max(errors)


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Energies per atom and forces apart, over the largest force where that exceeds 1 eV/Å."""
    forces = np.abs(one["forces"] - other["forces"]).max()
    energy = abs(one["energy"] - other["energy"]) / len(one["forces"])
    return float(max(energy, forces) / max(1.0, np.abs(one["forces"]).max()))


def _precision(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    errors = [difference(subject.exact([atoms])[0], subject.used([atoms])[0]) for atoms in structures]
    return judge("precision", max(errors), subject.kinds)


def _sum(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    """Total energies beside the sum of atomic energies in float64."""
    errors = []
    for atoms in structures:
        for evaluate in (subject.exact, subject.used):
            (result,) = evaluate([atoms])
            errors.append(abs(result["energy"] - float(np.sum(result["energies"]))) / len(atoms))
    return judge("sum of energies", max(errors), subject.kinds)


def _isolated(subject: Subject) -> Line:
    """Atoms alone beside the energies of elements."""
    potential = subject.potential
    assert potential is not None
    stated = potential.element_values("energy").tolist()
    found = [subject.energy(ase.Atoms([number])) for number in potential.elements]
    errors = [abs(one - other) for one, other in zip(found, stated, strict=True)]
    symbol = ase.data.chemical_symbols[potential.elements[int(np.argmax(errors))]]
    return judge("isolated atoms", max(errors), subject.kinds, f"largest for {symbol}")


def slope(function: Callable[[float], float]) -> float:
    """Derivative at zero by the five-point stencil."""
    return (8 * (function(STEP) - function(-STEP)) - (function(2 * STEP) - function(-2 * STEP))) / (12 * STEP)


def _forces(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    """Forces beside the slope of the energy in a random direction of all atoms."""
    rng, errors = np.random.default_rng(1), []
    for atoms in structures:
        direction = rng.normal(size=atoms.positions.shape)
        direction /= np.linalg.norm(direction)

        def energy(step: float, atoms: ase.Atoms = atoms, direction: NDArray[np.float64] = direction) -> float:
            return subject.energy(_displaced(atoms, step * direction))

        forces = subject.exact([atoms])[0]["forces"]
        errors.append(abs(slope(energy) + float((forces * direction).sum())) / max(1.0, np.abs(forces).max()))
    return judge("forces", max(errors), subject.kinds)


def _displaced(atoms: ase.Atoms, by: NDArray[np.float64]) -> ase.Atoms:
    image = atoms.copy()
    image.positions = image.positions + by
    return image


def _stress(subject: Subject, structures: Sequence[ase.Atoms]) -> Iterator[Line]:
    """Stress times volume beside the slope of the energy under a random strain."""
    rng, errors = np.random.default_rng(2), []
    for atoms in structures:
        (result,) = subject.exact([atoms])
        if "stress" not in result:
            continue
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / np.linalg.norm(strain + strain.T)

        def energy(step: float, atoms: ase.Atoms = atoms, strain: NDArray[np.float64] = strain) -> float:
            return subject.energy(moved(atoms, np.eye(3) + step * strain))

        virial = atoms.get_volume() * result["stress"]
        errors.append(abs(slope(energy) - float((virial * strain).sum())) / max(1.0, np.abs(virial).max()))
    if errors:
        yield judge("stress", max(errors), subject.kinds)


def _cutoff(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    """An atom of each element that crosses the cutoff of the outermost atom of a molecule."""
    potential = subject.potential
    assert potential is not None
    errors = {}
    molecule = min(structures, key=lambda atoms: len(atoms) + 1000 * bool(atoms.pbc.any())).copy()
    molecule.pbc = False
    out = molecule.positions - molecule.positions.mean(axis=0)
    outermost = int(np.linalg.norm(out, axis=1).argmax())
    direction = out[outermost] / max(float(np.linalg.norm(out[outermost])), 1e-9)
    for number in potential.elements:
        ends = []
        for side in (-NEAR, NEAR):
            place = molecule.positions[outermost] + (potential.cutoff + side) * direction
            ends.append(subject.exact([molecule + ase.Atoms([number], [place])])[0])
        forces = float(np.abs(ends[0]["forces"] - ends[1]["forces"]).max())
        errors[number] = max(abs(ends[0]["energy"] - ends[1]["energy"]), forces)
    worst = max(errors, key=lambda number: errors[number])
    words = f"largest for {ase.data.chemical_symbols[worst]}"
    return judge("smooth at the cutoff", errors[worst], subject.kinds, words)


def _stretch(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    """One atom is pulled out of a molecule beyond the cutoff: energies beside the work of its forces (Simpson's rule)."""
    molecule = min(structures, key=lambda atoms: len(atoms) + 1000 * bool(atoms.pbc.any())).copy()
    molecule.pbc = False
    out = molecule.positions - molecule.positions.mean(axis=0)
    outermost = int(np.linalg.norm(out, axis=1).argmax())
    direction = out[outermost] / max(float(np.linalg.norm(out[outermost])), 1e-9)
    reach = 6.0 if subject.potential is None else subject.potential.cutoff
    moving = (np.arange(len(molecule)) == outermost)[:, None] * direction
    error = np.inf
    for intervals in (100, 200, 400):  # as many as a steep energy needs
        steps = np.linspace(0.0, reach, 2 * intervals + 1)
        # alone, as what batches do is another check
        results = [subject.exact([_displaced(molecule, step * moving)])[0] for step in steps]
        energies = np.array([result["energy"] for result in results])
        force = np.array([float(result["forces"][outermost] @ direction) for result in results])
        width = steps[1] - steps[0]
        work = np.concatenate([[0.0], np.cumsum(width / 3 * (force[:-2:2] + 4 * force[1::2] + force[2::2]))])
        error = float(np.abs(energies[::2] - energies[0] + work).max())
        if error <= LIMITS["stretch"][""].passes:
            break
    return judge("stretch", error, subject.kinds)


def _batches(subject: Subject, structures: Sequence[ase.Atoms]) -> Line:
    """Structures together and each alone."""
    together = subject.exact(structures)
    alone = [subject.exact([atoms])[0] for atoms in structures]
    errors = [difference(one, other) for one, other in zip(alone, together, strict=True)]
    return judge("batches", max(errors), subject.kinds)


def _extensivity(subject: Subject, structures: Sequence[ase.Atoms]) -> Iterator[Line]:
    """Two copies far apart, and a crystal in a larger cell."""
    far = (10.0 if subject.potential is None else subject.potential.cutoff) + APART
    twice, larger = [], []
    for atoms in structures:
        if not atoms.pbc.any():
            image = _shifted(atoms, [float(np.ptp(atoms.positions[:, 0])) + far, 0.0, 0.0])
            twice.append(abs(subject.energy(atoms + image) - 2 * subject.energy(atoms)) / len(atoms))
        else:
            axis = int(atoms.pbc.argmax())
            repeats = [2 if i == axis else 1 for i in range(3)]
            larger.append(abs(subject.energy(atoms.repeat(repeats)) - 2 * subject.energy(atoms)) / len(atoms))
    if twice:
        yield judge("extensivity", max(twice), subject.kinds)
    if larger:
        yield judge("supercell", max(larger), subject.kinds)
