"""Benchmarks: every speed claim of the documents comes from one of them."""
