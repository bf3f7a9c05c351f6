"""``python train.py``: compose the configuration, run, and tell a user what went wrong in one sentence."""

import os
import shlex
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eqmol.cli.options import limit_threads
from eqmol.errors import InputError

CONF = Path(__file__).parents[2] / "conf"  #: the configuration lies beside the package, in the checkout


def main() -> None:
    """Run the command line; errors of the user exit with 2, a failed run with 1, Ctrl-C with 130."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through to here
    folder = [option for option in sys.argv if option.startswith("output_dir=")]
    if folder and {"-m", "--multirun"} & set(sys.argv):
        sys.argv.append(f"hydra.sweep.dir={folder[-1].removeprefix('output_dir=')}")  # Hydra's own file goes there too
    limit_threads()
    try:
        _launch()
    except OverrideParseException as error:
        _fail(f"cannot read the option {error.override}: {_one_line(error.message).split(' See https')[0]}", 2)
    except MissingConfigException as error:
        _fail(_describe_missing(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_describe_configuration(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _launch(cfg: DictConfig) -> None:
    """Run one job."""
    from eqmol.train import processes
    from eqmol.train.memory import keep_freed_memory
    from eqmol.train.run import run  # late: a wrong option should not wait for torch
    from eqmol.train.stop import Interrupted
    from eqmol.train.task import NonFiniteLossError

    keep_freed_memory()
    context = HydraConfig.get()
    if context.mode == RunMode.MULTIRUN:
        if cfg.trainer.devices != 1:
            _fail("several runs of one command (-m) use one device each: set trainer.devices=1", 2)
        cfg.output_dir = str(Path(cfg.output_dir or context.sweep.dir) / str(context.job.num))
    options = list(context.overrides.task)
    # handled here and not in main(), as Hydra prints a line of its own about exceptions that leave the job
    try:
        run(cfg)
    except InputError as error:
        _fail(str(error), 2)
    except InstantiationException as error:
        _fail(_one_line(str(error)), 2)
    except RuntimeError as error:
        if not processes.is_loss_of_another(error):
            raise
        sys.exit(1)
    except Interrupted as stop:
        if processes.rank() > 0:
            sys.exit(128 + stop.signum)
        last = Path(cfg.output_dir) / "last.ckpt"
        print(f"{stop}; {last} is written. To continue:" if last.exists() else f"{stop}. To begin again:", flush=True)
        print(f"  {_resume_command(options, cfg.output_dir)}", flush=True)
        sys.exit(128 + stop.signum)
    except NonFiniteLossError as error:
        if processes.rank() > 0:  # the first one says it
            sys.exit(1)
        kept = [name for name in ("model.safetensors", "last.ckpt") if (Path(cfg.output_dir) / name).exists()]
        state = f"{' and '.join(kept)} in {cfg.output_dir} are kept as they were" if kept else "nothing was saved yet"
        _fail(f"{error}; {state}; try a lower task.optimizer.lr, or look at these structures", 1)


def _resume_command(options: list[str], output_dir: str) -> str:
    """Return the command that continues a run."""
    kept = [option for option in options if option.split("=")[0] not in ("output_dir", "resume")]
    return shlex.join(["python", sys.argv[0], *kept, f"output_dir={output_dir}", "resume=auto"])


def _fail(message: str, code: int) -> NoReturn:
    """Print a sentence and exit."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _describe_missing(error: MissingConfigException) -> str:
    """Return a sentence about an option of a group, e.g. ``backend=xyz``, that does not exist."""
    missing = error.missing_cfg_file
    if not isinstance(missing, str) or not error.options:
        return _one_line(str(error))
    group, _, name = missing.rpartition("/")
    return f"{group}={name} is unknown; choose one of {', '.join(sorted(error.options))}"


def _describe_configuration(error: Exception) -> str:
    """Return a sentence about a key that does not exist or a value that cannot be read."""
    key = _unknown_key(error)
    if key is None:
        return _one_line(str(error))
    known = _known_keys()
    close = get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "see python train.py --cfg job for all keys"
    return f"there is no option {key}; {hint}"


def _unknown_key(error: Exception) -> str | None:
    """Return the key that could not be overridden, from Hydra's message "Could not override 'a.b'."."""
    first = str(error).splitlines()[0] if str(error) else ""
    start, end = "Could not override '", "'."
    return first[len(start) : -len(end)] if first.startswith(start) and first.endswith(end) else None


def _known_keys() -> list[str]:
    """Return all keys of the default configuration."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return list(_keys(OmegaConf.to_container(compose("train"), resolve=False)))


def _keys(tree: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of nested mappings."""
    if not isinstance(tree, dict):
        return []
    names = []
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        names += [name, *_keys(value, name)]
    return names


def _one_line(message: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(message.split())
