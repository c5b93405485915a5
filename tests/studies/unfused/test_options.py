"""`eval --metrics`: what cannot be measured is refused before PyTorch is loaded."""

import shutil

from support import refuses_without_torch

from panbench.datasets import shapes


def test_metrics_that_cannot_be_measured_are_refused_without_pytorch(tmp_path):
    shapes.generate(tmp_path / "set", count=1, size=(64, 96))
    shutil.copytree(tmp_path / "set" / "val", tmp_path / "photos")
    line = ["eval", "--model", "mask2former-tiny"]
    refuses_without_torch(
        tmp_path,
        [
            ([*line, "--metrics", "mota"], "there is no metric 'mota'"),
            ([*line, "--metrics", "pq=x.json"], "pq takes no file. AP's ground truth is named so: ap=FILE.json."),
            ([*line, "--images", "photos", "--metrics", "ap"], "--metrics ap and miou need ground truth"),
        ],
    )
    assert not (tmp_path / "results").exists()
