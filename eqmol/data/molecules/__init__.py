"""Molecules of one's own with properties, from a table or an SDF."""
