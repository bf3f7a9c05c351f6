"""What is wrong with data, before a model is trained on them: ``eqmol doctor``."""
