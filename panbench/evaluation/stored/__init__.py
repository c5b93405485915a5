"""Uses stored network outputs of runs again: as a model, or with other rules. For fusing and ensembles."""
