"""Model files: tensors and a recipe, readable without running anything that the file says."""

from eqmol.checkpoint.file import as_device, as_dtype, build, for_prediction, load, plain, save
from eqmol.checkpoint.header import read_header
from eqmol.ops.contract import default_dtype

__all__ = ["as_device", "as_dtype", "build", "default_dtype", "for_prediction", "load", "plain", "read_header", "save"]
