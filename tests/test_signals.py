"""A short pass of scripts/check/signals.py: signals at random moments over eval, score, merge, report and export."""

import os
from pathlib import Path

import pytest
from support import python

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check" / "signals.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes that are stopped are forks")
def test_a_stopped_command_leaves_the_old_or_the_new_result_and_can_be_repeated():
    done = python(SCRIPT, "--rounds", "10", "--seed", "1")
    assert done.returncode == 0, done.stdout
