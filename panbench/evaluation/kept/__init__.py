"""What networks answered, kept in runs and asked again: as a model, by other rules. Fusing and ensembles share it."""
