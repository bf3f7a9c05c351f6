"""``eqmol prepare SOURCE TARGET``: files of OC20 into shards, which ``data=oc20 data.folder=TARGET`` reads."""

import argparse
from collections.abc import Sequence

from eqmol.cli.options import Parser, exit_code, file_path, one_file, positive
from eqmol.errors import InputError


def main(argv: Sequence[str], program: str = "eqmol prepare") -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    parser = Parser(
        prog=program,
        description="Turn files of OC20 into shards. An interrupted preparation continues and ends with the same bytes.",
    )
    add = parser.add_argument
    add(
        "source",
        type=one_file,
        metavar="SOURCE",
        help="folder: S2EF .extxyz.xz + .txt, .lmdb, .pt, .aselmdb, .traj, .db",
    )
    add("target", type=file_path, nargs="?", metavar="TARGET", help="folder of shards (default: SOURCE/prepared)")
    add("--files", default="**/*", metavar="PATTERN", help="of the files below SOURCE (default: all)")
    add("--workers", type=positive, metavar="N", help="processes (default: one per core)")
    add("--infer-tags", action="store_true", help="guess tags that are missing (data/README.md)")
    add("--total", action="store_true", help="energies in .lmdb and .pt are total energies")
    return exit_code(lambda: _run(parser.parse_args(argv)), interrupted="interrupted; the same command continues")


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from eqmol.data.oc20.prepare import prepare

    if not arguments.source.is_dir():
        raise InputError(f"{arguments.source} is not a folder")
    target = arguments.target or arguments.source / "prepared"
    index = prepare(
        arguments.source,
        target,
        files=arguments.files,
        infer_tags=arguments.infer_tags,
        total=arguments.total,
        workers=arguments.workers,
        console=Console(),
    )
    index.verify(target)
