"""Time and memory of eqmol's tensor products beside e3nn, mace-torch and the published Gaunt code; see docs/benchmarks."""
