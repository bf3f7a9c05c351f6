"""Models of mace-torch, read from their pickled files without unpickling, as models of eqmol that compute the same.

Source of the function: Batatia et al. 2022, arXiv:2206.07697; names and layouts of mace-torch 0.3.16 and e3nn 0.4.4.
"""
