"""The forms in which OC20's frames lie in files."""
