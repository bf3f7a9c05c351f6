"""Your own files, of any kind that ASE reads."""
