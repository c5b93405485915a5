"""A model of your own: a function from an image to an id map and its segments, in any framework."""

from support import panbench

MODULE = """
import numpy as np

def make():
    def segment(image):                       # (H, W, 3) uint8: red, green, blue
        ids = np.ones(image.shape[:2], int)   # 0 is void
        return ids, [{"id": 1, "category_id": 92}]
    return segment
"""


def test_a_function_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "all_sky.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("eval", "--model", "all_sky:make", "--data", "shapes:64x96", "--limit", 2, "--out", "mine")
    evaluated = panbench(*line, cwd=tmp_path)
    assert evaluated.exit_code == 0, evaluated.output
    assert "Stuff" in evaluated.stdout
