"""`eval --keep-candidates`: stored in half precision only where they are stored at all."""

from support import refuses_without_torch

from panbench.evaluation.options import DEFAULTS
from panbench.studies.fusing.options import KeepOptions


def test_half_precision_of_candidates_that_are_not_kept_is_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny"]
    refuses_without_torch(tmp_path, [([*line, "--candidates-fp16"], "Add --keep-candidates")])
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_keeps_candidates_as_the_evaluation_stores_them():
    kept = KeepOptions(keep_candidates=True, candidates_fp16=True).settled(DEFAULTS)
    assert (kept.keep_candidates, kept.half_precision) == (True, True)
    assert KeepOptions().settled(DEFAULTS) is DEFAULTS
