"""The choice of algorithms for a built model: by measurement, and verified against the reference."""

from eqmol.tuning.first_use import at_first_use, settle
from eqmol.tuning.operations import AUTO, apply, backend_of, default_backend, operations, use_kernels

__all__ = ["AUTO", "apply", "at_first_use", "backend_of", "default_backend", "operations", "settle", "use_kernels"]
