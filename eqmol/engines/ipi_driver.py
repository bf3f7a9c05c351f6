"""i-PI: a driver for its socket (``i-pi-driver-py``) and for its own process (``<ffdirect>``), both of mode ``custom``.

i-PI loads this file by its path, which ``eqmol engines`` prints. See Litman et al., J. Chem. Phys. 161, 062504 (2024) for i-PI.
"""

from typing import Any

import ase
import numpy as np
from ipi.pes._ase import ASEDriver
from ipi.utils.softexit import softexit
from numpy.typing import NDArray

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.inference.structures import predict
from eqmol.models import Potential

__DRIVER_NAME__ = "eqmol"
__DRIVER_CLASS__ = "EqmolDriver"

Array = NDArray[np.float64]


class EqmolDriver(ASEDriver):
    """A model as i-PI's potential; beads and replicas of a batch (``batch_size`` of ``<ffdirect>``) are one graph.

    Args:
        model: a model file.
        template: file of one structure with the elements, in i-PI's order.
        backend, device, dtype, close_contacts: see :class:`eqmol.Calculator`.
        others: of i-PI.

    Raises:
        InputError: a model without conservative forces.
    """

    def __init__(
        self,
        model: str,
        template: str,
        backend: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        close_contacts: str = "stop",
        head: str | None = None,
        **others: Any,
    ) -> None:
        potential = for_prediction(model, backend, device, dtype, head=head)
        if not isinstance(potential, Potential) or not potential.conservative:
            raise InputError(
                f"{model} has no energies, forces and stress; give i-PI a potential with forces=conservative"
            )
        self._model = potential
        self._close_contacts = close_contacts
        super().__init__(template, **others)

    def compute(self, cell: Array | list[Array], pos: Array | list[Array]) -> Any:
        """Energy, forces, virial and "" in atomic units, or a list of them, of cells [3, 3] and positions [N, 3].

        An error ends i-PI, which otherwise would wait for ever.
        """
        several = isinstance(cell, list)
        try:
            structures = [self._structure(*one) for one in (zip(cell, pos, strict=True) if several else [(cell, pos)])]
            found = predict(
                structures, self._model, batch_size=len(structures), verify=False, close_contacts=self._close_contacts
            )
            results = [self.post_process(result, atoms) for result, atoms in zip(found, structures, strict=True)]
        except Exception as error:
            softexit.trigger("bad", f"eqmol: {error}")
            raise
        return results if several else results[0]

    def post_process(self, properties: dict[str, Any], structure: ase.Atoms) -> tuple[Any, ...]:
        """What i-PI takes of a prediction; the virial is zero where a structure is not periodic in three directions."""
        stress = properties.get("stress", np.zeros((3, 3)))
        return super().post_process(
            {name: properties[name] for name in ("energy", "forces")} | {"stress": stress}, structure
        )

    def _structure(self, cell: Array, positions: Array) -> ase.Atoms:
        atoms = self.template_ase.copy()
        rows, atoms.positions = self.convert_units(cell, positions)
        atoms.set_cell(rows)
        return atoms
