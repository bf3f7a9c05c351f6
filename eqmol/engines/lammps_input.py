"""Files of LAMMPS: inputs without structure and potential, elements of data files, and which files are restart files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eqmol.errors import InputError
from eqmol.files import Text

#: Commands that LAMMPS takes only before there is a box.
BEFORE = ("units", "boundary", "atom_style", "atom_modify", "dimension", "newton", "processors", "package", "suffix")
#: Commands that make another box.
STRUCTURE = ("read_data", "read_restart", "create_box", "clear")
RESTART = b"LammpS RestartT"  #: how LAMMPS' binary restart files begin
SKIN = 1.0  #: Å
_LONGEST_SKIN = 10.0


class Script(NamedTuple):
    """The parts of an input.

    Attributes:
        before: commands for before the structure is read.
        after: the other ones.
        skin: Å, of ``neighbor``.
    """

    before: list[str]
    after: list[str]
    skin: float


def split(lines: Sequence[str], source: str) -> Script:
    """Divide an input into what LAMMPS takes before the structure is read, and after it.

    >>> split(["units metal", "fix 1 all nve", "run 5"], "in.lmp")
    Script(before=['units metal'], after=['fix 1 all nve', 'run 5'], skin=1.0)

    Args:
        lines: of the file, also continued ones (``&``).
        source: the file, for messages.

    Raises:
        InputError: a command that makes a box, or one that takes ghosts away.
    """
    script = Script([], [], SKIN)
    for line in _commands(lines):
        words = line.split("#", 1)[0].split()
        command = words[0] if words else ""
        if command in STRUCTURE:
            raise InputError(
                f"{source} has {command!r}; the structure is the file given before it, so leave that line out"
            )
        if command == "comm_modify" and "cutoff" in words:
            raise InputError(
                f"{source} has {line.strip()!r}; the model sets how far ghosts reach, so leave 'cutoff' out"
            )
        if command == "neighbor":
            script = script._replace(skin=_skin(words, source))
        elif command in BEFORE:
            script.before.append(line)
        else:
            script.after.append(line)
    return script


def elements_of(path: Path) -> list[str] | None:
    """The elements of a data file's atom types: its type labels, or the comments after its masses; None where it has neither.

    Raises:
        InputError: the file cannot be read.
    """
    labels: dict[int, str] = {}
    section = ""
    with Text(path) as file:
        for line in file:
            if match := re.match(r"\s*(Atom Type Labels|Masses|Atoms|Pair Coeffs|Velocities)\b", line):
                section = match[1]
                if section == "Atoms":
                    break
            elif section == "Atom Type Labels" and (match := re.match(r"\s*(\d+)\s+(\S+)", line)):
                labels[int(match[1])] = match[2]
            elif section == "Masses" and (match := re.match(r"\s*(\d+)\s+\S+\s*#\s*([A-Z][a-z]?)\b", line)):
                labels.setdefault(int(match[1]), match[2])
    return (
        [labels[kind] for kind in sorted(labels)] if labels and sorted(labels) == [*range(1, len(labels) + 1)] else None
    )


def is_restart(path: Path) -> bool:
    """Whether a file is a restart file of LAMMPS.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(RESTART)) == RESTART
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _commands(lines: Sequence[str]) -> list[str]:
    """Lines with those that continue them (``&``, open triple quotes) as one."""
    commands: list[str] = []
    open_before = False
    for line in lines:
        if open_before:
            commands[-1] += "\n" + line
        else:
            commands.append(line)
        open_before = commands[-1].rstrip().endswith("&") or commands[-1].count('"""') % 2 == 1
    return commands


def _skin(words: Sequence[str], source: str) -> float:
    try:
        skin = float(words[1])
    except (IndexError, ValueError):
        skin = -1.0
    if not 0 < skin <= _LONGEST_SKIN:
        raise InputError(f"{source} has {' '.join(words)!r}; give neighbor a number of Å from 0 to {_LONGEST_SKIN:g}")
    return skin
