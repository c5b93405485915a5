"""PQ as a metric of torchmetrics: the same numbers as panopticapi, on one process and on several."""

import copy
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
from little_runs import images_of
from support import python

from panbench.base.extras import install_line

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

import numpy as np
import torch

from panbench.base.errors import BadArgument
from panbench.scoring.torchmetrics import PanopticQuality

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "reference" / "pq_scenes"
EXPECTED = json.loads((FOLDER / "expected_one_core.json").read_text())
PERSON = [{"id": 1, "name": "person", "isthing": 1}]
DOT = torch.tensor([[5, 5, 0]]), [{"id": 5, "category_id": 1, "area": 2}]

# Each of two processes takes every second image, and at last one that the other has had, to fill up its batch.
ON_TWO = """
import json, sys
import torch.distributed
from test_torchmetrics import CATEGORIES, IMAGES, PanopticQuality
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
empty, metric = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
for image in (IMAGES + IMAGES[1::-1])[rank::2]:
    metric.update(*image)
if rank == 1:
    empty.update(*IMAGES[0])
found = [{name: value.item() for name, value in each.compute().items()} for each in (metric, empty)]
if rank == 0:
    with metric.sync_context():
        images = len(metric.evaluator())
    print(json.dumps([found, images, len(metric.evaluator())]))
else:
    with metric.sync_context():
        pass
torch.distributed.destroy_process_group()
"""


CATEGORIES = json.loads((FOLDER / "gt.json").read_text())["categories"]
IMAGES = [(torch.from_numpy(pred), found, torch.from_numpy(gt), *true) for pred, found, gt, *true in images_of(FOLDER)]


def numbers(metric: PanopticQuality) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def expected() -> dict[str, float]:
    suffixes = {"All": "", "Things": "_th", "Stuff": "_st"}
    return {
        f"{name}{suffix}": EXPECTED[group][name.lower()]
        for group, suffix in suffixes.items()
        for name in ("PQ", "SQ", "RQ")
    }


def test_torchmetrics_numbers_equal_panopticapis_bit_for_bit():
    metric = PanopticQuality(CATEGORIES)
    for image in IMAGES:
        metric.update(*image)
    assert numbers(metric) == expected()
    assert len(metric.evaluator()) == len(IMAGES)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    finished = python(*launcher, sys.executable, "-c", ON_TWO, env=environment)
    assert finished.returncode == 0, finished.stderr
    (all_images, of_one_rank), together, alone = json.loads(finished.stdout.strip().splitlines()[-1])
    assert all_images == expected()
    one = PanopticQuality(CATEGORIES)
    one.update(*IMAGES[0])
    assert of_one_rank == pytest.approx(numbers(one), nan_ok=True)
    assert (together, alone) == (len(IMAGES), len(IMAGES[::2]) + 1)


def test_a_step_returns_its_own_pq_and_adds_to_the_total():
    metric = PanopticQuality(PERSON)
    assert metric(*DOT, *DOT, image_id=1)["PQ"] == 1
    step = metric(torch.zeros((1, 3), dtype=torch.int64), [], *DOT, image_id=2)
    assert step["PQ"] == 0
    assert metric.compute()["PQ"] == pytest.approx(1 / 1.5)
    assert np.isnan(metric.compute()["PQ_st"].item())


def test_reset_copy_and_pickle_keep_the_categories():
    metric = PanopticQuality(PERSON)
    metric.update(*DOT, *DOT)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(metric)))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert np.isnan(metric.compute()["PQ"].item())
    metric.update(*DOT, *DOT)
    assert twin.compute()["PQ"] == metric.compute()["PQ"] == 1


def test_a_wrong_argument_is_named():
    metric = PanopticQuality(PERSON)
    with pytest.raises(BadArgument, match="pred_segments lists ids that pred_ids lacks: 5"):
        metric.update(torch.zeros((1, 3), dtype=torch.int64), DOT[1], *DOT)
    with pytest.raises(BadArgument, match="categories is empty"):
        PanopticQuality([])


def test_without_torchmetrics_the_error_names_the_extra():
    code = "import sys; sys.modules['torchmetrics'] = None; import panbench.scoring.torchmetrics"
    finished = python("-c", code, cwd=ROOT)
    assert finished.returncode == 1
    assert install_line("torchmetrics") in finished.stderr
