"""Training on frames of OC20: what a model is compared with."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from eqmol.cli.train import CONF
from eqmol.data.oc20.baseline import MeanEnergy
from eqmol.data.oc20.datamodule import OC20
from eqmol.graph import collate
from eqmol.train.run import run
from tests.data.oc20.files import relaxation, write_s2ef

TINY = ["data=oc20", "model.channels=2", "model.filter_degree=1", "model.radial_hidden=[4]", "model.cutoff=3.0"]
TINY += ["logger=csv", "trainer.accelerator=cpu", "trainer.max_epochs=1", "data.num_workers=0", "data.split=blocks"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    systems = {f"random{i}": relaxation(adsorbate=a, seed=i, frames=20) for i, a in enumerate(["CO", "O", "C"])}
    write_s2ef(tmp_path / "raw", systems)
    return tmp_path / "raw"


def train(folder: Path, raw: Path, *options: str) -> tuple[dict, str]:
    """Metrics and what was printed."""
    own = [f"data.folder={raw}", f"data.prepared={folder / 'shards'}", f"output_dir={folder / 'run'}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, *own, *options])
    screen = io.StringIO()
    metrics = run(cfg, Console(file=screen, width=110))
    assert json.loads((folder / "run" / "metrics.json").read_text()) == metrics
    return metrics, screen.getvalue()


def test_the_baseline_stands_beside_the_model(tmp_path: Path, raw: Path) -> None:
    metrics, screen = train(tmp_path, raw, "data.held_out=1")
    rows = [line for line in screen.splitlines() if line.strip().startswith(MeanEnergy.name)]
    assert len(rows) == 4  # train, val, blocks, held_out
    for split in (metrics["train"], metrics["val"], *metrics["test"].values()):
        assert split["baseline"]["forces_mae"] == pytest.approx(split["forces_mae_of_zero"])
        assert split["baseline"]["energy_mae"] > 0


@pytest.mark.parametrize("energy", ["adsorption", "total"])
def test_the_baseline_is_the_mean_energy_of_each_system(tmp_path: Path, raw: Path, energy: str) -> None:
    data = OC20(folder=raw, prepared=tmp_path / "shards", cutoff=3.0, split="blocks", held_out=1, energy=energy)
    data.prepare_data()
    data.setup()
    elements, e0 = [6, 8, 29], [-1.0, -20.0, -3.0]
    known, new = collate(list(data.train_graphs)), collate(list(data.test_graphs["held_out"]))
    predictor = MeanEnergy(data.train_graphs, elements, e0)
    predicted = predictor(known)
    assert not predicted["forces"].any()
    systems = np.array(known.config_type)  # one adsorbate each
    assert len(set(systems)) == 2
    for system in set(systems):
        mine = torch.from_numpy(systems == system)
        assert torch.allclose(predicted["energy"][mine], known.energy[mine].mean())
    own = torch.zeros(119).double().index_put_((torch.tensor(elements),), torch.tensor(e0).double())
    of_elements = [
        torch.zeros(b.num_graphs).double().index_add(0, b.batch, own[b.atomic_numbers]) for b in (known, new)
    ]
    expected = of_elements[1] + (known.energy - of_elements[0]).mean()
    assert torch.allclose(predictor(new)["energy"], expected)
