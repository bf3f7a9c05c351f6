"""``eqmol train KEY=VALUE ...``: compose the configuration, run, and tell a user what went wrong in one sentence."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eqmol.cli import registered
from eqmol.cli.options import exit_code, interrupt_behind, keep_freed_memory, leave, set_up_process
from eqmol.cli.quoting import advice, check_groups, quote_paths
from eqmol.errors import InputError, NoRoomError, reason_of
from eqmol.files import shipped

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException
    from omegaconf import DictConfig

CONF = shipped("conf")
SLURM_TASKS = "SLURM_NTASKS"  #: set where SLURM has started the processes of a job


def main(argv: Sequence[str] | None = None, program: str = "python train.py") -> int:
    """Run the command; errors of the user exit with 2, a failed run with 1, Ctrl-C with 130, SIGTERM with 143."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        from eqmol.cli.help import page

        return exit_code(lambda: print(page(CONF, arguments, program, registered.choices())))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through to here
    set_up_process()
    command = sys.argv
    try:
        code = exit_code(lambda: _start(command, arguments, program), interrupted="interrupted")
    finally:
        sys.argv = command
    return leave(code) if argv is None else code


def _start(command: list[str], arguments: list[str], program: str) -> None:
    """Let Hydra run the command; what the user got wrong becomes a sentence."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    flags = [argument for argument in arguments if _is_flag(argument)]
    check_groups(arguments, [path.name for path in CONF.iterdir() if path.is_dir()], program)
    try:
        sys.argv = [command[0], *_for_hydra(quote_paths(arguments))]  # which knows no subcommands
        _launch(command, shlex.join([program, *flags]).replace(shlex.quote(program), program, 1))
    except OverrideParseException as error:
        reason = _one_line(error.message).split(" See https")[0]
        raise InputError(f"cannot read the option {error.override}: {reason}{advice(error.override)}") from None
    except MissingConfigException as error:
        raise InputError(_describe_missing(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        if interrupt_behind(error):
            raise
        raise InputError(_describe_configuration(error, program, arguments)) from None


def _is_flag(argument: str) -> bool:
    """Whether an argument, unlike KEY=VALUE, is for all jobs of a command."""
    return argument not in ("-m", "--multirun") and (
        argument.startswith("-") or _is_config(argument) or ("=" not in argument and argument[:1] != "~")
    )


def _is_config(argument: str) -> bool:
    """Whether an argument is the configuration of a run, whose path may hold "=", and no option."""
    return argument.endswith((".yaml", ".yml")) and (
        "=" not in argument or os.path.isfile(os.path.expanduser(argument))
    )


def _for_hydra(arguments: list[str]) -> list[str]:
    """The arguments with a run's config.yaml, if one comes first, as the configuration instead of conf/train.yaml."""
    from omegaconf import DictConfig, OmegaConf

    added = []
    folder = [option for option in arguments if option.startswith("output_dir=")]
    if folder and {"-m", "--multirun"} & set(arguments):
        added.append(f"hydra.sweep.dir={folder[-1].removeprefix('output_dir=')}")  # Hydra's own file goes there too
    if not arguments or not _is_config(arguments[0]):
        return [*arguments, *added]
    path = Path(arguments[0]).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{arguments[0]} is no file; give the config.yaml of a run, or options KEY=VALUE")
    try:
        own = OmegaConf.load(path)
    except Exception as error:  # of any content
        raise InputError(f"{arguments[0]} cannot be read: {reason_of(error)}") from None
    if not isinstance(own, DictConfig) or {"hydra", "defaults"} & {str(key) for key in own}:
        raise InputError(
            f"{arguments[0]} is not the config.yaml of a run, which holds plain keys and nothing for Hydra"
        )
    if not folder:
        raise InputError(f"{arguments[0]} is repeated in a folder of its own: give output_dir=NEW")
    added += ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=none"]
    return ["--config-dir", str(path.parent), "--config-name", path.name, *arguments[1:], *added]


def _launch(command: list[str], program: str) -> None:
    """Let Hydra compose the configuration and run what it asks for."""
    import hydra

    registered.offer()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
    def job(cfg: "DictConfig") -> None:
        sys.argv = command  # the processes of other devices run the whole command
        try:
            _run(cfg, program)
        except Exception as error:  # Hydra prints a line of its own about those that leave the job
            if signum := interrupt_behind(error):
                raise KeyboardInterrupt(signum) from error
            raise

    job()


