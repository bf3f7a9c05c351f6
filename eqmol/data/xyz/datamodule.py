"""Your own files (``data=xyz``), of any kind that ASE reads."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import RenderableType
from rich.table import Table

from eqmol.data import checks
from eqmol.data.atomic_energies import free_atoms, is_isolated, known_energies
from eqmol.data.datamodule import SPLITS, GraphSets
from eqmol.data.options import by_name, check_choices, check_fractions, check_names
from eqmol.data.replay import REPLAY, Replay
from eqmol.data.statistics import elements_of, measure
from eqmol.data.targets import (
    learns_energies,
    measure_targets,
    own_targets,
    target_tables,
    target_values,
)
from eqmol.data.xyz.labels import LabelSummary, complete, has, missing_label, without
from eqmol.data.xyz.reader import read_frames, read_target
from eqmol.data.xyz.stress import Convention, check
from eqmol.errors import MODES, InputError
from eqmol.files import expand_paths, named_files
from eqmol.graph import AtomGraph, from_atoms
from eqmol.graph.dispersion import Dispersion
from eqmol.graph.electronic import ElectronicState, TrainingStates
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS
from eqmol.graph.targets import MOLECULAR, not_molecular

TRAIN_FILE, ISOLATED_ATOMS_FILE, REPLAY_FILE = "data.train_file", "data.isolated_atoms_file", "data.replay.file"
#: Part of the training frames that validates where neither it nor a file is given.
VAL_FRACTION = 0.1
#: Validation frames below which a run says that they are few.
ENOUGH = 3
#: One file, a pattern, or several of both.
Files = str | Path | Sequence[str | Path]


class FileSets(GraphSets):
    """All sets of one run from files, with neighbour lists computed once and kept in memory.

    Args:
        train_file: any file that ASE reads, or several, see :func:`eqmol.files.expand_paths`. Isolated atoms in it give atomic
            energies and are not trained on.
        val_file: one or several with validation frames; or
        val_fraction: this part of the training frames, drawn by ``seed``; None for ``VAL_FRACTION`` unless there is a val_file.
        test_files: name -> one or several files.
        isolated_atoms_file: one or several with isolated atoms, if not in the training file.
        energy_key: name of the total energy in the files, eV.
        forces_key: name of the forces, eV/Å.
        stress_key: name of the stress.
        stress_unit: its unit and sign, or those of the virial, see :meth:`eqmol.data.xyz.stress.Convention.read`; None for eV/Å³
            with ASE's sign, or for -σV in eV.
        virial_key: name of a virial, to take the stress from instead.
        targets: properties of one's own, by name: ``{kind: tensor, unit: a0³, key: alpha}``, see
            :mod:`eqmol.graph.targets`; ``key``, the name in the files, is the target's own if not given. All are learnt beside
            energies or forces, else those that are ``required``; frames may lack them.
        replay: old structures that are trained on again, see :class:`eqmol.data.replay.Replay`.
        dispersion: D3 that labels are lessened by, and that predictions of the model add, see
            :meth:`eqmol.graph.dispersion.Dispersion.choose`.
        electronic_state: ``stop`` refuses structures of different charge or spin, see :mod:`eqmol.graph.electronic`; ``warn``
            counts them.
        options: see :class:`GraphSets`. Each of ``required`` must be in some training frame, stress in one that is periodic
            in three directions; frames with none of them are left out.

    Raises:
        InputError: options that contradict one another.
    """

    train_graphs: list[AtomGraph]
    val_graphs: list[AtomGraph]
    test_graphs: dict[str, list[AtomGraph]]

    def __init__(
        self,
        *,
        train_file: Files,
        val_file: Files | None = None,
        val_fraction: float | None = None,
        test_files: Mapping[str, Files] | None = None,
        isolated_atoms_file: Files | None = None,
        energy_key: str = "energy",
        forces_key: str = "forces",
        stress_key: str = "stress",
        stress_unit: str | None = None,
        virial_key: str | None = None,
        targets: Mapping[str, Any] | None = None,
        replay: Mapping[str, Any] | None = None,
        dispersion: str | Mapping[str, Any] | None = None,
        electronic_state: str = "stop",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.targets, self.target_keys = own_targets({} if targets is None else targets, self.required)
        self.folder = Path()
        self.replay = Replay.read(replay)
        self.dispersion = Dispersion.choose(dispersion)
        self.train_file = train_file
        self.val_file = val_file
        self.val_fraction = val_fraction
        self.test_files = by_name("test_files", test_files, "{300K: a.xyz, 600K: [b.xyz, c.xyz]}")
        self.isolated_atoms_file = isolated_atoms_file
        check_names(energy_key=energy_key, forces_key=forces_key)
        self.convention = Convention.read(stress_key, stress_unit, virial_key)
        self.keys = {ENERGY: energy_key, FORCES: forces_key, STRESS: self.convention.key}
        self._check_options()
        self._labels = LabelSummary()
        self._unlabelled: list[str] = []
        self._doubts: list[str] = []
        check_choices(MODES, electronic_state=electronic_state)
        self._states = TrainingStates(electronic_state)

    def setup(self, stage: str | None = None) -> None:
        """Read every file, once.

        Raises:
            InputError: see :mod:`eqmol.data.xyz.reader`; also a required label that is missing, an element that only
                validation or test frames have, or atomic energies that do not fit.
        """
        if self._statistics is not None:
            return
        for option, given in self.files().items():  # before the first is read
            for path in expand_paths(given, option, self.folder):
                if not path.exists():
                    raise InputError(f"{option}: {path} does not exist")
        frames = self.gather(self.train_file, TRAIN_FILE)
        train = [graph for graph in frames if not is_isolated(graph)]
        isolated = [graph for graph in frames if is_isolated(graph)] + self._read_isolated_atoms()
        self.train_graphs, self.val_graphs = self._split(train)
        self.test_graphs = self.read_tests()
        self._add_old()
        self._check_labels()
        self._check_elements()
        known = known_energies(self.e0, free_atoms(isolated), elements_of(self.train_graphs))
        trained = ENERGY in self.required
        self._statistics = measure(self.train_graphs, known, self.implausible if trained else "warn")
        self._properties = measure_targets(self.targets, self.train_graphs, self._statistics.elements)

    def statistics(self) -> dict[str, Any]:
        """Return those of all sets and, with targets of one's own, "properties", see :mod:`eqmol.data.targets`."""
        return super().statistics() | ({"properties": self._properties} if self.targets else {})

    def electronic_state(self) -> ElectronicState:
        """Return charge and spin of all structures, as the files state them."""
        return self._states.state()

    def label_keys(self) -> dict[str, str]:
        """Return label -> its key, of the labels that training frames have, and of the targets."""
        names = (self.keys | {STRESS: self.convention.name}) if self._learns_energies else {}
        found = {label: name for label, name in names.items() if any(has(graph, label) for graph in self.train_graphs)}
        return found | {target.name: self.target_keys[target.name] for target in self.targets}

    @property
    def _learns_energies(self) -> bool:
        """Whether energies or their derivatives are trained on."""
        return learns_energies(self.required, self.target_keys)

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: sets, labels and where they were found, atomic energies."""
        sets = Table("set", "frames", "atoms", "neighbours per atom", title="data")
        for name, graphs in self._sets().items():
            atoms = sum(graph.num_nodes for graph in graphs)
            edges = sum(graph.edge_index.shape[1] for graph in graphs)
            sets.add_row(name, str(len(graphs)), str(atoms), f"{edges / atoms:.2f}")
        statistics = self._measured()
        less = [] if self.dispersion is None else [f"labels are less {self.dispersion.words()}, which predictions add"]
        notes = [
            *less,
            *self._labels.notes(self.keys),
            *self._gaps(),
            *self._doubts,
            *self._states.notes(),
            *(finding.words for finding in checks.check(self._sets()) if finding.culprit),
        ]
        shown: list[RenderableType] = [sets]
        if self._learns_energies:
            labels = [self._labels.table()] if self._labels.total else []  # a reader of one's own counts none
            shown += [*labels, statistics.table(), statistics.notes()]
        if self.targets:
            values = {target.name: target_values(target, self.train_graphs) for target in self.targets}
            shown += target_tables(self.targets, values, self._properties, statistics.elements)
        return [*shown, *notes]

    def read(self, file: Path) -> list[AtomGraph]:
        """Return the graphs of one file, each with the labels that it has, and NaN for targets that it lacks."""
        graphs: list[AtomGraph] = []
        keys = (self.keys[ENERGY], self.keys[FORCES], self.convention)
        summary = None if str(file) in self._labels.total else self._labels  # a file may be in two sets
        for atoms, labels, source in read_frames(file, *keys, summary):
            if not atoms.pbc.all():
                labels.pop(STRESS, None)  # defined for three periodic directions only
            if self.dispersion is not None:
                labels = without(self.dispersion, atoms, labels)
            graph = from_atoms(atoms, self.cutoff, **labels, source=source)
            self._add_targets(graph, atoms, source)
            self._states.add(atoms, source, is_isolated(graph))
            graphs.append(graph)
        return graphs

    def gather(self, given: Files, option: str) -> list[AtomGraph]:
        """Return the graphs of some files; all get the same labels, NaN where one has none.

        Frames without any label that is needed are left out, and noted.

        Args:
            given: one or several, relative to the folder of the data set.
            option: that names them.

        Raises:
            InputError: see :func:`expand_paths` and :meth:`read`; also a file without any label that is needed, or a stress that
                is not what it is said to be.
        """
        gathered: list[AtomGraph] = []
        files: dict[str, list[AtomGraph]] = {}
        for path in expand_paths(given, option, self.folder):
            graphs = self.read(path)
            needed = [self._is_needed(graph) for graph in graphs]
            if not any(needed):
                raise self._missing(self.required[0], [path], graphs[0].source if graphs else str(path))
            files[str(path)] = list(itertools.compress(graphs, needed))
            gathered += files[str(path)]
            self._unlabelled += [graph.source for graph, is_needed in zip(graphs, needed, strict=True) if not is_needed]
        if self._learns_energies:
            self._doubts += check(files, self.convention, self.implausible)
        complete(gathered)
        return gathered

    def _is_needed(self, graph: AtomGraph) -> bool:
        """Return whether a frame has a label that is learnt; the forces on an isolated atom are known."""
        if is_isolated(graph):
            if FORCES not in graph:
                graph.forces = torch.zeros(1, 3, dtype=torch.float64)  # by symmetry
            return has(graph, ENERGY) or ENERGY not in self.required
        own = {target.name: target.field for target in self.targets}
        return any(has(graph, own.get(name, name)) for name in (*self.required, *own))

    def _missing(self, name: str, files: Sequence[Path], source: str) -> InputError:
        """Return the error for files without a label or target, given the source of a frame of the one that should have it."""
        available = next((self._labels.keys[str(file)] for file in files if str(file) in self._labels.keys), [])
        if name in LABELS:
            option = self.convention.option if name == STRESS else ""
            return missing_label(name, self.keys[name], available, source, option.removeprefix("stress_key"))
        where = f"{source}: no frame of this file" if source else "no training frame"
        return InputError(
            f"{where} has '{self.target_keys[name]}'; set the key in data.targets to one of those there "
            f"({', '.join(available) or 'none'})"
        )

    def _add_targets(self, graph: AtomGraph, atoms: ase.Atoms, source: str) -> None:
        """Add the properties of a frame to its graph, NaN where it has none."""
        for target in self.targets:
            value, _ = read_target(atoms, target, self.target_keys[target.name], source)
            if value is not None and target.kind in MOLECULAR and atoms.pbc.any():
                raise not_molecular(target, source)
            shape = ((len(atoms),) if target.is_atomic else (1,)) + target.components
            if value is None:
                graph[target.field] = torch.full(shape, torch.nan, dtype=torch.float64)
            else:
                graph[target.field] = torch.from_numpy(value.reshape(shape))

    def read_tests(self) -> dict[str, list[AtomGraph]]:
        """Return the test sets."""
        return {name: self.gather(files, f"data.test_files.{name}") for name, files in self.test_files.items()}

    def _add_old(self) -> None:
        """Read old structures: some judge, the others join the training set."""
        if self.replay is None:
            return
        old = [graph for graph in self.gather(self.replay.file, REPLAY_FILE) if not is_isolated(graph)]
        if not old:
            raise InputError(f"{REPLAY_FILE}={self.replay.file} has no structures besides isolated atoms")
        self.test_graphs[REPLAY], kept, number = self.replay.divide(old, len(self.train_graphs), self.seed)
        self.train_graphs = self.train_graphs + kept
        self.drawn = (len(kept), number)
        complete(self.train_graphs)

    def _read_isolated_atoms(self) -> list[AtomGraph]:
        """Read the files of isolated atoms."""
        if self.isolated_atoms_file is None:
            return []
        graphs = self.gather(self.isolated_atoms_file, ISOLATED_ATOMS_FILE)
        for graph in graphs:
            if not is_isolated(graph):
                raise InputError(f"{graph.source}: {graph.num_nodes} atoms where an isolated atom should be")
        return graphs

    def files(self) -> dict[str, Files]:
        """Return what each option names, relative to :attr:`folder`."""
        given = {
            TRAIN_FILE: self.train_file,
            "data.val_file": self.val_file,
            ISOLATED_ATOMS_FILE: self.isolated_atoms_file,
            REPLAY_FILE: None if self.replay is None else self.replay.file,
        }
        tests = {f"data.test_files.{name}": files for name, files in self.test_files.items()}
        return {option: files for option, files in given.items() if files is not None} | tests

    def _check_options(self) -> None:
        """Refuse options of a wrong kind and options that contradict one another."""
        if self.train_file is None:
            raise InputError("data.train_file=null names no file; give one with training structures")
        for option, given in self.files().items():
            named_files(given, option)
        if self.val_fraction is not None:
            check_fractions(val_fraction=self.val_fraction)
            if self.val_file is not None:
                raise InputError(
                    f"data.val_file={self.val_file} and data.val_fraction={self.val_fraction} contradict each other; give one "
                    "of them"
                )
        for name in {*SPLITS, *([] if self.replay is None else [REPLAY])} & set(self.test_files):
            raise InputError(f"data.test_files: '{name}' is the name of another split; give the test set another name")

    def _split(self, train: list[AtomGraph]) -> tuple[list[AtomGraph], list[AtomGraph]]:
        """Return training and validation frames, each in the order of its file."""
        if not train:
            raise InputError(
                f"data.train_file={self.train_file} leaves nothing to train on: besides isolated atoms it has no structures"
            )
        for label in LABELS:
            if label in self.required and not any(has(graph, label) for graph in train):
                raise self._missing(label, expand_paths(self.train_file, TRAIN_FILE, self.folder), train[0].source)
        if self.val_file is not None:
            return train, self.gather(self.val_file, "data.val_file")
        if len(train) == 1:
            raise InputError(
                f"data.train_file={self.train_file} leaves nothing to train on: it has one structure, which validates; give more, "
                "or data.val_file"
            )
        num_val = max(1, round((self.val_fraction or VAL_FRACTION) * len(train)))
        order = np.random.default_rng(self.seed).permutation(len(train))
        chosen = set(order[: min(num_val, len(train) - 1)].tolist())
        val = [graph for i, graph in enumerate(train) if i in chosen]
        return [graph for i, graph in enumerate(train) if i not in chosen], val

    def _check_labels(self) -> None:
        """Refuse a split that leaves none of some label to train on, and targets that no frame has."""
        for target in self.targets:
            if not any(has(graph, target.field) for graph in self.train_graphs):
                raise self._missing(target.name, expand_paths(self.train_file, TRAIN_FILE, self.folder), "")
        for label in set(self.required) & set(LABELS):
            if not any(has(graph, label) for graph in self.train_graphs):
                raise InputError(
                    f"data.train_file={self.train_file}: all frames with {label} were drawn to validate; give data.val_file, or "
                    "another seed"
                )

    def _gaps(self) -> list[str]:
        """Return sentences about frames that are left out, and about what is too little to judge a model by."""
        found = []
        if self._unlabelled:
            needed = ", ".join(self.required)
            number = len(self._unlabelled)
            found.append(
                f"left out, without any label that is needed ({needed}): {number} frame{'s' * (number > 1)}, the first of them "
                f"{self._unlabelled[0]}"
            )
        found += [
            f"no validation frame has {label}: the best model is chosen by the other labels"
            for label in self.required
            if label in LABELS and not any(has(graph, label) for graph in self.val_graphs)
        ]
        if self.val_file is None and (number := len(self.val_graphs)) < ENOUGH:
            found.append(
                f"{number} of {number + len(self.train_graphs)} structures {'validates' if number == 1 else 'validate'}, too few "
                "to judge a model by: give more, or data.val_file"
            )
        return found

    def _check_elements(self) -> None:
        """Refuse validation and test frames with elements that the training set lacks."""
        known = torch.cat([graph.atomic_numbers for graph in self.train_graphs]).unique()
        for name, graphs in self._sets().items():
            for graph in graphs:
                unseen = ~torch.isin(graph.atomic_numbers, known)
                if bool(unseen.any()):
                    atom = int(unseen.nonzero()[0])
                    symbol = chemical_symbols[int(graph.atomic_numbers[atom])]
                    raise InputError(
                        f"{graph.source}: atom {atom} is {symbol}, an element that the training set lacks (it has "
                        f"{', '.join(chemical_symbols[z] for z in known.tolist())}); add such structures to the "
                        f"training set or remove the frame from the set '{name}'"
                    )
