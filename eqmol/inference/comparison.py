"""Structures of files with the labels that they have, and the errors of predictions, over all files and for each of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from eqmol.data.qm9.reader import is_raw, read_raw
from eqmol.data.qm9.targets import TARGETS
from eqmol.data.xyz.labels import LabelSummary
from eqmol.data.xyz.reader import read_frames, read_target
from eqmol.errors import InputError
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.inference.errors import Entry, Errors, offset_of
from eqmol.inference.molecules import Prediction, column
from eqmol.inference.structures import Frame
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.molecules.table import number
from eqmol.units import shown_unit

POTENTIAL = (ENERGY, FORCES, STRESS)
NAME_THEM = "name the labels by --energy-key, --forces-key, or --key of a property"
#: Files that have rows of their own.
FEW = 8


class Comparison:
    """Compares a model's predictions with labels.

    A label that cannot be used is left out, counted and told.

    Args:
        model: says what is predicted, and under which keys its training set had the labels.
        given: label -> key, in place of those.

    Raises:
        InputError: a key for what the model does not predict.
    """

    def __init__(self, model: Predictor, given: Mapping[str, str]) -> None:
        self.targets = (*(POTENTIAL if isinstance(model, Potential) else ()), *model.targets.values())
        names = [target.name for target in self.targets]
        for label in given:
            if label not in names:
                raise InputError(f"the model does not predict {label!r}; it predicts {', '.join(names)}")
        usual = {target.name: target.name for target in self.targets if not target.is_property}
        self.given = dict(given)
        self.keys = usual | {label: key for label, key in model.label_keys.items() if label in names} | self.given
        self.errors = Errors(self.targets)
        self.by_file: dict[str, Errors] = {}
        self._unusable: dict[str, tuple[int, str]] = {}
        self._summary = LabelSummary()

    def check(self, paths: Sequence[Path], wanted: bool = False) -> None:
        """Find out before the work whether labels that were asked for are there at all.

        Args:
            paths: see :meth:`frames`.
            wanted: whether any label is asked for.

        Raises:
            InputError: a key was given that no frame has, or no label is there.
        """
        missing = set(self.given)
        for _, labels, _ in self.frames(paths) if missing or wanted else ():
            missing -= labels.keys() | self._unusable.keys()
            wanted = wanted and not labels
            if not missing and not wanted:
                break
        self._unusable.clear()
        self._summary = LabelSummary()
        files = ", ".join(map(str, paths))
        if missing:
            label = min(missing)
            raise InputError(
                f"{files}: no frame has {self.given[label]!r}, which was given as the key of {label}; correct it"
            )
        if wanted:
            raise InputError(
                f"{files}: no frame has a label under the keys {', '.join(self.keys.values()) or '(none)'}, so there is nothing "
                f"to compare for --metrics; {NAME_THEM}"
            )

    def frames(self, paths: Sequence[Path]) -> Iterator[Frame]:
        """Yield the structures of files one after the other, with the labels that can be used.

        Args:
            paths: of any format that ASE reads, or raw files of QM9.

        Raises:
            InputError: see :func:`eqmol.data.xyz.reader.read_frames`.
        """
        for path in paths:
            if is_raw(path):
                yield self._raw(path)
                continue
            energy, forces, stress = (self.keys.get(target.name, target.name) for target in POTENTIAL)
            for atoms, labels, source in read_frames(path, energy, forces, stress, self._summary, self._leave_out):
                for target in self.targets:
                    if target.is_property and target.name in self.keys:
                        self._add(labels, atoms, target, source)
                yield atoms, labels, source

    def add(self, frame: Frame, result: Mapping[str, Any]) -> None:
        """Compare one frame."""
        atoms, labels, source = frame
        self._compare(source.rpartition(", frame ")[0] or source, labels, result, len(atoms))

    def add_molecule(self, prediction: Prediction) -> None:
        """Compare the properties of one number that its record or row has."""
        molecule = prediction.molecule
        if molecule is None or not prediction.values:
            return
        labels: dict[str, float] = {}
        result: dict[str, float] = {}
        for target in self.targets:
            key = self.keys.get(target.name, "")
            if key in molecule.tags and column(target) in prediction.values:
                result[target.name] = prediction.values[column(target)]
                try:
                    labels[target.name] = number(molecule.tags[key], key, prediction.source)
                except InputError as error:
                    self._leave_out(target.name, str(error))
        file, _, _ = prediction.source.rpartition(", ")
        self._compare(file, labels, result, molecule.mol.GetNumAtoms())

    def named(self) -> dict[str, Any]:
        """Return all errors by the names of a training run's metrics.json, and of several files those of each."""
        files = {file: errors.summary() for file, errors in self.by_file.items()}
        return {**self.errors.summary(), **({"files": files} if len(files) > 1 else {})}

    def table(self) -> Table | None:
        """Return the errors for a person; None where there are none and nothing was left out."""
        parts = {"": self.errors}
        if 1 < len(self.by_file) <= FEW:
            parts = {**self.by_file, "all": self.errors}
        if not self.errors.entries() and not self._unusable:
            return None
        keys = [key for label, key in self.keys.items() if key != label]
        title = f"errors against the labels of {', '.join(self.by_file)}" if len(self.by_file) <= FEW else "errors"
        table = Table(title=Text(title + (f" ({', '.join(keys)})" if keys else "")))
        for name in (*(["file"] if len(parts) > 1 else []), "quantity", "unit", "values", "MAE", "RMSE"):
            table.add_column(name, justify="right" if name in ("values", "MAE", "RMSE") else "left", overflow="fold")
        for file, errors in parts.items():
            for entry in errors.entries():
                table.add_row(*([file] if len(parts) > 1 else []), *_row(entry))
            table.add_section()
        compared = {entry.target.name for entry in self.errors.entries()}
        for label in self._unusable.keys() - compared:
            table.add_row(*(["all"] if len(parts) > 1 else []), label, "", "0", "", "")
        return table

    def notes(self) -> list[str]:
        """Return what else a person should know: labels that were left out, constant errors, keys that may be meant."""
        notes = []
        for label, (count, reason) in self._unusable.items():
            one = "1 label" if count == 1 else f"{count} labels"
            notes.append(f"{label}: {one} cannot be used and {'is' if count == 1 else 'are'} not compared; {reason}")
        summary = self.errors.summary()
        for target in self.targets:
            if (offset := offset_of(target, summary)) is not None:
                notes.append(offset.words())
        similar = {label: key for (_, label), key in self._summary.similar.items() if label in self.keys}
        if not self.errors.entries() and not self._unusable and similar:
            options = " ".join(f"--{label}-key {key}" for label, key in similar.items())
            notes.append(
                f"nothing is compared, as no frame has {' or '.join(self.keys[label] for label in similar)}; if these are labels, "
                f"give {options}"
            )
        return notes

    def _compare(self, file: str, labels: Mapping[str, Any], result: Mapping[str, Any], natoms: int) -> None:
        for errors in (self.errors, self.by_file.setdefault(file, Errors(self.targets))):
            errors.add(result, labels, natoms)

    def _raw(self, path: Path) -> Frame:
        atoms = read_raw(path)
        known = {target.name for target in self.targets if TARGETS.get(target.name) == target}
        return atoms, {name: value for name, value in atoms.info.items() if name in known}, str(path)

    def _add(self, labels: dict[str, Any], atoms: Any, target: Target, source: str) -> None:
        """Add the label of a property to those of a frame."""
        try:
            value, _ = read_target(atoms, target, self.keys[target.name], source)
        except InputError as error:
            self._leave_out(target.name, str(error))
            return
        if value is not None:
            labels[target.name] = value

    def _leave_out(self, label: str, reason: str) -> None:
        if any(target.name == label for target in self.targets):
            count, first = self._unusable.get(label, (0, reason))
            self._unusable[label] = (count + 1, first)


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    """Quantity, unit, number of values, MAE and RMSE."""
    unit, factor = shown_unit([entry.mae, entry.rmse], entry.unit)
    return entry.name, unit, str(entry.values), f"{factor * entry.mae:.3f}", f"{factor * entry.rmse:.3f}"
