"""Predictions for molecules from SMILES and chemists' files, as a table and as an SDF."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from ase.stress import full_3x3_to_voigt_6_stress
from rdkit import Chem
from rich import box
from rich.markup import escape
from rich.table import Table

from eqmol.errors import InputError
from eqmol.files import replacing, to_disk
from eqmol.graph import AtomGraph
from eqmol.graph.contacts import CloseContacts
from eqmol.graph.keys import FEATURES
from eqmol.graph.targets import Target
from eqmol.inference.batches import batches
from eqmol.inference.calculator import Calculator
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential, Properties
from eqmol.models.predictor import Predictor
from eqmol.molecules.features import atom_features
from eqmol.molecules.molecule import UFF, Failure, Molecule
from eqmol.molecules.table import MoleculeTable

#: eV/Å; relaxations stop below it, and fail after so many steps.
FMAX = 0.02
MAX_STEPS = 500
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclass(frozen=True)
class Prediction:
    """What became of one molecule.

    Attributes:
        name, source: as of :class:`eqmol.molecules.molecule.Molecule`.
        molecule: None where it failed.
        values: by name and unit, e.g. "mu (D)".
        problem: why there are no values; "" where there are.
    """

    name: str
    source: str
    molecule: Molecule | None = None
    values: dict[str, float] = field(default_factory=dict)
    problem: str = ""


def screen(
    model: Predictor,
    entries: Iterable[Molecule | Failure],
    batch_size: int = 16,
    relax: Calculator | None = None,
    close_contacts: str = "stop",
) -> Iterator[Prediction]:
    """Predict molecule by molecule; one that fails does not stop the others.

    Args:
        model: a potential, for its energy, or a model of properties; in evaluation mode.
        entries: as :func:`eqmol.molecules.molecule.read_molecules` gives them.
        batch_size: molecules evaluated together.
        relax: relax every molecule with this calculator first.
        close_contacts: see :class:`eqmol.Calculator`.

    Yields:
        One prediction for each entry, in their order.
    """
    contacts = guard_of(model, close_contacts)
    prepared = (_prepare(model, entry, relax, contacts) for entry in entries)
    for failed, group in groupby(prepared, key=lambda pair: pair[1] is None):
        if failed:
            yield from (prediction for prediction, _ in group)
            continue
        for batch in batches(group, batch_size):  # type: ignore[arg-type]
            values = _values(model, [graph for _, graph in batch])
            for (prediction, _), row in zip(batch, values, strict=True):
                yield replace(prediction, values=row)


def _prepare(
    model: Predictor, entry: Molecule | Failure, relax: Calculator | None, contacts: CloseContacts
) -> tuple[Prediction, AtomGraph | None]:
    if isinstance(entry, Failure):
        return Prediction(entry.name, entry.source, problem=entry.reason), None
    try:
        molecule = entry if relax is None else _relaxed(entry, relax)
        graph = graph_of(model, molecule.atoms(), contacts=contacts)
        if isinstance(model, Properties) and model.features:
            graph[FEATURES] = torch.from_numpy(atom_features(molecule.mol, model.features))
    except InputError as error:
        return Prediction(entry.name, entry.source, problem=str(error)), None
    return Prediction(entry.name, entry.source, molecule), graph


def _relaxed(molecule: Molecule, calculator: Calculator) -> Molecule:
    """The molecule in its nearest minimum.

    Raises:
        InputError: it is not reached.
    """
    from ase.optimize import LBFGS

    atoms = molecule.atoms()
    atoms.calc = calculator
    if not LBFGS(atoms, logfile=os.devnull).run(fmax=FMAX, steps=MAX_STEPS):
        raise InputError(f"its relaxation does not reach {FMAX} eV/Å within {MAX_STEPS} steps")
    return molecule.moved(atoms)


def _values(model: Predictor, graphs: list[AtomGraph]) -> list[dict[str, float]]:
    """What the model says of every graph, by name and unit."""
    rows = [(result, _row(model.targets, result)) for result in evaluate_graphs(model, graphs)]
    if isinstance(model, Potential):
        return [{"energy (eV)": result["energy"], **row} for result, row in rows]
    return [row for _, row in rows]


def _row(targets: Mapping[str, Target], result: Mapping[str, Any]) -> dict[str, float]:
    """One number per column; values of atoms have no place in a row."""
    row: dict[str, float] = {}
    for name, target in targets.items():
        unit = column(target).removeprefix(name)
        if target.kind == "tensor":
            parts = full_3x3_to_voigt_6_stress(result[name])
            row |= {f"{name}_{axes}{unit}": float(x) for axes, x in zip(VOIGT, parts, strict=True)}
        elif target.components:
            row |= {f"{name}_{axis}{unit}": float(x) for axis, x in zip("xyz", result[name], strict=True)}
        elif not target.is_atomic:
            row[column(target)] = result[name]
    if "dipole" in result and "dipole" not in targets:
        row |= {f"dipole_{axis} (D)": float(x) for axis, x in zip("xyz", result["dipole"], strict=True)}
    return row


def column(target: Target) -> str:
    """Name of the column of a property of one number."""
    return f"{target.name} ({target.unit})" if target.unit else target.name


def structure_note(predictions: Sequence[Prediction]) -> str:
    """What a person should know about the conformers; "" where all were given or are the usual ones."""
    names = [p.name for p in predictions if p.molecule is not None and p.molecule.structure == UFF]
    if not names:
        return ""
    who = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"{len(names)} of {len(predictions)} conformers are minimised by UFF, as MMFF94s lacks parameters ({who}): relax them "
        "with --relax POTENTIAL, or give an .sdf with better coordinates, where geometry matters"
    )


def write(predictions: Sequence[Prediction], path: Path) -> None:
    """Write the table, one row per molecule, and next to it an SDF of those that did not fail.

    Args:
        predictions: in the order of the rows.
        path: a .csv file; the SDF has the same name with .sdf.
    """
    names = _names(predictions)
    with replacing(path) as table, replacing(path.with_suffix(".sdf")) as sdf:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["name", "smiles", *names, "structure", "problem", "source"])
        for prediction in predictions:
            molecule = prediction.molecule
            smiles = "" if molecule is None else molecule.smiles
            structure = "" if molecule is None else molecule.structure
            cells = _cells(prediction, names)
            rows.writerow([prediction.name, smiles, *cells, structure, prediction.problem, prediction.source])
            sdf.write(_record(prediction))
        to_disk(table, sdf)


def write_into(given: Sequence[MoleculeTable], predictions: Sequence[Prediction], path: Path) -> None:
    """Write tables of molecules as one, with a column for each value and one for problems, and an SDF as :func:`write` does.

    Args:
        given: of the same columns. Their cells and the order of these are kept, and what separates them in the first; columns
            that would have the name of another one are called ``eqmol NAME``. Of several tables a column says where rows are from.
        predictions: one for each row.
        path: a .csv or .tsv file.
    """
    names, header, delimiter = _names(predictions), given[0].header, given[0].delimiter
    columns = list(header)
    for name in [*names, "problem", *(["source"] if len(given) > 1 else [])]:
        while name in columns:
            name = f"eqmol {name}"
        columns.append(name)
    with replacing(path) as table, replacing(path.with_suffix(".sdf")) as sdf:
        rows = csv.writer(table, delimiter=delimiter, lineterminator="\n")
        rows.writerow(columns)
        for row, prediction in zip((row for each in given for row in each.rows), predictions, strict=True):
            kept, surplus = list(row[: len(header)]), row[len(header) :]
            kept[-1] = delimiter.join((kept[-1], *surplus))  # one cell, so that no column is shifted
            blank = [""] * (len(header) - len(row))
            further = [*_cells(prediction, names), prediction.problem, prediction.source]
            rows.writerow([*kept, *blank, *further[: len(columns) - len(header)]])
            sdf.write(_record(prediction))
        to_disk(table, sdf)


def _names(predictions: Sequence[Prediction]) -> list[str]:
    """Names of all values."""
    return list(dict.fromkeys(name for prediction in predictions for name in prediction.values))


def _cells(prediction: Prediction, names: Sequence[str]) -> list[str]:
    """Values as a table has them."""
    return [f"{prediction.values[name]:.10g}" if name in prediction.values else "" for name in names]


def _record(prediction: Prediction) -> str:
    """One entry of the SDF, with the values as its data; "" where there are none."""
    if prediction.molecule is None or not prediction.values:
        return ""
    mol = Chem.Mol(prediction.molecule.mol)
    mol.SetProp("_Name", prediction.name)
    for name, value in prediction.values.items():
        mol.SetProp(name, f"{value:.10g}")
    buffer = io.StringIO()
    with Chem.SDWriter(buffer) as writer:
        writer.write(mol)
    return buffer.getvalue()


def table(predictions: Sequence[Prediction], limit: int = 20) -> Table:
    """The first molecules and their values for a person: one row each, or for a single molecule one row per value."""
    shown = [prediction for prediction in predictions if prediction.values][:limit]
    names = _names(shown)
    if len(shown) == 1:
        table = Table("value", escape(shown[0].name), box=box.SIMPLE_HEAD)
        table.columns[1].justify = "right"
        for name in names:
            table.add_row(name, f"{shown[0].values[name]:.4f}")
        return table
    names = [name for name in names if not name.startswith("dipole_")]
    table = Table("molecule", *(name.replace(" (", "\n(") for name in names), box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for prediction in shown:
        table.add_row(escape(prediction.name), *(f"{prediction.values[name]:.4f}" for name in names))
    return table