def _run(cfg: "DictConfig", program: str) -> None:
    """Run one job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import InstantiationException
    from hydra.types import RunMode

    logging.getLogger("torch").setLevel(logging.WARNING)  # as its import does in the end, if nothing interrupts it
    from eqmol.train import processes
    from eqmol.train.run import run  # late: a wrong option should not wait for torch
    from eqmol.train.stop import Interrupted, hand_over, process_start
    from eqmol.train.task import NonFiniteLossError

    keep_freed_memory()  # in jobs of other processes, too
    context = HydraConfig.get()
    is_first_job = context.mode != RunMode.MULTIRUN or context.job.num == 0
    if context.mode == RunMode.MULTIRUN:
        if cfg.trainer.devices * cfg.trainer.num_nodes != 1 and SLURM_TASKS not in os.environ:
            _fail(
                "several runs of one command (-m) use one device each here: set trainer.devices=1 trainer.num_nodes=1",
                2,
            )
        cfg.output_dir = str(Path(cfg.output_dir or context.sweep.dir) / str(context.job.num))
    options = list(context.overrides.task)
    # handled here and not in main(), as Hydra prints a line of its own about exceptions that leave the job
    try:
        _check_paths(cfg)
        _check_model(cfg)
        run(cfg, began=process_start() if is_first_job else None)
    except NoRoomError as error:
        _fail(f"{error}, then: {_resume_command(program, options, cfg.output_dir)}", 1)
    except InputError as error:
        _fail(str(error), 2)
    except InstantiationException as error:
        _fail(_describe_instantiation(error), 2)
    except SystemExit as stop:  # a 0 of a class of the user's would look like success
        raise RuntimeError(f"sys.exit({stop.code!r}) inside the run, which is not complete") from stop
    except RuntimeError as error:
        if not processes.is_loss_of_another(error):
            raise
        if processes.rank() > 0:
            sys.exit(1)
        command = _resume_command(program, options, cfg.output_dir)
        _fail(
            f"another process of this run has ended; what it said is above, unless it was killed. To continue: {command}",
            1,
        )
    except Interrupted as stop:
        if processes.rank() > 0:
            sys.exit(128 + stop.signum)
        last = Path(cfg.output_dir) / "last.ckpt"
        state = f"; {last} is {'as it was before' if stop.at_once else 'written'}. To continue:"
        print(f"{stop}{state if last.exists() else '. To begin again:'}", flush=True)
        print(f"  {_resume_command(program, options, cfg.output_dir)}", flush=True)
        hand_over(stop.signum)
        sys.exit(128 + stop.signum)
    except NonFiniteLossError as error:
        if processes.rank() > 0:  # the first one says it
            sys.exit(1)
        kept = [name for name in ("model.safetensors", "last.ckpt") if (Path(cfg.output_dir) / name).exists()]
        state = f"{' and '.join(kept)} in {cfg.output_dir} are kept as they were" if kept else "nothing was saved yet"
        _fail(f"{error}; {state}; try a lower task.optimizer.lr, or look at these structures", 1)


def _check_model(cfg: "DictConfig") -> None:
    """Refuse a model of the user's without arguments that have no default."""
    from omegaconf import OmegaConf

    model = cfg.get("model") or {}
    missing = [f"model.{key}" for key in model if OmegaConf.is_missing(model, key)]
    if missing:
        raise InputError(f"{' and '.join(missing)} must be given: this model has no default")


def _check_paths(cfg: "DictConfig") -> None:
    """Refuse paths that are none; ``~`` of a configuration is the home folder."""
    for key in ("output_dir", "resume", "init_from"):
        value = cfg[key]
        if value is not None and (not isinstance(value, str) or not value):
            raise InputError(f"{key}={value!r} must be a path")
        if value is not None:
            cfg[key] = os.path.expanduser(value)


def _resume_command(program: str, options: list[str], output_dir: str) -> str:
    """Return the command that continues a run."""
    kept = [option for option in options if option.split("=")[0] not in ("output_dir", "resume")]
    return f"{program} " + shlex.join([*kept, f"output_dir={output_dir}", "resume=auto"])


def _fail(message: str, code: int) -> NoReturn:
    """Print a sentence and exit."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _describe_missing(error: "MissingConfigException") -> str:
    """Return a sentence about an option of a group, e.g. ``backend=xyz``, that does not exist."""
    missing = error.missing_cfg_file
    if not isinstance(missing, str) or not error.options:
        return _one_line(str(error))
    group, _, name = missing.rpartition("/")
    own = " (your own: in a script that registers it and calls eqmol.cli.main.main)" * (group in ("backend", "model"))
    return f"{group}={name} is unknown; choose one of {', '.join(sorted(error.options))}{own}"


def _describe_configuration(error: Exception, program: str, arguments: list[str]) -> str:
    """Return a sentence about a key that does not exist or a value that cannot be read."""
    key = _unknown_key(error)
    if key is None:
        return _one_line(str(error))
    from eqmol.cli.help import known_keys

    close = get_close_matches(key, known_keys(CONF, arguments), n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"{program} --help lists all keys"
    return f"there is no option {key}; {hint}"


def _unknown_key(error: Exception) -> str | None:
    """Return the key that could not be overridden, from Hydra's message "Could not override 'a.b'."."""
    first = str(error).splitlines()[0] if str(error) else ""
    start, end = "Could not override '", "'."
    return first[len(start) : -len(end)] if first.startswith(start) and first.endswith(end) else None


def _describe_instantiation(error: Exception) -> str:
    """Return a sentence about an object of the configuration that could not be made."""
    message = _one_line(str(error))
    if not message.startswith("Error locating target") or error.__cause__ is None:
        return message
    return f"{_one_line(str(error.__cause__))} (modules are looked for in the current folder and in PYTHONPATH)"


def _one_line(message: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(message.split())
