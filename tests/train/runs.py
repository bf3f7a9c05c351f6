"""Small training runs, composed from the real configuration."""

import io
from pathlib import Path
from typing import Any

import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import load_file

from eqmol.cli.train import CONF
from eqmol.train.run import run

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
TINY = [
    "data=xyz",
    f"data.isolated_atoms_file={SAMPLE / 'iso_atoms.xyz'}",
    "data.batch_size=3",
    "model.channels=4",
    "model.filter_degree=1",
    "model.correlation=2",
    "model.radial_hidden=[8]",
    "model.cutoff=3.0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "logger=csv",
]


def frames(path: Path, first: int, count: int) -> Path:
    """Write some frames of the sample to a file."""
    lines = (SAMPLE / "train_300K.xyz").read_text().splitlines(keepends=True)
    size = int(lines[0]) + 2
    path.write_text("".join(lines[first * size : (first + count) * size]))
    return path


def shifted(path: Path, out: Path, shifts: dict[str, float], swap: dict[str, str] | None = None) -> Path:
    """Write frames with other energies per element (eV), and perhaps with other elements in place of some."""
    frames = read(path, ":")
    for atoms in frames:
        labels = dict(atoms.calc.results)
        labels["energy"] += sum(shifts.get(symbol, 0.0) for symbol in atoms.symbols)
        atoms.symbols = [(swap or {}).get(symbol, symbol) for symbol in atoms.symbols]
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write(out, frames)
    return out


def bare(folder: Path, out: str, *options: str) -> DictConfig:
    """The settings of a run with its own data."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*options, f"output_dir={folder / out}"])


def configuration(folder: Path, out: str = "run", *options: str) -> DictConfig:
    """Twelve frames to train on, four to validate and three to test on."""
    files = [
        f"data.train_file={frames(folder / 'train.xyz', 0, 12)}",
        f"data.val_file={frames(folder / 'val.xyz', 12, 4)}",
        f"data.test_files={{later: {frames(folder / 'test.xyz', 16, 3)}}}",
        f"output_dir={folder / out}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*TINY, *files, *options])


def train(folder: Path, out: str = "run", *options: str) -> dict[str, Any]:
    """Run, silently."""
    return run(configuration(folder, out, *options), Console(file=io.StringIO()))


def weights(folder: Path, out: str = "run") -> dict[str, torch.Tensor]:
    """Averaged and raw weights at the end of a run, and the weights of the best model."""
    last = torch.load(folder / out / "last.ckpt", weights_only=True)
    best = load_file(folder / out / "model.safetensors")
    named = {f"averaged.{k}": v for k, v in last["state_dict"].items()}
    named |= {f"raw.{k}": v for k, v in last.get("current_model_state", {}).items()}
    return named | {f"best.{k}": v for k, v in best.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Equal to the last bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
