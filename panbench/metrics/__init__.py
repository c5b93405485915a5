"""Every number is a query on overlap tables. NumPy and pandas only."""
