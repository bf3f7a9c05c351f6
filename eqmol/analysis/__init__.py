"""What tensor products can express, and what they cost here: ``eqmol report``.

Everything is measured on the operations themselves, evaluated on random inputs through their public contract. Definitions follow
Xie et al. 2025, The Price of Freedom, arXiv:2506.13523.
"""
