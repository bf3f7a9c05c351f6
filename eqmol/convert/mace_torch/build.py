"""Make a model of mace-torch: a script for an interpreter that has it.

    python build.py CONFIG.json OUT.model [WEIGHTS.npz]

CONFIG: arguments of ``ScaleShiftMACE``, irreps and blocks by their names. WEIGHTS: parameters and buffers by their names; those
that are left out are random or as mace-torch makes them. Everything is float64.
"""

import json
import sys
from pathlib import Path


def main(config: str, target: str, weights: str | None = None) -> None:
    """Build, fill and save."""
    import numpy as np
    import torch
    from mace import modules

    irreps = modules.models.o3.Irreps  # of the e3nn that mace-torch uses
    torch.set_default_dtype(torch.float64)
    arguments = json.loads(Path(config).read_text())
    for name in ("interaction_cls", "interaction_cls_first"):
        arguments[name] = modules.interaction_classes[arguments[name]]
    for name in ("hidden_irreps", "MLP_irreps"):
        arguments[name] = irreps(arguments[name])
    arguments["atomic_energies"] = np.array(arguments["atomic_energies"])
    model = modules.ScaleShiftMACE(gate=torch.nn.functional.silu, **arguments)
    if weights is not None:
        known = model.state_dict()
        with np.load(weights) as given:
            filled = {name: torch.from_numpy(given[name]).reshape(known[name].shape) for name in given.files}
        model.load_state_dict(known | filled)
    torch.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
