"""`eval --tta`: views that cannot be are refused before PyTorch is loaded."""

from support import refuses_without_torch


def test_unknown_views_are_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--tta"]
    refuses_without_torch(
        tmp_path,
        [([*line, "hflip"], "--tta hflip: views are flip"), ([*line, "scales=9"], "scales lie between 0.1 and 4")],
    )
