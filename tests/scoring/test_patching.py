"""Under the names of panopticapi and of mmdet's metric: the dictionaries and numbers of the originals."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import panbench
from panbench.panoptic.coco import read_id_png

panopticapi = pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")

REFERENCE = Path(__file__).parent.parent / "reference"


# What is patched has mmdet's metric among it, which brings PyTorch.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """panopticapi adds up the sums of each core; on one it adds image by image, as panbench does."""
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)


@pytest.fixture(params=["pq_edges", "pq_scenes"])
def folder(request, tmp_path):
    return Path(shutil.copytree(REFERENCE / request.param, tmp_path / request.param))


def pq_compute(folder: Path):
    return panopticapi.pq_compute(str(folder / "gt.json"), str(folder / "pred.json"))


def test_pq_compute_gives_the_same_dictionary(folder):
    original = pq_compute(folder)
    before = sorted(folder.rglob("*"))
    with panbench.patch_panopticapi() as patched:
        assert "panopticapi.evaluation.pq_compute" in patched.names
        assert pq_compute(folder) == original
    assert sorted(folder.rglob("*")) == before


def test_patching_ends_with_the_block_and_prints_nothing(folder, capsys):
    original = panopticapi.pq_compute
    with panbench.patch_panopticapi() as patched:
        assert panopticapi.pq_compute is not original
        pq_compute(folder)
        with panbench.patch_panopticapi() as again:
            assert "panopticapi.evaluation.pq_compute" not in again.names
        assert panopticapi.pq_compute is not original
    assert capsys.readouterr().out == ""
    assert panopticapi.pq_compute is original
    assert patched.names == ()


def test_patching_ends_after_an_error(folder):
    original = panopticapi.pq_compute
    with pytest.raises(panbench.PanbenchError), panbench.patch_panopticapi():
        panopticapi.pq_compute(str(folder / "gt.json"), str(folder / "nothing.json"))
    assert panopticapi.pq_compute is original


def test_extra_predictions_are_ignored_and_missing_ones_are_an_error(folder):
    truth = json.loads((folder / "gt.json").read_text())
    left_out = truth["annotations"].pop()
    (folder / "gt.json").write_text(json.dumps(truth))
    original = pq_compute(folder)
    with panbench.patch_panopticapi():
        assert pq_compute(folder) == original
        pred = json.loads((folder / "pred.json").read_text())
        pred["annotations"] = [
            each for each in pred["annotations"] if each["image_id"] != truth["annotations"][0]["image_id"]
        ]
        (folder / "pred.json").write_text(json.dumps(pred))
        with pytest.raises(panbench.PanbenchError):
            pq_compute(folder)
    assert left_out


def mmdet_metric():
    """The module of the metric; with mmcv-lite it is imported after its operators' stand-ins."""
    operators = pytest.importorskip("panbench.models.mmdet.operators", reason="mmdet is not installed")
    operators.install()
    return importlib.import_module("mmdet.evaluation.metrics.coco_panoptic_metric")


class MmdetMetric:
    """mmdet's CocoPanopticMetric over a reference folder, as its test loop calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        truth = json.loads((folder / "gt.json").read_text())
        for image in truth["images"]:
            image["file_name"] = f"{image['id']:012}.jpg"
        self.names = {each["image_id"]: each["file_name"] for each in truth["annotations"]}
        for each in truth["annotations"]:
            target = folder / "truth" / f"{each['image_id']:012}.png"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder / "gt" / each["file_name"], target)
            each["file_name"] = target.name
        self.categories = truth["categories"]
        self.json = folder / "truth.json"
        self.json.write_text(json.dumps(truth))
        self.pred = {each["image_id"]: each for each in json.loads((folder / "pred.json").read_text())["annotations"]}

    def __call__(self, outfile_prefix: str | None) -> dict[str, float]:
        from mmdet.evaluation.metrics import CocoPanopticMetric

        metric = CocoPanopticMetric(
            ann_file=str(self.json), seg_prefix=str(self.folder / "truth"), outfile_prefix=outfile_prefix
        )
        names = [each["name"] for each in self.categories]
        metric.dataset_meta = {
            "classes": names,
            "thing_classes": [each["name"] for each in self.categories if each["isthing"]],
            "stuff_classes": [each["name"] for each in self.categories if not each["isthing"]],
        }
        label_of = {each["id"]: label for label, each in enumerate(self.categories)}
        for image_id, record in self.pred.items():
            ids = read_id_png(self.folder / "pred" / record["file_name"])
            coded = np.full(ids.shape, len(names), np.int64)
            for number, segment in enumerate(record["segments_info"], start=1):
                coded[ids == segment["id"]] = number * 1000 + label_of[segment["category_id"]]
            sample = {
                "img_id": image_id,
                "img_path": f"{image_id:012}.jpg",
                "ori_shape": ids.shape,
                "pred_panoptic_seg": {"sem_seg": _Tensor(coded[None])},
            }
            metric.process({}, [sample])
        return metric.evaluate(size=len(self.pred))


class _Tensor(np.ndarray):
    def __new__(cls, values):
        return np.asarray(values).view(cls)

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [None, "out"])
def test_mmdets_metric_gives_the_same_numbers(prefix, tmp_path):
    mmdet_metric()
    metric = MmdetMetric(Path(shutil.copytree(REFERENCE / "pq_scenes", tmp_path / "pq_scenes")))
    where = None if prefix is None else str(tmp_path / prefix / "x")
    original = metric(where)
    with panbench.patch_panopticapi() as patched:
        assert len(patched.names) == 3
        assert metric(where) == original
    assert original["coco_panoptic/PQ"] > 0


def test_files_of_other_backends_use_the_original(monkeypatch):
    metric = mmdet_metric()
    asked = []
    for name in ("pq_compute_single_core", "pq_compute_multi_core"):
        monkeypatch.setattr(metric, name, lambda *arguments: asked.append(arguments[-2]))
    with panbench.patch_panopticapi():
        metric.pq_compute_single_core(0, [], "a", "b", {}, {"backend": "petrel"})
        metric.pq_compute_multi_core([], "a", "b", {}, backend_args={"backend": "petrel"})
    assert asked == [{"backend": "petrel"}] * 2
