"""torch-sim: relaxation and dynamics of many small systems in one graph.

See Cohen et al., AI for Science 1, 025003 (2025) for torch-sim.
"""

import os
from typing import Any

import ase
import numpy as np
import torch
import torch_sim
from torch import Tensor
from torch_sim.models.interface import ModelInterface

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.graph import NeighborList, collate
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import graph_of
from eqmol.models import Potential


class TorchSimModel(ModelInterface):
    """A model for torch-sim. States must be float64, whatever the precision of the network.

    Args:
        path_or_model, backend, device, dtype, skin, verify, close_contacts, kernels, radial_table: see :class:`eqmol.Calculator`.

    Raises:
        InputError: a model without conservative forces, and as the calculator.
    """

    def __init__(
        self,
        path_or_model: str | os.PathLike[str] | Potential,
        backend: str | None = None,
        device: str | torch.device = "cpu",
        dtype: str | None = None,
        skin: float = 0.5,
        verify: bool = True,
        close_contacts: str = "stop",
        kernels: str | None = None,
        radial_table: str | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        model = for_prediction(path_or_model, backend, device, dtype, verify, kernels, radial_table, head)
        if not isinstance(model, Potential) or not model.conservative:
            raise InputError("torch-sim needs energies, forces and stress; give a potential with forces=conservative")
        self.model = model
        self._device = torch.device(device)
        self._dtype = torch.float64
        self._compute_forces = self._compute_stress = True
        self._skin = skin
        self._contacts = guard_of(model, close_contacts)
        self._neighbors: list[NeighborList] = []
        self._known: Tensor | None = None

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Predict.

        Args:
            state: G systems with N atoms: a ``SimState``, or the dict of its fields.

        Returns:
            ``energy`` [G] eV, ``forces`` [N, 3] eV/Å, ``stress`` [G, 3, 3] eV/Å³ (zero for systems that are not periodic in three
            directions), on the device of the state, float64.

        Raises:
            InputError: positions that are not float64, and as :class:`eqmol.Calculator`.
        """
        if isinstance(state, dict):
            state = torch_sim.SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        if state.positions.dtype != torch.float64:
            raise InputError(
                f"the state is {str(state.positions.dtype).removeprefix('torch.')}; make it with dtype=torch.float64, and give "
                "dtype='float32' to the model for a fast network"
            )
        counts = torch.bincount(state.system_idx, minlength=len(state.cell)).tolist()
        layout = torch.stack([state.system_idx, state.atomic_numbers]).cpu()
        if self._known is None or not torch.equal(layout, self._known):
            self._neighbors = [NeighborList(self.model.cutoff, self._skin) for _ in counts]
            self._known = layout
        positions = np.split(state.positions.detach().cpu().numpy(), np.cumsum(counts)[:-1])
        numbers = np.split(state.atomic_numbers.cpu().numpy(), np.cumsum(counts)[:-1])
        cells = state.row_vector_cell.detach().cpu().numpy()
        pbc = np.broadcast_to(np.asarray(torch.as_tensor(state.pbc).cpu()), 3)
        graphs = [
            graph_of(
                self.model, ase.Atoms(*system[:2], cell=system[2], pbc=pbc), f"system {index}", near, self._contacts
            )
            for index, (*system, near) in enumerate(zip(numbers, positions, cells, self._neighbors, strict=True))
        ]
        output = self.model(collate(graphs).to(self._device), forces=True, stress=True)
        found = {name: output[name].to(state.positions.device) for name in ("energy", "forces", "stress")}
        if not bool(found["energy"].isfinite().all() and found["forces"].isfinite().all()):
            raise InputError("energies or forces are not finite; atoms are too close, or far outside the training data")
        return found | {"stress": found["stress"].nan_to_num(0.0)}
