"""Fixtures of runs to look at, and of a browser to look at pages."""

from browsing import _kept, browser, open_report, read_report, report, same_report
from report_runs import make_runs, shared_runs

__all__ = ["_kept", "browser", "make_runs", "open_report", "read_report", "report", "same_report", "shared_runs"]
