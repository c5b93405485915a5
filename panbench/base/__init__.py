"""Shared foundations of all other packages: errors, files, downloads, text, provenance."""
