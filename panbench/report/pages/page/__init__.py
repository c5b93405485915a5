"""The report page: one HTML file with tables, charts and examples."""
