"""Evaluates structures on the MPI processes that run it: ``python -m tests.engines.lammps_worker MODEL FOLDER DTYPE``."""

import json
import sys
from pathlib import Path

import numpy as np

from eqmol.engines.lammps import LammpsPotential, lammps

if __name__ == "__main__":
    model, folder, dtype = sys.argv[1:]
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    first = lmp.get_mpi_comm().rank == 0
    for data in sorted(Path(folder).glob("*.data")):
        setup = json.loads(data.with_suffix(".json").read_text())
        lmp.commands_list(["clear", "units metal", f"boundary {setup['boundary']}", f'read_data "{data}"'])
        LammpsPotential(lmp, model, setup["elements"], 0.5, dtype=dtype, close_contacts="warn", verify=False)
        lmp.command("compute e all pe/atom")
        lmp.commands_list(["thermo_style custom pe pxx pyy pzz pyz pxz pxy vol", "run 0"])
        pressure = [lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy", "vol")]
        result = {
            "energy": lmp.get_thermo("pe"),
            "pressure": pressure,
            "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3),
            "energies": np.array(lmp.gather("c_e", 1, 1)),
        }
        if first:
            np.savez(data.with_suffix(f".{lmp.get_mpi_comm().size}.{dtype}.npz"), **result)
    lmp.close()
