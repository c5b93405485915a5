"""Reuses the stored network outputs of runs, to fuse them by other rules or combine them in ensembles."""
