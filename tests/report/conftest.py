"""Fixtures of runs to look at, and of a browser to look at pages."""

from browsing import browser, open_report, read_report, report
from report_runs import make_runs, shared_runs

__all__ = ["browser", "make_runs", "open_report", "read_report", "report", "shared_runs"]
