"""`eval --corrupt`: what cannot be corrupted is refused before PyTorch is loaded, and before any run."""

import shutil

from support import refuses_without_torch

from panbench.datasets import shapes


def test_unusable_corruptions_are_refused_without_pytorch(tmp_path):
    shapes.generate(tmp_path / "set", count=1, size=(64, 96))
    shutil.copytree(tmp_path / "set" / "val", tmp_path / "photos")
    line = ["eval", "--model", "mask2former-tiny"]
    refuses_without_torch(
        tmp_path,
        [
            ([*line, "--corrupt", "fogg"], "Did you mean fog?"),
            ([*line, "--images", "photos", "--corrupt", "fog"], "--corrupt needs ground truth"),
        ],
    )
    assert not (tmp_path / "results").exists()
