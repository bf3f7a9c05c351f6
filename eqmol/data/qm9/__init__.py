"""QM9: molecules with twelve properties."""
