"""``eqmol select POOL MODEL --number 50``: the structures that are most worth labelling."""

import argparse
from collections.abc import Sequence

from eqmol.cli.evaluation import add_options, check_outputs, how
from eqmol.cli.options import Parser, exit_code, file_path, one_file, positive, set_up_process
from eqmol.errors import InputError
from eqmol.files import check_file, expand_paths, replacing


def main(argv: Sequence[str], program: str = "eqmol select") -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Choose the structures of a pool that are most worth labelling: those of which the model is unsure, and "
        "which are far from one another.",
        epilog="The output has the chosen structures as they are in the pool, the most informative first, with eqmol_energy_std "
        "(eV) and eqmol_forces_std (eV/Å) beside them, and eqmol_source, which says where each is from.",
    )
    add = parser.add_argument
    add("pool", nargs="+", metavar="POOL", help="structures in any format that ASE reads; patterns like 'md/*.xyz' too")
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add("-n", "--number", type=positive, required=True, metavar="N", help="how many to choose")
    add("-o", "--output", type=file_path, default="selected.xyz", metavar="OUT", help="(default: selected.xyz)")
    add("--known", nargs="+", default=[], metavar="FILE", help="structures to keep away from, as those trained on")
    add("--batch-size", type=positive, default=16, metavar="N", help="structures at a time (default: 16)")
    add_options(parser)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    import numpy as np
    from rich.console import Console

    from eqmol.checkpoint import for_prediction
    from eqmol.data.xyz.reader import read_frames
    from eqmol.graph.electronic import StateGuard
    from eqmol.inference.choose import choose, score
    from eqmol.inference.extxyz import write_frame
    from eqmol.inference.structures import attach, evaluated
    from eqmol.units import number

    pool, known = (expand_paths(paths, name) if paths else [] for name, paths in _inputs(arguments).items())
    for path in (*pool, *known):
        check_file(path)
    check_outputs([arguments.output], [arguments.model, *pool, *known])
    with replacing(arguments.output) as file:
        model = for_prediction(arguments.model, **how(arguments))
        mode = arguments.close_contacts
        scores, others = (
            score(model, (frame for path in paths for frame in read_frames(path)), arguments.batch_size, mode)
            if paths
            else None
            for paths in (pool, known)
        )
        assert scores is not None
        total = len(scores.distances)
        if arguments.number > total:
            raise InputError(f"--number {arguments.number} is more than the {total} structures of the pool; give less")
        chosen = choose(scores, arguments.number, None if others is None else others.places)
        if not chosen:
            raise InputError("there is nothing to choose: all structures of the pool are copies of known ones")
        wanted, frames = set(chosen), {}
        for index, frame in enumerate(frame for path in pool for frame in read_frames(path)):
            if index in wanted:
                frames[index] = frame
        ordered = [frames[index] for index in chosen]
        states = StateGuard(model.electronic_state, "warn")
        for (atoms, _, source), result in evaluated(model, ordered, arguments.batch_size, mode, states, "cheap"):
            said = {name: value for name, value in result.items() if name in ("energy_std", "forces_std")}
            attach(atoms, said | {"source": source}, model)
            write_frame(file, atoms)
    farthest = model.sections["uncertainty"]["farthest"]
    beyond = [int((values > farthest).sum()) for values in (scores.distances[chosen], scores.distances)]
    print_ = Console().print
    print_(
        f"{len(chosen)} of {total} structures -> {arguments.output}; largest distance of an atom from the training set: median "
        f"{number(float(np.median(scores.distances[chosen])))} of the chosen, {number(float(np.median(scores.distances)))} of all; "
        f"beyond the validation set ({number(farthest)}): {beyond[0]} of the chosen, {beyond[1]} of all",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if len(chosen) < arguments.number:
        print_("all others are copies of chosen or known structures", soft_wrap=True, highlight=False)


def _inputs(arguments: argparse.Namespace) -> dict[str, list[str]]:
    return {"POOL": arguments.pool, "--known": arguments.known}
