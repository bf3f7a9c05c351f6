"""OC20 (Chanussot et al., ACS Catal. 11, 6059 (2021), arXiv:2010.09990): adsorbates on slabs, from raw files to batches.

raw file -> frames (:mod:`readers`, :mod:`frame`) -> shards (:mod:`prepare`, :mod:`shards`) -> graphs (:mod:`graphs`) -> sets
(:mod:`splits`, :mod:`datamodule`). No pickle is ever executed; see :mod:`eqmol.pickles`.
"""
