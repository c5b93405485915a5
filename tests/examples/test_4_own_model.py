"""A model of your own: a function from an image to an id map and its segments, in any framework; or one config file."""

from support import panbench, ran

from panbench.catalog import configs_folder

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
    evaluated = ran(*line, cwd=tmp_path)
    assert "Stuff" in evaluated.stdout


CONFIG = """
_base_ = "{shipped}/mask2former-tiny.py"
panbench = dict(
    title="Mine", family="mask2former", backbone="R18/16", params=1_083_842, input_size="as is",
    weights="{shipped}/weights/mask2former-tiny.safetensors", trained_on="shapes", published=None,
)
"""


def test_a_config_file_is_a_model(tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG.format(shipped=configs_folder()))
    own = {"PANBENCH_CONFIGS": str(tmp_path)}
    assert "\nmine " in panbench("models", **own).stdout
    line = ("eval", "--model", "mine", "--data", "shapes:64x96", "--limit", 2, "--out", "run")
    evaluated = ran(*line, cwd=tmp_path, **own)
    assert "| Mine " in evaluated.stdout
