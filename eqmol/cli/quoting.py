"""Paths as people type them, in a form that Hydra's grammar reads.

Hydra takes ``=``, ``,``, ``(``, ``[``, ``~`` and all letters beyond ASCII for signs of its own unless they are quoted, and so reads
``output_dir=runs/lr=0.1`` as an error. Options whose values are paths are quoted here before Hydra sees them; where that is not
possible the sentence has the form to type.
"""

import os
import re
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from eqmol.errors import InputError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

#: Options whose values are paths.
_PATHS = re.compile(r"\+{0,2}(output_dir|resume|init_from|data\.(references|prepared|(\w+_)?(file|folder)s?(\.\w+)?))")


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line with the values of options for paths quoted where Hydra needs it.

    ``~`` becomes the home folder. Numbers are names there.

    Raises:
        InputError: several files without brackets, or characters in a group of files that must be quoted by hand.
    """
    several_runs = bool({"-m", "--multirun"} & set(arguments))
    return [_quoted(argument, several_runs) for argument in arguments]


def advice(override: str) -> str:
    """Return how to type KEY=VALUE that Hydra's grammar refuses, as the end of a sentence; "" where there is no such form."""
    key, _, value = override.partition("=")
    parent, _, name = key.lstrip("+").rpartition(".")
    if not key or not value:
        return ""
    whole, within = f'{key}="{value}"', f"{key}={_with_quotes(value)}"
    for form in (*((within, whole) if value[0] in "[{" else (whole,)), f'{parent}={{{name}: "{value}"}}'):
        if _parse(form) is not None:
            return f"; if the value is meant as it is, type {shlex.quote(form)}"
    return ""


def check_groups(arguments: Sequence[str], groups: Collection[str], program: str) -> None:
    """Refuse what is no name where one member of a group is chosen, like ``data=3``.

    Raises:
        InputError: names the argument.
    """
    for argument in arguments:
        key, _, _ = argument.partition("=")
        override = _parse(argument) if key in groups else None
        if override is None or override.is_sweep_override():
            continue
        value = override.value()
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise InputError(f"{argument} must name one of the group {key}; {program} --help lists them")


def _quoted(argument: str, several_runs: bool) -> str:
    key, _, value = argument.partition("=")
    if not value or not _PATHS.fullmatch(key) or _parse(f"{key}=x") is None:
        return argument
    override = _parse(argument)
    if override is None and several_runs:
        return f"{key}={','.join(map(quote, value.split(',')))}"
    if override is None:
        return f"{key}={_path(key, value)}"
    if override.is_sweep_override() and not several_runs:
        parts = value.split(",")
        if len(parts) > 1 and all(map(os.path.exists, parts)) and not os.path.exists(value):
            raise InputError(
                f"{key}: for several files type {shlex.quote(f'{key}=[{value}]')}, for several runs give -m as well"
            )
        return f"{key}={quote(value)}"
    is_number = not override.is_sweep_override() and type(override.value()) in (int, float)
    return f"{key}={quote(value)}" if is_number or value != value.strip() else argument


def _path(key: str, value: str) -> str:
    """What Hydra reads as the path, the list of paths, or the names with paths that a refused text is."""
    if value[0] not in "[{" or os.path.exists(value) or value[-1] not in "]}":
        return quote(value)
    if value[0] == "[":
        return f"[{','.join(quote(part.strip()) for part in value[1:-1].split(','))}]"
    form = f"{key}={_with_quotes(value)}"
    hint = f"type {shlex.quote(form)}" if _parse(form) is not None else 'put each in quotation marks: {name: "path"}'
    raise InputError(f"{key}={value}: paths with such characters need quotation marks; {hint}")


def _with_quotes(value: str) -> str:
    """Names with paths, ``{a: x=1.xyz}``, each path in quotation marks."""
    return re.sub(r"(?<=:)\s*([^\s,:{}\[\]'\"][^,{}\[\]'\"]*)", r' "\1"', value)


def quote(text: str) -> str:
    """A path as a quoted text of Hydra; ``~`` is the home folder."""
    if not os.path.exists(text):
        text = os.path.expanduser(text)
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), text) + "'"


def _parse(argument: str) -> "Override | None":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
