"""Molecules as chemists write them, by RDKit: SMILES, SDF, conformers, atomic descriptors."""
