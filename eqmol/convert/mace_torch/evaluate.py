"""What mace-torch says of structures: a script for an interpreter that has it, which unpickles the model as mace-torch does.

    python evaluate.py MODEL STRUCTURES.json RESULTS.json [HEAD]

STRUCTURES: a list of {"numbers", "positions", "cell", "pbc"}, Å. RESULTS: for each {"energy", "energies", "forces"} and, if it is
periodic in three directions, "stress" [3, 3], in eV and Å, evaluated in float64.
"""

import json
import sys
from pathlib import Path


def main(model: str, structures: str, results: str, head: str | None = None) -> None:
    """Evaluate the structures one by one."""
    import ase
    from mace.calculators import MACECalculator

    options = {} if head is None else {"head": head}
    calculator = MACECalculator(model_paths=model, device="cpu", default_dtype="float64", **options)
    found = []
    for structure in json.loads(Path(structures).read_text()):
        atoms = ase.Atoms(**structure)
        atoms.calc = calculator
        result = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist()}
        result["energies"] = calculator.results["energies"].tolist()
        if atoms.pbc.all():
            result["stress"] = atoms.get_stress(voigt=False).tolist()
        found.append(result)
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
