"""A table of molecules with two properties, from training to predictions."""

import csv
import io

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

import eqmol
from eqmol.cli.predict import main
from eqmol.cli.train import CONF
from eqmol.train.run import run
from tests.data.molecules.test_datamodule import table
from tests.train.runs import TINY


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few molecules
def test_a_table_with_gaps_is_trained_on_and_predicted(tmp_path, monkeypatch):
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))
    path, out = table(tmp_path, "c1ccc[nH]1(,1,1"), tmp_path / "run"
    options = [
        "data=molecules",
        f"data.file={path}",
        "task.target=[logS,tpsa]",
        'data.targets={logS: {unit: "log(mol/L)"}}',
    ]
    small = [option for option in TINY if not option.startswith("data.isolated") and option != "data=xyz"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*options, *small, "data.conformers=1", f"output_dir={out}", "trainer.max_epochs=1"])
    screen = io.StringIO()
    metrics = run(cfg, Console(file=screen, width=160))
    assert metrics["units"] == {"logS": "log(mol/L)", "tpsa": ""}
    assert {"logS_mae", "tpsa_mae"} <= metrics["train"].keys()
    assert "1 of 17 molecules are left out" in screen.getvalue()
    assert "'c1ccc[nH]1(' is not a SMILES" in screen.getvalue()
    assert {"split.json", "failures.csv", "model.safetensors"} <= {file.name for file in out.iterdir()}
    assert eqmol.load(out / "model.safetensors").label_keys == {"logS": "logS", "tpsa": "tpsa"}
    new = tmp_path / "new.csv"
    new.write_text("no\tsmiles\n2\tCCO\n1\tC(\n")
    assert main([str(out / "model.safetensors"), str(new), "-o", str(tmp_path / "out.csv"), "--conformers", "1"]) == 0
    with open(tmp_path / "out.csv", newline="") as file:
        first, second = csv.DictReader(file, delimiter="\t")
    assert list(first) == ["no", "smiles", "logS (log(mol/L))", "tpsa", "problem"]
    assert (first["no"], first["problem"], second["tpsa"]) == ("2", "", "")
    float(first["logS (log(mol/L))"])
