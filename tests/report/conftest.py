"""Fixtures of runs to look at."""

from report_runs import make_runs, shared_runs

__all__ = ["make_runs", "shared_runs"]
