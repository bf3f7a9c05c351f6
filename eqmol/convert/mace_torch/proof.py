"""What a converted model must show before it is written."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from eqmol.convert.convert import EXACT, compare
from eqmol.convert.mace_torch.model import Found
from eqmol.convert.mace_torch.parts import Part
from eqmol.errors import InputError, printable
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.tuning.verify import Difference

#: Largest difference from a model whose constants mace-torch has rounded to float32, eV per atom, eV/Å, eV/Å³ for forces of 1 eV/Å.
SINGLE = 1e-5
#: Seconds that the other interpreter may take.
PATIENCE = 1800.0

Results = dict[str, Any]


def evaluate(model: Potential, structures: Sequence[ase.Atoms]) -> list[Results]:
    """Energies, forces and stress of structures, one by one."""
    return [
        evaluate_graphs(model, [graph_of(model, atoms, f"structure {number}")])[0]
        for number, atoms in enumerate(structures)
    ]


def invariances(model: Potential, structures: Sequence[ase.Atoms]) -> list[Difference]:
    """How far results change when structures are turned, moved and their atoms written in another order.

    Args:
        model: in float64.
        structures: at least one.
    """
    rng = np.random.default_rng(0)
    moved, expected = [], []
    for atoms, result in zip(structures, evaluate(model, structures), strict=True):
        turn = Rotation.random(random_state=1).as_matrix()
        order = rng.permutation(len(atoms))
        other = atoms[order]
        other.set_cell(atoms.cell.array @ turn)
        other.positions = atoms.positions[order] @ turn + rng.normal(size=3)
        moved.append(other)
        turned = {
            "energy": result["energy"],
            "energies": result["energies"][order],
            "forces": result["forces"][order] @ turn,
        }
        if "stress" in result:
            turned["stress"] = turn.T @ result["stress"] @ turn
        expected.append(turned)
    return compare(expected, evaluate(model, moved), EXACT)


def isolated_atoms(root: Part, found: Found) -> Difference:
    """How far the energies of single atoms are from those that follow from the file without any tensor product.

    An atom without neighbours has no messages: its features pass linear maps alone.
    """
    number = found.heads.index(found.head)
    heads, elements = len(found.heads), len(found.model.elements)
    x = root.part("node_embedding.linear").array("weight").reshape(elements, -1) / np.sqrt(elements)
    channels = x.shape[1]
    value = np.zeros(elements)
    readouts = root.parts("readouts")
    features = []
    for interaction in root.parts("interactions"):
        if "Residual" in interaction.kind:
            skip = interaction.part("skip_tp").array("weight").reshape(-1, channels, elements, channels)[0]
            x = np.einsum("zc,czo->zo", x, skip) / np.sqrt(channels * elements)
        else:
            x = np.zeros_like(x)
        features.append(x)
    for readout, x in zip(readouts, features[-len(readouts) :], strict=True):
        if readout.kind == "LinearReadoutBlock":
            value += x @ readout.part("linear").array("weight", channels, heads)[:, number] / np.sqrt(channels)
            continue
        hidden = (
            x @ readout.part("linear_1").array("weight").reshape(channels, heads, -1)[:, number] / np.sqrt(channels)
        )
        constant = readout.parts("non_linearity.acts")[0].number("cst")
        last = readout.part("linear_2").array("weight").reshape(heads, -1, heads)[number, :, number]
        value += constant * hidden / (1 + np.exp(-hidden)) @ last / np.sqrt(heads * len(last))
    energies = np.atleast_2d(root.part("atomic_energies_fn").array("atomic_energies"))
    own: NDArray[np.float64] = energies[number if len(energies) > 1 else 0]
    expected = own + found.shift + found.model.reference.scale.item() * value
    single = [ase.Atoms(numbers=[z]) for z in found.model.elements]
    results = np.array([result["energy"] for result in evaluate(found.model, single)])
    allowed = EXACT * max(1.0, float(np.abs(expected).max()))
    return Difference("isolated atoms", float(np.abs(results - expected).max()), allowed, "eV")


def ask_mace(python: Path, path: Path, head: str | None, structures: Sequence[ase.Atoms]) -> list[Results]:
    """What mace-torch, in an interpreter of its own, says of structures.

    Args:
        python: the interpreter. It unpickles the model: whatever the file asks for is run there.
        path: the model.
        head: of several.
        structures: at least one.

    Raises:
        InputError: the interpreter fails, with its last line.
    """
    given = [
        {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(),
        }
        for atoms in structures
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "structures.json", Path(folder) / "results.json"
        asked.write_text(json.dumps(given))
        command = [str(python), "-W", "ignore", str(Path(__file__).with_name("evaluate.py"))]
        command += [str(path.resolve()), str(asked), str(answered), *([] if head is None else [head])]
        run_mace(command)
        results = json.loads(answered.read_text())
    return [{name: np.array(value) for name, value in result.items()} for result in results]


def run_mace(command: Sequence[str]) -> None:
    """Run a script in the interpreter that has mace-torch.

    Raises:
        InputError: it cannot be run or fails.
    """
    # e3nn 0.4 reads its own constants with torch.load, which torch 2.6 and later refuses by default
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"--mace-python {command[0]} cannot be run: {printable(str(error))}") from None
    if done.returncode != 0:
        last = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise InputError(f"mace-torch in {command[0]} failed: {printable(last)}")
