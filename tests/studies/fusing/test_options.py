"""`eval --keep-candidates`."""

from panbench.evaluation.options import DEFAULTS
from panbench.studies.fusing.options import KeepOptions


def test_the_command_line_keeps_candidates_as_the_evaluation_stores_them():
    assert KeepOptions(keep_candidates=True).settled(DEFAULTS).keep_candidates
    assert KeepOptions().settled(DEFAULTS) is DEFAULTS
