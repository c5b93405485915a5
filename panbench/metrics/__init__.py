"""Computes every number from overlap tables, with NumPy, SciPy and pandas only."""
