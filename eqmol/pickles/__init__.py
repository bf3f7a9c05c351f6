"""Pickles of tensors, read without unpickling: nothing that a file names is imported or run."""
