"""Bad arguments are refused before PyTorch is loaded: here it cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from panbench.datasets import shapes

TINY = ("--model", "mask2former-tiny")
LINES = {
    "a tta that there is not": (["eval", *TINY, "--tta", "hflip"], "--tta hflip: views are flip"),
    "an unknown device": (["eval", *TINY, "--device", "gpu"], "--device gpu is unknown"),
    "an unknown device for bench": (["bench", *TINY, "--device", "gpu"], "--device gpu is unknown"),
    "an unknown precision": (["eval", *TINY, "--precision", "float16"], "--precision float16 is unknown"),
    "an unknown precision for bench": (
        ["bench", *TINY, "--precision", "fp32,float16"],
        "--precision float16 is unknown",
    ),
    "an unknown rule": (["eval", *TINY, "--rule", "paper,hf"], "There is no fusion rule 'hf'. Rules are panoptic-fpn"),
    "an unknown corruption": (["eval", *TINY, "--corrupt", "fogg"], "Did you mean fog?"),
    "an unknown metric": (["eval", *TINY, "--metrics", "mota"], "there is no metric 'mota'"),
    "a truth of nothing": (["eval", *TINY, "--ap-gt", "x.json"], "--ap-gt is the ground truth of AP"),
    "categories that cannot fit": (["eval", *TINY, "--data", "other"], "have different categories"),
    "corruptions without truth": (
        ["eval", *TINY, "--images", "photos", "--corrupt", "fog"],
        "--corrupt needs ground truth",
    ),
    "metrics without truth": (["eval", *TINY, "--images", "photos", "--metrics", "ap"], "--metrics ap and miou need"),
    "no photograph": (["predict", "nophoto.jpg", *TINY], "There is no image nophoto.jpg"),
    "attention without queries": (
        ["show", "attention", "--model", "panoptic-fpn-tiny", "--photo", "photo.jpg"],
        "Panoptic FPN tiny has no queries, so no attention to show",
    ),
}

PROGRAM = """
import json, sys
for name in ("torch", "torchvision", "mmdet", "mmengine", "mmcv"):
    sys.modules[name] = None
from typer.testing import CliRunner
from panbench.cli.app import app
answers = {}
for what, line in json.load(sys.stdin).items():
    found = CliRunner().invoke(app, line, env={"COLUMNS": "1000"})
    answers[what] = [found.exit_code, found.stderr]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """The exit code and the words of each command line, all asked in one process without torch."""
    folder = tmp_path_factory.mktemp("lines")
    shapes.generate(folder / "other", count=1, size=(64, 96))
    (json_file,) = (folder / "other" / "annotations").glob("panoptic_val.json")
    json_file.write_text(json_file.read_text().replace('"ball"', '"balloon"'))
    photo = next(path for path in (folder / "other" / "val").iterdir())
    (folder / "photos").mkdir()
    for place in (folder / "photos" / "photo.jpg", folder / "photo.jpg"):
        place.write_bytes(photo.read_bytes())
    lines = json.dumps({what: line for what, (line, _) in LINES.items()})
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=lines,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(root), "PANBENCH_CACHE": str(folder / "cache"), "PATH": ""},
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert not (folder / "results").exists()
    return json.loads(finished.stdout)


@pytest.mark.parametrize("what", LINES)
def test_a_bad_argument_is_refused_without_pytorch(what, answers):
    code, words = answers[what]
    assert LINES[what][1] in words
    assert (code, words.count("Error: ")) == (2, 1)
