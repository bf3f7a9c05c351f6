"""The graph classes come without the compiler of torch, and predictions without what they do not use."""

import subprocess
import sys
from pathlib import Path

import torch
from torch_geometric.data import Batch, Data

from eqmol.checkpoint import save
from eqmol.graph import geometric
from tests.recipes import model


def test_they_are_those_of_torch_geometric() -> None:
    assert geometric.Data is Data
    assert geometric.Batch is Batch


def test_a_prediction_does_without_the_compiler(tmp_path: Path) -> None:
    save(model(torch.float32), tmp_path / "model.safetensors")
    code = (
        "import sys, ase, eqmol\nwater = ase.Atoms('OHH', [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])\n"
        "eqmol.predict(water, sys.argv[1], kernels='off')\n"
        "print({'torch._dynamo', 'torch._inductor', 'sympy', 'scipy.integrate', 'triton', 'psutil', 'rich'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_all_of_torch_geometric_is_there_when_it_is_used() -> None:
    code = (
        "import sys, eqmol.graph, torch_geometric\n"
        "print({'torch_geometric.nn', 'torch_geometric.datasets', 'torch_geometric.transforms'} & set(sys.modules))\n"
        "print(torch_geometric.datasets.QM9.__name__, torch_geometric.transforms.Compose.__name__)\n"
        "from torch_geometric.profile import timeit\n"
        "print(timeit.__name__, torch_geometric.profile.timeit is timeit)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split("\n")[:3] == ["set()", "QM9 Compose", "timeit True"], done.stderr


def test_a_module_is_imported_when_something_of_it_is_used(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    later = geometric._Later("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", later)
    assert later.rgb_to_hsv(0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)
    assert sys.modules["colorsys"] is not later
    later.leave()
    assert "colorsys" in sys.modules


def test_a_module_that_is_never_used_leaves_no_trace(monkeypatch) -> None:
    later = geometric._Later("a_module")
    monkeypatch.setitem(sys.modules, "a_module", later)
    later.leave()
    assert "a_module" not in sys.modules
