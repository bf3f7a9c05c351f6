"""``eqmol train --help``: every key with its value and meaning, read from the comments of the configuration.

Hydra's own page takes longer to make than a user waits for, and shows no meaning.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = re.compile(
    r"^(?P<indent> *)(?P<key>[\w/@]+):(?: (?P<value>(?:[^#\"]|\"[^\"]*\"|(?<! )#)*))?(?:# (?P<meaning>.*))?$"
)
HIDDEN = ("defaults", "hydra")
WIDTH = 44


def page(
    conf: Path, options: Sequence[str], program: str, registered: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """What ``--help`` prints.

    Args:
        conf: the folder of the configuration.
        options: of the command line; the keys are those of the groups' members that they choose.
        program: how the command is called.
        registered: further members of groups.
    """
    chosen = _chosen(conf, options)
    lines = [
        f"usage: {program} KEY=VALUE ...        ({program} --cfg job shows all values, -m runs several, --help GROUP=NAME)",
        "",
        "Train a model; the run lies in output_dir. A stopped run continues with its own options and resume=auto;",
        f"{program} RUN/config.yaml output_dir=NEW repeats a finished one. --config-dir DIR adds groups of your own.",
        "",
        "Groups (*: as chosen here)",
    ]
    for group in sorted({path.parent.relative_to(conf).as_posix() for path in conf.glob("*/**/*.yaml")}):
        lines.append(f"  {group}")
        for path in sorted((conf / group).glob("*.yaml")):
            mark = "*" if chosen.get(group) == path.stem else " "
            lines.append(f"   {mark}{path.stem:20} {_summary(path)}".rstrip())
        for name in (registered or {}).get(group, ()):
            lines.append(f"   {'*' if f'{group}={name}' in options else ' '}{name:20} registered by you")
    sections = _sections(conf, chosen)
    meanings = {name: meaning for keys in sections.values() for name, (_, meaning) in keys.items() if meaning}
    for title, keys in sections.items():
        if keys:
            lines += ["", title, *(_line(name, value, meanings.get(name, "")) for name, (value, _) in keys.items())]
    return "\n".join(lines)


def known_keys(conf: Path, options: Sequence[str]) -> list[str]:
    """The names of all groups and keys, of the groups' members that the options choose."""
    chosen = _chosen(conf, options)
    return [*chosen, *(name for keys in _sections(conf, chosen).values() for name in keys)]


def _sections(conf: Path, chosen: Mapping[str, str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Title -> key -> value and meaning, of the configuration itself and of the chosen members of groups."""
    sections = {"Keys": {name: (value, meaning) for name, value, meaning in _keys(conf / "train.yaml", "")}}
    for group, name in chosen.items():
        sections[f"Keys of {group}={name}"] = _merged(conf / group / f"{name}.yaml", group)
    return sections


def _merged(path: Path, group: str) -> dict[str, tuple[str, str]]:
    """Value and meaning of every key of a group's member, which may build on others."""
    keys: dict[str, tuple[str, str]] = {}
    for member in _family(path):
        for name, value, meaning in _keys(member, _prefix(member, group)):
            keys[name] = (value, meaning or keys.get(name, ("", ""))[1])
    return keys


def _chosen(conf: Path, options: Sequence[str]) -> dict[str, str]:
    """The member of every group, as the defaults and the options have it."""
    given = dict(option.split("=", 1) for option in options if "=" in option)
    chosen: dict[str, str] = {}

    def follow(path: Path, parent: str) -> None:
        for base in _bases(path):
            follow(base, parent)
        for group, name in _defaults(path):
            override = group.startswith("override ")
            group = group.removeprefix("override ").split("@")[0].strip("/")
            name = given.get(group, name)
            full = f"{parent}/{group}" if parent and not override else group
            if name == "null" or not (conf / full / f"{name}.yaml").is_file():
                continue
            chosen[full] = given.get(full, name)
            follow(conf / full / f"{chosen[full]}.yaml", full)

    follow(conf / "train.yaml", "")
    for group, name in given.items():
        if (conf / group / f"{name}.yaml").is_file():
            chosen[group] = name
            follow(conf / group / f"{name}.yaml", group)
    return chosen


def _defaults(path: Path) -> Iterator[tuple[str, str]]:
    """Group and member of each entry of a defaults list."""
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if inside and not line.startswith("  "):
            return
        inside |= line.startswith("defaults:")
        entry = re.match(r"^  - ([\w/@. ]+): (\w+)", line)
        if inside and entry is not None:
            yield entry[1], entry[2]


def _family(path: Path) -> Iterator[Path]:
    """A member of a group after those of the same group that it builds on."""
    for base in _bases(path):
        yield from _family(base)
    yield path


def _bases(path: Path) -> list[Path]:
    """The members of the same group that a member builds on directly."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.removeprefix("  - ") for line in lines if re.fullmatch(r"  - \w+", line)]
    return [path.with_name(f"{name}.yaml") for name in names if name != "_self_"]


def _summary(path: Path) -> str:
    """The first comment of a file that is not for Hydra."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @package")]
    return comments[0] if comments else ""


def _prefix(path: Path, group: str) -> str:
    """What the keys of a group's file begin with."""
    return "" if path.read_text(encoding="utf-8").startswith("# @package _global_") else f"{group.replace('/', '.')}."


def _keys(path: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Dotted name, value and meaning of every key of a file, in its order."""
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = KEY.match(line)
        if found is None:
            continue
        indent, key = len(found["indent"]), found["key"]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        parents.append((indent, key))
        if parents[0][1] in HIDDEN or key.startswith("_"):
            continue
        value, meaning = (found["value"] or "").strip(), found["meaning"] or ""
        if value or meaning:
            yield prefix + ".".join(name for _, name in parents), value, meaning


def _line(name: str, value: str, meaning: str) -> str:
    return f"  {f'{name}={value}' if value else name:{WIDTH}} {meaning}".rstrip()
