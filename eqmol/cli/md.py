"""``eqmol md MODEL START``: molecular dynamics that continues after a kill and stops itself."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from eqmol.cli.evaluation import add_options, how
from eqmol.cli.options import Parser, exit_code, file_path, integer, one_file, set_up_process

NUMBERS = {
    "time": (10.0, "PS", "picoseconds since the start"),
    "temperature": (300.0, "K", "of thermostat and first velocities"),
    "pressure": (1.0, "BAR", "of npt"),
    "timestep": (1.0, "FS", "of the integrator"),
    "interval": (100.0, "FS", "between frames"),
    "largest-force": (50.0, "EV/Å", "a force beyond it stops the run at once"),
}


def main(argv: Sequence[str], program: str = "eqmol md") -> int:
    """Run the command; return the exit code: 0, 1 if the run stopped itself, 2 after bad input, 130 after Ctrl-C."""
    set_up_process()
    again = "interrupted; the same command continues the run"
    return exit_code(lambda: _run(_parser(program).parse_args(argv)), interrupted=again)


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Molecular dynamics with a trained potential. The run lies in a folder: trajectory.xyz, md.csv, state.npz. The "
        "same command continues it, also after kill -9. It stops itself, with the structure in stopped.xyz, at forces beyond a "
        "limit, at forces that the model is unsure of, where bonds of a molecule change, at atoms much closer than any of its "
        "training set, and at results that are not finite.",
        epilog="Exit code 0: the time is over; 1: it stopped itself; 2: bad input.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add("start", type=one_file, metavar="START", help="structure in any format that ASE reads; of several the last")
    add("-o", "--output", type=file_path, default="md", metavar="DIR", help="folder of the run (default: md)")
    add(
        "--ensemble",
        choices=("nve", "nvt", "langevin", "npt", "npt-full"),
        default="nvt",
        help="constant energy, temperature, or pressure (default: nvt)",
    )
    for name, (default, unit, text) in NUMBERS.items():
        add(f"--{name}", type=_positive(unit), default=default, metavar=unit, help=f"{text} (default: {default:g})")
    add(
        "--largest-uncertainty",
        type=_positive("EV/Å"),
        metavar="EV/Å",
        help="a std of a force beyond it stops the run at once (default: that of atoms four times as far from the training set as "
        "any of the validation set)",
    )
    add(
        "--bonds",
        choices=("stop", "warn"),
        default="stop",
        help="where a bond of a molecule breaks (1.5 times as long as at the start) or forms: stop the run, or only say so at its "
        "end, for reactions that the model was trained on (default: stop)",
    )
    add("--seed", type=integer(0, 2**31), default=0, metavar="N", help="of random numbers (default: 0)")
    add_options(parser)
    return parser


def _positive(unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text!r} is no positive number ({unit})")
        return value

    return read


def _run(arguments: argparse.Namespace) -> int:
    from collections import deque

    from rich.console import Console
    from rich.progress import Progress

    from eqmol.data.xyz.reader import read_frames
    from eqmol.inference.calculator import Calculator
    from eqmol.inference.dynamics import PLOT, STOPPED, TABLE, Settings, Simulation
    from eqmol.inference.guards import usual_uncertainty

    names = ("ensemble", "temperature", "pressure", "timestep", "interval", "largest_force", "bonds", "seed")
    limit = arguments.largest_uncertainty
    ((atoms, _, _),) = deque(read_frames(arguments.start), maxlen=1)
    atoms.calc = Calculator(
        arguments.model, close_contacts=arguments.close_contacts, largest_uncertainty=limit, **how(arguments)
    )
    limit = usual_uncertainty(atoms.calc.model) if limit is None else limit
    settings = Settings(**{name: getattr(arguments, name) for name in names}, largest_uncertainty=limit)
    simulation = Simulation(atoms, arguments.output, settings)
    begun, began = simulation.picoseconds, time.monotonic()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("md", total=arguments.time)
        outcome = simulation.run(arguments.time, lambda done: progress.update(bar, completed=done))
    from eqmol.plots import dynamics  # after the run: matplotlib takes its time

    seconds = time.monotonic() - began
    if (arguments.output / TABLE).exists():
        dynamics(arguments.output / TABLE, arguments.output / PLOT)
    speed = 86.4 * (outcome.picoseconds - begun) / max(seconds, 1e-9)
    print(f"{outcome.picoseconds:g} ps in {arguments.output} ({speed:.3g} ns/day)")
    if outcome.bonds and arguments.bonds == "warn":
        print(f"bonds changed: {', '.join(outcome.bonds)}")
    if outcome.stopped:
        where = arguments.output / STOPPED
        print(
            f"stopped after {outcome.picoseconds:g} ps: {outcome.stopped}; the structure is in {where}", file=sys.stderr
        )
        return 1
    return 0
