"""Scores stored predictions of any program, without running a model."""
