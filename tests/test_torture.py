"""A short pass of scripts/check/torture.py: kills, full and read-only disks, two writers, damaged files."""

import os

import pytest

from scripts.check.torture import SCENARIOS, torture


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes that are killed are forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_nothing_is_lost_and_no_number_changes_unsaid_in_a_short_pass():
    tally = torture(seconds=600, seed=1, rounds=1)
    assert tally.broken == []
    assert set(tally.rounds) == set(SCENARIOS)
