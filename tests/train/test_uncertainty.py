"""Runs find out how sure their model is."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

import eqmol
from tests.train.runs import train


@pytest.mark.filterwarnings("ignore:structure .* apart:UserWarning")
@pytest.mark.parametrize("options", [(), ("predictor.forces=direct", "model.degree_out=1")], ids=["slopes", "direct"])
def test_the_std_is_of_the_size_of_errors_of_validation(tmp_path: Path, options: tuple[str, ...]) -> None:
    metrics = train(tmp_path, "run", "trainer.max_epochs=1", *options)
    file = tmp_path / "run" / "model.safetensors"
    frames = read(tmp_path / "val.xyz", ":")
    results = eqmol.predict(frames, file, uncertainty="cheap")
    for name, per in (("energy", 1), ("forces", 3)):
        errors = [np.ravel(r[name] - f.calc.results[name]) for r, f in zip(results, frames, strict=True)]
        std = np.concatenate([np.ravel(result[f"{name}_std"]) for result in results])
        assert np.square(np.concatenate(errors)).mean() == pytest.approx(np.square(std).mean(), rel=1e-4)
        for split, structures in (("val", 4), ("later", 3)):
            found = metrics["uncertainty"][split][name]
            assert found["number"] == structures * (1 if name == "energy" else per * len(frames[0]))
            assert 0 <= found["area"] <= 0.5
        assert metrics["uncertainty"]["val"][name]["ratio"] == pytest.approx(1.0, rel=1e-4)
    section = eqmol.load(file).sections["uncertainty"]
    assert (section["structures"], section["validation"]) == (12, 4)
    assert (section["exact"] is None) == bool(options)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["uncertainty"] == metrics["uncertainty"]
    with np.load(tmp_path / "run" / "calibration.npz") as points:
        assert set(points.files) == {f"{s}/{n}" for s in ("val", "later") for n in ("energy", "forces")}
    assert (tmp_path / "run" / "calibration.png").exists()
    if not options:
        exact = eqmol.predict(frames, file, uncertainty="exact")
        std = np.concatenate([np.ravel(result["forces_std"]) for result in exact])
        ratio = np.square(std).mean() / (metrics["val"]["forces_rmse_mev_per_a"] ** 2 / 1e6)
        assert 0.5 < ratio < 2.0  # two batches with two draws each
