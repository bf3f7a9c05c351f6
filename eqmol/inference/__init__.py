"""From a model and structures to predictions: the calculator, files, molecules, evaluation servers."""
