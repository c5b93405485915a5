"""`eval --keep-candidates`."""

from panbench.evaluation.options import DEFAULTS
from panbench.studies.fusing.options import KeepOptions


def test_the_command_line_stores_the_same_candidates_as_the_evaluation():
    assert KeepOptions(keep_candidates=True).settled(DEFAULTS).keep_candidates
    assert KeepOptions().settled(DEFAULTS) is DEFAULTS
