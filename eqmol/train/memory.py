"""What to say when a batch of training does not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from eqmol.errors import InputError


class OutOfMemoryError(InputError):
    """A batch does not fit into memory; the message names its largest structure and the options to lower."""


@contextmanager
def memory_errors(batch: Any) -> Iterator[None]:
    """Turn the failure of an allocation, on a GPU or in the process, into a sentence about the batch.

    Raises:
        OutOfMemoryError: in place of torch's errors.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        natoms = batch.ptr.diff()
        edges = torch.bincount(batch.batch[batch.edge_index[1]], minlength=len(natoms))
        largest = int(edges.argmax())
        raise OutOfMemoryError(
            f"out of memory on {batch.pos.device} with a batch of {len(natoms)} structures, {int(natoms.sum())} atoms and "
            f"{int(edges.sum())} edges; its largest structure is {batch.source[largest]} with {int(natoms[largest])} atoms "
            f"and {int(edges[largest])} edges; lower data.batch_size, model.cutoff, model.channels or model.degree"
        ) from None
