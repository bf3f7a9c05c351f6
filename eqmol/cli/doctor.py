"""``eqmol doctor [train=]FILES val=FILES test=FILES``: what is wrong with data, before a model is trained on them."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eqmol.cli.options import Parser, exit_code, file_path, one_file, set_up_process
from eqmol.errors import InputError, reason_of
from eqmol.files import expand_paths, replacing

if TYPE_CHECKING:
    from eqmol.doctor.sets import Set

LABELS = ("energy", "forces", "stress")
#: Option of data=xyz -> the set that its files are; isolated atoms are told by themselves.
OPTIONS = {"data.train_file": "train", "data.isolated_atoms_file": "train", "data.val_file": "val"}


def main(argv: Sequence[str], program: str = "eqmol doctor") -> int:
    """Run the command; return the exit code: 0 sound, 1 a culprit was found, 2 unreadable, 130 after Ctrl-C."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Say what is wrong with data: labels that are missing or in other units, frames that train and judge, "
        "contradictions, forces that do not balance, energies of several levels of theory, atoms that are too close, and more.",
        epilog="Exit code 0: sound; 1: a culprit was found; 2: a file cannot be read.",
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="[NAME=]FILES",
        help="structures with labels in any format that ASE reads, also QM9's and OC20's, by the set that they are: train=A.xyz "
        "val=B.xyz test='C*.xyz'; without names every file is compared with every other; or the config.yaml of a run",
    )
    add("--json", type=file_path, metavar="FILE", help="also write what was found to this file")
    for label in LABELS:
        add(f"--{label}-key", default=label, metavar="KEY", help=f"where the files have the {label} (default: {label})")
    add(
        "--stress-unit",
        metavar="UNIT",
        help="GPa, kbar, bar, or -kbar where positive means compressed (default: eV/A^3)",
    )
    add("--virial-key", metavar="KEY", help="where the files have a virial in eV, instead of a stress")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from eqmol.doctor.diagnosis import diagnose

    sets = _of_run(arguments) if _is_config(arguments.files) else _of_files(arguments)
    diagnosis = diagnose(sets)
    if arguments.json is not None:
        with replacing(arguments.json) as file:
            file.write(json.dumps(diagnosis.named(), indent=2, ensure_ascii=False) + "\n")
    diagnosis.show(Console())
    return 0 if diagnosis.sound else 1


def _is_config(files: Sequence[str]) -> bool:
    return any(name.endswith((".yaml", ".yml")) for name in files)


def _of_files(arguments: argparse.Namespace) -> "dict[str, Set]":
    from eqmol.data.xyz.stress import Convention
    from eqmol.doctor.sets import Keys, read_sets

    stress = Convention.read(arguments.stress_key, arguments.stress_unit, arguments.virial_key)
    return read_sets(_files(arguments.files), Keys(arguments.energy_key, arguments.forces_key, stress))


def _files(given: Sequence[str]) -> dict[str, list[Path]]:
    """Files by the name of their set."""
    named: dict[str, list[str]] = {}
    plain = []
    for item in given:
        name, separator, path = item.partition("=")
        if not separator or "/" in name or Path(item).exists():
            plain.append(item)
        elif not name or not path:
            raise InputError(f"{item!r} must name a set and its files, like train=A.xyz")
        else:
            named.setdefault(name, []).append(path)
    paths = expand_paths(plain, "FILES") if plain else []
    if named or len(paths) == 1:
        sets = {name: expand_paths(files, name) for name, files in named.items()}
        return {"train": [*paths, *sets.pop("train", [])], **sets} if paths else sets
    return {str(path): [path] for path in paths}


def _of_run(arguments: argparse.Namespace) -> "dict[str, Set]":
    """The sets of a run."""
    from omegaconf import DictConfig, OmegaConf

    if len(arguments.files) > 1:
        raise InputError("the config.yaml of a run names its own files; give it alone")
    path = one_file(arguments.files[0])
    try:
        cfg = OmegaConf.load(path)
    except Exception as error:  # of any content
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from None
    if not isinstance(cfg, DictConfig) or "data" not in cfg or "task" not in cfg:
        raise InputError(f"{path} is not the config.yaml of a run, which has the keys data and task")
    from eqmol.data.checks import Finding
    from eqmol.data.datamodule import GraphSets
    from eqmol.data.xyz.datamodule import FileSets
    from eqmol.data.xyz.labels import has
    from eqmol.doctor.sets import Keys, of_graphs, read_sets
    from eqmol.graph.keys import ENERGY, FORCES
    from eqmol.train.code import check_targets
    from eqmol.train.objectives import Objective
    from eqmol.train.settings import make

    check_targets(cfg)
    objective: Objective = make(cfg.task, _convert_="all")
    data: GraphSets = make(cfg.data, required=objective.required)
    data.prepare_data()
    if type(data) is not FileSets:  # whose subclasses know more about their files
        data.setup("fit")
        graphs = {"train": data.train_graphs, "val": data.val_graphs, **data.test_graphs}
        return {name: of_graphs(part) for name, part in graphs.items()}
    files: dict[str, list[Path]] = {}
    for option, given in data.files().items():
        files.setdefault(OPTIONS.get(option, option.split(".")[-1]), []).extend(expand_paths(given, option))
    sets = read_sets(files, Keys(data.keys[ENERGY], data.keys[FORCES], data.convention))
    for label in LABELS:
        unused = any(has(graph, label) for graph in sets["train"].graphs) and cfg.task.targets[label].weight == 0
        if unused:
            words = f"the frames of 'train' have {label}, which task.targets.{label}.weight=0 leaves out of the loss"
            sets["train"].findings.append(Finding("labels", words, False))
    return sets
