"""`eval --log`: what cannot be logged to is refused before PyTorch is loaded."""

from support import refuses_without_torch


def test_a_tracker_that_there_is_not_is_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny"]
    refuses_without_torch(tmp_path, [([*line, "--log", "visdom"], "There is no tracker 'visdom'")])
    assert list(tmp_path.iterdir()) == []
