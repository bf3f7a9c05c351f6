"""Simulation programs that run an eqmol model: adapters, each of which imports its program where it is used."""
