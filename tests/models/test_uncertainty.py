"""The std of predictions is that of a Gaussian posterior of the last weights."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.graph.edges import edge_vectors
from eqmol.models import Potential
from eqmol.models.uncertainty import (
    ATOMS,
    MEANS,
    RIDGE,
    STRUCTURES,
    Covariance,
    Factors,
    Posterior,
    force_variances,
    sums_of,
)
from tests.models.systems import graph_of, make_model, structures

UNKNOWN = Factors(None, None, None, 0.0, 0, 0)
MODELS = [
    ("mace", "coupled", "cg", "conservative"),
    ("mace", "gaunt", "grid", "conservative"),
    ("equiformer", "coupled", "cg", "conservative"),
    ("equiformer", "gaunt", "grid", "direct"),
]


def last_weights(model: Potential) -> list[Tensor]:
    *linear, nonlinear = model.readouts
    return [*(readout.weight for readout in linear), nonlinear.last.weight]


def unit_models(model: Potential) -> Iterator[Potential]:
    """The model with one last weight 1 and the others 0, one after the other; energies and forces of nothing else."""
    for number in range(model.num_last):
        unit = copy.deepcopy(model)
        unit.repulsion = unit.binding = None
        flat = torch.zeros(model.num_last)
        flat[number] = 1.0
        for weight, values in zip(last_weights(unit), flat.split([w.numel() for w in last_weights(unit)]), strict=True):
            weight.data.copy_(values)
        yield unit


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("variant", "family", "backend", "forces"), MODELS)
def test_energies_are_linear_in_the_last_weights(variant: str, family: str, backend: str, forces: str) -> None:
    model = make_model(backend, family, variant=variant, forces=forces, zbl=forces == "conservative")
    batch = collate([graph_of(structures()[name]) for name in ("molecule", "slab")])
    plain, result = model(batch), model(batch, last_layer=True)
    assert result["last_layer"].shape == (len(batch.pos), model.num_last)
    assert torch.equal(plain["energies"], result["energies"])
    weights = torch.cat(last_weights(model)).detach()
    constants = model.reference.e0[model.species(batch)]
    if model.repulsion is not None:
        lengths = edge_vectors(batch).norm(dim=1)
        constants = constants + model.repulsion(lengths, model.species(batch), *batch.edge_index)
    assert (result["last_layer"] @ weights + constants - result["energies"]).abs().max() < 1e-10


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("variant", "family", "backend"), [model[:3] for model in MODELS[1:3]])
def test_exact_is_the_closed_form_of_a_linear_model(variant: str, family: str, backend: str) -> None:
    """Forces are linear in the last weights: their covariance is J R Rᵀ Jᵀ, where columns of J are forces of unit weights."""
    model = make_model(backend, family, variant=variant, zbl=True)
    batch = collate([graph_of(structures()[name]) for name in ("triclinic", "molecule")])
    units = [unit(batch) for unit in unit_models(model)]
    root = torch.randn(model.num_last, model.num_last)
    slopes = torch.stack([unit["forces"] for unit in units], -1) @ root
    assert (force_variances(model, batch, root) - slopes.square().sum(-1)).abs().max() < 1e-10 * slopes.abs().max() ** 2
    free = model.reference.e0[model.species(batch)]
    energies = torch.stack([unit["energies"] - free for unit in units], -1)
    species, means = model.species(batch), torch.randn(len(model.elements), model.num_last)
    posterior = Posterior(root, root, means, Factors(1.0, 1.0, 1.0, 1.0, 1, 1))
    last_layer = model(batch, last_layer=True)["last_layer"]
    wanted = (energies @ root).square().sum(-1).sqrt()
    assert (posterior.spreads(last_layer) - wanted).abs().max() < 1e-10 * wanted.max()
    for atom, kind in enumerate(species.tolist()):
        far = ((last_layer[atom] - means[kind]) @ root).norm()
        assert (posterior.distances(last_layer, species)[atom] - far).abs() < 1e-10 * far


@pytest.mark.usefixtures("float64")
def test_roots_are_of_the_ridged_inverse_and_give_the_training_set_unit_spread() -> None:
    batch = collate([graph_of(atoms) for atoms in structures().values()])
    elements, species = batch.atomic_numbers.unique(return_inverse=True)
    number, values = 5, torch.randn(len(batch.pos), 5) + species[:, None]
    covariance = Covariance(number, len(elements) + 1)  # of one there is no atom
    covariance.add(values, batch, species)
    found = covariance.posterior(UNKNOWN)
    means = torch.stack([values[species == kind].mean(0) for kind in range(len(elements))])
    assert (found.means - torch.cat([means, torch.zeros(1, number)])).abs().max() < 1e-12
    for rows, root in ((sums_of(values, batch), found.of_structures), (values - means[species], found.of_atoms)):
        matrix = rows.mT @ rows / len(rows)
        ridged = matrix + RIDGE * matrix.trace() / number * torch.eye(number)
        assert (root @ root.mT @ ridged * number - torch.eye(number)).abs().max() < 1e-8
        rank = torch.linalg.matrix_rank(matrix)
        assert (rows @ root).square().sum(-1).mean() == pytest.approx(int(rank) / number, rel=1e-4)


@pytest.mark.usefixtures("float64")
def test_another_order_of_batches_gives_the_same_covariance() -> None:
    graphs = [graph_of(atoms) for atoms in structures().values()]
    values = [torch.randn(len(graph.pos), 3) for graph in graphs]
    one, several = Covariance(3, 100), Covariance(3, 100)
    one.add(torch.cat(values), collate(graphs), torch.cat([graph.atomic_numbers for graph in graphs]))
    for part, graph in list(zip(values, graphs, strict=True))[::-1]:
        several.add(part, graph, graph.atomic_numbers)
    a, b = one.posterior(UNKNOWN), several.posterior(UNKNOWN)
    assert (a.means - b.means).abs().max() < 1e-12
    for root, other in ((a.of_structures, b.of_structures), (a.of_atoms, b.of_atoms)):
        assert (root @ root.mT - other @ other.mT).abs().max() < 1e-9 * (root @ root.mT).abs().max()


def give(model: Potential) -> None:
    root = torch.eye(model.num_last, dtype=torch.float64)
    means = torch.full((len(model.elements), model.num_last), 0.5, dtype=torch.float64)
    Posterior(root, root, means, Factors(0.1, 0.2, None, 3.0, 10, 5)).write(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, aux: s.pop("exact"), "must have energy, forces, exact"),
        (lambda s, aux: s.update(forces=-1.0), "uncertainty.forces=-1.0"),
        (lambda s, aux: s.update(energy="much"), "uncertainty.energy='much'"),
        (lambda s, aux: s.update(farthest=None), "uncertainty.farthest=None"),
        (lambda s, aux: s.update(structures=1.5), "uncertainty.structures=1.5"),
        (lambda s, aux: aux.pop(ATOMS), "aux.uncertainty.atoms' is missing"),
        (lambda s, aux: aux.update({MEANS: torch.zeros(1, 20).double()}), r"means' is torch.float64 \[1, 20\], not"),
        (lambda s, aux: aux.update({STRUCTURES: torch.eye(3)}), r"float32 \[3, 3\], not torch.float64"),
        (lambda s, aux: aux.update({STRUCTURES: torch.eye(3).double()}), r"\[3, 3\], not torch.float64 \[20, 20\]"),
    ],
)
def test_a_section_that_does_not_fit(change: Callable[[dict, dict], None], message: str) -> None:
    model = make_model()
    assert Posterior.read(model) is None
    give(model)
    found = Posterior.read(model)
    assert found is not None
    assert found.factors == Factors(0.1, 0.2, None, 3.0, 10, 5)
    change(model.sections["uncertainty"], model.aux)
    with pytest.raises(InputError, match=message):
        Posterior.read(model)


def test_energies_of_free_atoms_are_certain_but_their_environments_are_far() -> None:
    model = make_model()
    give(model)
    posterior = Posterior.read(model)
    assert posterior is not None
    graph = graph_of(Atoms("CH", [[0, 0, 0], [0, 0, 10]]))
    last_layer = model(graph, last_layer=True)["last_layer"]
    assert np.allclose(posterior.spreads(last_layer), 0)
    assert np.allclose(posterior.distances(last_layer, model.species(graph)), 0.5 * model.num_last**0.5)


def test_files_without_means_measure_from_zero() -> None:
    model = make_model()
    give(model)
    del model.aux[MEANS]
    posterior = Posterior.read(model)
    assert posterior is not None
    last_layer = torch.randn(3, model.num_last, dtype=torch.float64)
    assert torch.equal(posterior.distances(last_layer, torch.arange(3)), last_layer.norm(dim=1))
