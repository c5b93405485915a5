"""A folder of predictions becomes a run, with panopticapi's numbers, or is refused with all that is wrong in one go."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from little_runs import write_side
from PIL import Image
from support import Recorder, python

from panbench.base.errors import BadArgument, BadDataset, BadRun, OutOfSpace, PredictionMismatch
from panbench.panoptic import native
from panbench.panoptic.idmap import encode_id_png
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.runs import RunInfo, RunWriter, SummaryRecord, load_run
from panbench.scoring.folder import as_json, score_folder

REFERENCE = Path(__file__).parents[1] / "reference"
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "human"},
    {"id": 92, "name": "sky", "isthing": 0, "supercategory": "outdoor"},
]
GT = np.array([[0, 7, 7], [8, 8, 7]], np.int32)
PRED = np.array([[5, 5, 5], [6, 6, 5]], np.int32)


class Folder:
    """Ground truth and predictions of some images on disk, all alike, to be spoiled."""

    def __init__(self, path: Path, image_ids: list[int]) -> None:
        self.path = path
        self.gt = {"images": [], "annotations": [], "categories": CATEGORIES}
        self.pred = {"annotations": []}
        for image_id in image_ids:
            self.gt["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": 2, "width": 3})
            self.gt["annotations"].append(self.record(image_id, [(7, 1, 3), (8, 92, 2)]))
            self.pred["annotations"].append(self.record(image_id, [(5, 1, 4), (6, 92, 2)]))
            self.write("gt", image_id, GT)
            self.write("pred", image_id, PRED)

    @staticmethod
    def record(image_id: int, segments: list[tuple[int, int, int]]) -> dict:
        info = [{"id": id_, "category_id": category, "area": area, "iscrowd": 0} for id_, category, area in segments]
        return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": info}

    def write(self, side: str, image_id: int, ids: np.ndarray) -> None:
        (self.path / side).mkdir(parents=True, exist_ok=True)
        (self.path / side / f"{image_id}.png").write_bytes(encode_id_png(ids))

    def write_all(self, side: str, ids_of: Callable[[int], np.ndarray]) -> None:
        for image in self.gt["images"]:
            self.write(side, image["id"], ids_of(image["id"]))

    def score(self, **options):
        for side in ("gt", "pred"):
            (self.path / f"{side}.json").write_text(json.dumps(getattr(self, side)))
        return score_folder(self.path / "gt.json", self.path / "pred.json", **options)

    def refused(self, error: type[Exception], **options) -> list[str]:
        """The sentences of the refusal, paths inside the folder made short."""
        before = sorted(self.path.rglob("*.parquet"))
        with pytest.raises(error) as caught:
            self.score(**options)
        assert sorted(self.path.rglob("*.parquet")) == before
        return str(caught.value).replace(f"{self.path}/", "").splitlines()


def segments_of(side: dict) -> list[dict]:
    return [segment for record in side["annotations"] for segment in record["segments_info"]]


def label_in_turn(side: dict, first: int) -> None:
    """Gives the segments of a side six labels in turn, counted from `first`."""
    for place, segment in enumerate(segments_of(side)):
        segment["category_id"] = first + place % 6


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path, [1, 2, 3])


class TestNumbers:
    @pytest.mark.parametrize("name", ["pq_edges", "pq_scenes"])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_numbers_equal_panopticapis(self, name, threads):
        expected = json.loads((REFERENCE / name / "expected.json").read_text())
        run = score_folder(REFERENCE / name / "gt.json", REFERENCE / name / "pred.json", threads=threads)
        found = as_json(run)
        for group in ("All", "Things", "Stuff"):
            for key in ("PQ", "SQ", "RQ", "n"):
                assert found[group][key] == pytest.approx(expected[group][key.lower()], rel=0, abs=1e-9)
        assert list(found["per_category"]) == list(expected["per_class"])
        for category_id, answer in expected["per_class"].items():
            for key in ("PQ", "SQ", "RQ"):
                assert found["per_category"][category_id][key] == pytest.approx(answer[key.lower()], rel=0, abs=1e-9)

    def test_json_has_plain_and_complete_numbers(self, folder):
        for record in folder.gt["annotations"] + folder.pred["annotations"]:
            record["segments_info"] = [segment for segment in record["segments_info"] if segment["category_id"] == 1]
        folder.write_all("gt", lambda _: np.where(GT == 8, 0, GT))
        folder.write_all("pred", lambda _: np.where(PRED == 6, 0, PRED))
        found = as_json(folder.score())
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["Things"] == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "n": 1}
        assert found["Stuff"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
        assert found["per_category"] == {
            "1": {"name": "person", "isthing": True, "PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "TP": 3, "FP": 0, "FN": 0},
            "92": {"name": "sky", "isthing": False, "PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "TP": 0, "FP": 0, "FN": 0},
        }

    def test_a_missing_library_is_noticed_once(self, folder, monkeypatch, tmp_path):
        recorder = Recorder()
        folder.score(reporter=recorder)
        assert recorder.notices == []
        monkeypatch.setattr(native, "_loaded", [])
        monkeypatch.setattr(native, "_LIBRARY", tmp_path / "_idmap.so")
        folder.score(reporter=recorder)
        (message,) = recorder.notices
        assert message.startswith(f"Scoring runs without compiled code, several times slower: {tmp_path}/_idmap.so")

    def test_areas_unlike_the_pngs_are_reported(self, folder):
        folder.gt["annotations"][1]["segments_info"][0]["area"] = 100
        recorder = Recorder()
        assert folder.score(reporter=recorder).info.images.gt_faults.areas_differ == 1
        (message,) = recorder.notices
        assert "segment 7 has 3 pixels in the PNG and area 100 in the JSON" in message
        assert "`panbench data convert panoptic GT.json" in message

    def test_numbers_do_not_depend_on_compiled_code(self, monkeypatch):
        jsons = REFERENCE / "pq_scenes" / "gt.json", REFERENCE / "pq_scenes" / "pred.json"
        compiled = score_folder(*jsons, boundary=True)
        monkeypatch.setattr("panbench.panoptic.idmap.native", lambda: None)
        plain = score_folder(*jsons, boundary=True)
        pd.testing.assert_frame_equal(plain.overlaps(), compiled.overlaps())
        pd.testing.assert_frame_equal(plain.boundary(), compiled.boundary())

    def test_a_set_without_images_has_no_numbers(self, tmp_path):
        (tmp_path / "gt").mkdir()
        (tmp_path / "pred").mkdir()
        assert as_json(Folder(tmp_path, []).score())["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}


class TestRun:
    def test_a_scored_run_is_stored_like_any_other(self, folder):
        run = folder.score(out=folder.path / "results" / "mine", boundary=True)
        stored = load_run(folder.path / "results" / "mine")
        assert as_json(stored) == as_json(run)
        assert stored.info.summary == SummaryRecord.of({key: as_json(run)[key] for key in ("All", "Things", "Stuff")})
        assert (stored.name, stored.info.kind, stored.info.status) == ("mine", "score", "done")
        assert stored.info.model is None
        assert stored.info.images.expected == stored.info.images.scored == 3
        assert stored.info.dataset.n_images == 3
        assert stored.info.dataset.gt_dir == str(folder.path / "gt")
        assert stored.info.seconds.forward is None
        assert stored.info.seconds.wall > 0
        assert len(stored.boundary()) > 0
        assert stored.overlaps()["pixels"].sum() == 18

    def test_a_run_in_memory_has_the_same_tables(self, folder):
        kept, stored = folder.score(), folder.score(out=folder.path / "out")
        pd.testing.assert_frame_equal(kept.segments(), stored.segments())
        pd.testing.assert_frame_equal(kept.overlaps(), stored.overlaps())
        assert (kept.path, kept.info.status) == (None, "done")

    def test_an_existing_run_is_refused_before_any_work(self, folder):
        RunWriter.create(folder.path / "out", RunInfo())
        (folder.path / "gt" / "1.png").unlink()
        with pytest.raises(BadRun, match="holds another run"):
            folder.score(out=folder.path / "out")

    def test_an_existing_run_is_replaced_on_request(self, folder):
        folder.score(out=folder.path / "out")
        folder.score(out=folder.path / "out", overwrite=True)
        assert load_run(folder.path / "out").image_ids() == (1, 2, 3)

    def test_an_existing_run_is_kept_if_the_new_one_is_refused(self, folder):
        folder.score(out=folder.path / "out")
        (folder.path / "pred" / "2.png").unlink()
        folder.refused(PredictionMismatch, out=folder.path / "out", overwrite=True)
        assert load_run(folder.path / "out").image_ids() == (1, 2, 3)

    def test_an_unwritable_run_is_reported(self, folder, monkeypatch):
        def full(self, table, rank=0, files=None):
            raise OutOfSpace("No space left.")

        monkeypatch.setattr(RunWriter, "write_part", full)
        with pytest.raises(OutOfSpace):
            folder.score(out=folder.path / "out")
        info = load_run(folder.path / "out").info
        assert (info.status, info.error) == ("failed", "No space left.")

    def test_progress_is_reported_to_the_end(self, tmp_path):
        recorder = Recorder()
        Folder(tmp_path, list(range(1, 41))).score(reporter=recorder)
        assert recorder.counts == [("Scoring", done, 40, "images") for done in (16, 32, 40)]


class TestJsonsThatDoNotFit:
    def test_missing_predictions_are_all_named(self, folder):
        del folder.pred["annotations"][1:]
        assert folder.refused(PredictionMismatch) == [
            "pred.json has no prediction for 2 of 3 images: 2, 3. "
            "Add them, or score them as empty with --allow-missing."
        ]

    def test_missing_predictions_can_be_scored_as_empty(self, folder):
        del folder.pred["annotations"][1:]
        run = folder.score(allow_missing=True)
        assert run.pq()[["TP", "FP", "FN"]].to_numpy().tolist() == [[1, 0, 2], [1, 0, 2]]
        assert run.image_ids() == (1, 2, 3)
        assert (run.info.images.missing, run.info.images.missing_ids) == (2, (2, 3))

    def test_missing_predictions_of_all_images_can_be_scored_as_empty(self, folder):
        folder.pred["annotations"] = []
        assert folder.score(allow_missing=True).pq()["FN"].tolist() == [3, 3]

    def test_extra_predictions_are_all_named(self, folder):
        del folder.gt["annotations"][1:]
        assert folder.refused(PredictionMismatch) == [
            "pred.json has predictions for images that gt.json lacks (2): 2, 3. "
            "Remove them, or leave them out with --ignore-extra."
        ]

    def test_extra_predictions_can_be_left_out(self, folder):
        del folder.gt["annotations"][1:]
        run = folder.score(ignore_extra=True)
        assert (run.image_ids(), len(run.segments()), run.info.images.extra) == ((1,), 4, 2)

    @pytest.mark.parametrize("options", [{}, {"ignore_extra": True}, {"allow_missing": True}])
    def test_predictions_of_another_split_are_recognized(self, folder, options):
        for record in folder.pred["annotations"]:
            record["image_id"] += 1000
        assert folder.refused(PredictionMismatch, **options) == [
            "These are predictions of another set: 0 of the 3 images of gt.json are in pred.json (ground truth: 1, 2, "
            "3; predictions: 1001, 1002, 1003). Give the ground truth of their split; ids that were numbered anew "
            "have to be the dataset's own."
        ]

    def test_a_shared_id_by_chance_does_not_hide_that_predictions_are_of_another_split(self, folder):
        for record in folder.pred["annotations"][1:]:
            record["image_id"] += 1000
        cause, missing, extra = folder.refused(PredictionMismatch)
        assert cause.startswith(
            "Likely cause: predictions of another set: 1 of the 3 images of gt.json is in pred.json"
        )
        assert missing.startswith("pred.json has no prediction for 2 of 3 images: 2, 3.")
        assert extra.startswith("pred.json has predictions for images that gt.json lacks (2): 1002, 1003.")

    def test_empty_predictions_are_not_taken_for_another_set(self, folder):
        folder.pred["annotations"] = []
        assert folder.refused(PredictionMismatch) == ["pred.json has no prediction for any of the 3 images of gt.json."]

    def test_unknown_categories_are_all_named(self, folder):
        folder.pred["annotations"][0]["segments_info"][0]["category_id"] = 5
        folder.pred["annotations"][2]["segments_info"][1]["category_id"] = 6
        assert folder.refused(PredictionMismatch) == [
            "pred.json uses category ids that gt.json does not list: image 1: 5; image 3: 6. "
            "Write the dataset's own category ids."
        ]

    def test_a_name_that_leaves_the_folder_is_refused(self, folder):
        folder.pred["annotations"][0]["file_name"] = "../gt/1.png"
        (message,) = folder.refused(BadDataset)
        assert "annotations[0] (image 1).file_name is '../gt/1.png', which leaves its folder" in message

    def test_a_missing_folder_is_named(self, folder):
        shutil.rmtree(folder.path / "pred")
        (message,) = folder.refused(BadDataset)
        assert message.startswith("There is no folder ")
        assert "predicted id PNGs" in message
        run_elsewhere = folder.path / "elsewhere"
        shutil.copytree(folder.path / "gt", run_elsewhere)
        assert "Predicted PNGs have ids" in folder.refused(PredictionMismatch, pred_dir=run_elsewhere)[0]

    def test_zero_threads_are_refused(self, folder):
        with pytest.raises(BadArgument, match="at least 1, not 0"):
            folder.score(threads=0)


class TestTheWrongGroundTruth:
    """What happens to a whole set has one sentence a kind, ten images at most, and its likely cause."""

    @pytest.fixture
    def set_of_30(self, tmp_path):
        return Folder(tmp_path, list(range(1, 31)))

    def test_many_missing_predictions_are_counted(self, set_of_30):
        del set_of_30.pred["annotations"][5:]
        assert set_of_30.refused(PredictionMismatch) == [
            "pred.json has no prediction for 25 of 30 images: 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 15 more. "
            "Add them, or score them as empty with --allow-missing."
        ]

    def test_many_missing_pngs_are_one_message(self, set_of_30):
        for path in (set_of_30.path / "pred").iterdir():
            path.unlink()
        (message,) = set_of_30.refused(PredictionMismatch)
        assert message.startswith("30 predicted PNGs have the same fault, images 1, 2, 3,")
        assert message.endswith(
            "and 20 more. The first: pred/1.png (image 1) was not found. Check the folder of id PNGs."
        )

    def test_predictions_of_other_sizes_are_reported_as_of_other_images(self, set_of_30):
        set_of_30.write_all("pred", lambda image_id: np.tile(PRED, (1, 1 + image_id % 3)).T.copy())
        cause, message = set_of_30.refused(PredictionMismatch)
        assert message.startswith("30 predicted PNGs have the same fault")
        assert cause.startswith("Likely cause: the predictions are of other images")

    def test_pngs_of_another_set_are_named_by_their_folder(self, set_of_30):
        set_of_30.write_all("pred", lambda _: PRED + 100)
        cause, unlisted, absent = set_of_30.refused(PredictionMismatch)
        assert unlisted.count("image ") == absent.count("image ") == 10
        assert "; and 20 more images. List each id" in unlisted
        assert cause.startswith(
            "Likely cause: no segment of pred.json is in the PNGs of pred. Is that the folder of other"
        )

    def test_pngs_of_another_ground_truth_are_refused(self, set_of_30):
        set_of_30.write_all("gt", lambda _: PRED + 100)
        (message,) = set_of_30.refused(BadDataset)
        assert "segments of gt.json is in the PNGs of gt: that is the folder of another set." in message
        assert "--gt-dir" in message

    def test_labels_from_0_where_the_categories_count_from_1_are_named_as_the_cause(self, set_of_30):
        set_of_30.gt["categories"] = [{"id": 1 + place, "name": f"c{place}", "isthing": 1} for place in range(6)]
        label_in_turn(set_of_30.gt, 1)
        label_in_turn(set_of_30.pred, 0)
        cause, _ = set_of_30.refused(PredictionMismatch)
        assert cause.startswith("Likely cause: the predictions have labels counted from 0, and gt.json has category")

    def test_category_ids_of_another_dataset_or_labels_are_recognized(self, set_of_30):
        far = [{**category, "id": category["id"] + 1000} for category in CATEGORIES]
        more = [{"id": 2000 + place, "name": f"c{place}", "isthing": 1} for place in range(8)]
        set_of_30.gt["categories"] = far + more
        for segment in segments_of(set_of_30.gt):
            segment["category_id"] += 1000
        label_in_turn(set_of_30.pred, 0)
        cause, unknown = set_of_30.refused(PredictionMismatch)
        assert unknown.count("image ") == 10
        assert cause.startswith(
            "Likely cause: the predictions have labels counted from 0, and gt.json has category ids up to"
        )
        label_in_turn(set_of_30.pred, 50)
        assert set_of_30.refused(PredictionMismatch)[0].startswith("Likely cause: the two are of different datasets")

    def test_a_ground_truth_with_scores_may_be_the_predictions(self, folder):
        for segment in segments_of(folder.gt):
            segment["score"] = 0.5
        recorder = Recorder()
        folder.score(reporter=recorder)
        assert "are the two swapped?" in recorder.notices[0]


class TestPngsThatDoNotFit:
    def test_ids_missing_in_json_or_png_are_all_named(self, folder):
        folder.write("pred", 1, np.where(PRED == 6, 9, PRED))
        folder.write("pred", 3, np.where(PRED == 5, 11, PRED))
        assert folder.refused(PredictionMismatch) == [
            "Predicted PNGs have ids that their JSON lacks: image 1: 9; image 3: 11. List each id of the PNG.",
            "Predicted segments of the JSON are not in their PNG: image 1: 6; image 3: 5. Remove them from the JSON.",
        ]

    def test_everything_wrong_is_named_at_once(self, folder):
        del folder.pred["annotations"][2]
        (folder.path / "pred" / "1.png").unlink()
        folder.write("pred", 2, np.where(PRED == 6, 9, PRED))
        assert [message.split(":")[0] for message in folder.refused(PredictionMismatch)] == [
            "pred.json has no prediction for 1 of 3 images",
            "pred/1.png (image 1) was not found. Check the folder of id PNGs.",
            "Predicted PNGs have ids that their JSON lacks",
            "Predicted segments of the JSON are not in their PNG",
        ]

    def test_a_png_of_another_size_is_refused(self, folder):
        folder.write("pred", 2, PRED.T.copy())
        assert folder.refused(PredictionMismatch) == [
            "pred/2.png (image 2) is 3×2 but its ground truth is 2×3 (height × width). "
            "Write predictions at the image's original size."
        ]

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda path: Image.fromarray(PRED.astype(np.uint8)).convert("P").save(path), "is an 8-bit palette PNG"),
            (lambda path: Image.fromarray(PRED.astype(np.uint8)).save(path), "is an 8-bit grey PNG"),
            (lambda path: cv2.imwrite(str(path), np.zeros((2, 3, 3), np.uint16)), "is a 16-bit RGB PNG"),
            (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is a truncated PNG."),
            (lambda path: path.write_bytes(path.read_bytes()[:40]), "is a truncated PNG."),
            (lambda path: path.write_bytes(b""), "is not a PNG."),
            (lambda path: Image.new("RGB", (3, 2)).save(path, "JPEG"), "is not a PNG."),
            (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory."),
        ],
    )
    @pytest.mark.parametrize(("side", "error"), [("pred", PredictionMismatch), ("gt", BadDataset)])
    def test_a_png_of_another_kind_is_named_with_its_image(self, folder, spoil, message, side, error):
        spoil(folder.path / side / "2.png")
        (found,) = folder.refused(error)
        assert found.startswith(f"{side}/2.png (image 2) {message}")

    def test_a_png_above_the_limit_is_refused_and_the_limit_can_be_raised(self, folder):
        assert folder.refused(BadDataset, max_pixels=5)[0].startswith(
            "gt/1.png (image 1) has 2×3 pixels, more than the limit of 5."
        )
        assert len(folder.score(max_pixels=6).image_ids()) == 3

    def test_nan_scores_and_categories_as_text_are_refused(self, folder):
        folder.pred["annotations"][1]["segments_info"][0]["score"] = float("nan")
        assert "(image 2).segments_info[0].score must be a finite number" in folder.refused(BadDataset)[0]
        folder.pred["annotations"][1]["segments_info"][0]["category_id"] = "1"
        assert "(image 2).segments_info[0].category_id must be an integer" in folder.refused(BadDataset)[0]


def test_faults_of_the_ground_truth_are_counted_and_scored_as_panopticapi_scores_them():
    run = score_folder(REFERENCE / "pq_edges" / "gt.json", REFERENCE / "pq_edges" / "pred.json")
    assert run.info.images.gt_faults == GroundTruthFaults(
        ids_not_in_json=1,
        segments_not_in_png=1,
        areas_differ=0,
        images=2,
        example="image 14: id 99 is in the PNG but not in the JSON",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gt, pred: gt["annotations"][1].update(file_name="1.png"), r"gt\.json: images 1, 2 name one id PNG"),
        (lambda gt, pred: pred["annotations"][1].update(file_name="1.png"), r"pred\.json: images 1, 2 name one id PNG"),
        (lambda gt, pred: gt["images"][1].update(file_name="1.jpg"), r"gt\.json: images 1, 2 name one photograph"),
        (lambda gt, pred: gt["categories"][1].update(name="person"), r"several categories are called 'person'"),
        (
            lambda gt, pred: pred["categories"][0].update(name="sky"),
            r"gt\.json differ in the meaning of category ids: "
            r"1 is 'person' in the ground truth, 'sky' in the predictions",
        ),
        (
            lambda gt, pred: [each.update(image_id=3 - each["image_id"]) for each in pred["annotations"]],
            r"file name of another image's ground truth: 2\. Image 1 is 1\.png in the ground truth and 2\.png here",
        ),
        (
            lambda gt, pred: pred["categories"][0].update(isthing=0),
            r"1 \('person'\) is thing in the ground truth, stuff in",
        ),
    ],
)
def test_suspicious_but_valid_input_is_reported(tmp_path, change, message):
    images = {1: "ps", 2: "ps"}
    paths = [write_side(tmp_path, side, images) for side in ("gt", "pred")]
    recorder = Recorder()
    score_folder(*paths, reporter=recorder)
    assert not recorder.notices
    documents = [json.loads(path.read_text()) for path in paths]
    change(*documents)
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    score_folder(*paths, reporter=recorder)
    assert any(re.search(message, notice) for notice in recorder.notices)


@pytest.mark.parametrize("own", [None, {}, "x", [5, {"id": "1"}, {"id": 1, "name": "person"}, {"id": 1}]])
def test_images_and_categories_in_predictions_are_not_needed(tmp_path, own):
    gt, pred = (write_side(tmp_path, side, {1: "ps"}) for side in ("gt", "pred"))
    document = json.loads(pred.read_text())
    pred.write_text(json.dumps({**document, "images": own, "categories": own}))
    recorder = Recorder()
    assert score_folder(gt, pred, reporter=recorder).summary()["All"]["PQ"] == 1.0
    assert not recorder.notices


def test_a_table_is_printed_without_pandas_scipy_and_pyarrow(tmp_path):
    """They take most of the time from the command to its first number."""
    sides = [write_side(tmp_path, side, {1: "ppd", 2: "ps."}) for side in ("gt", "pred")]
    done = python("-c", LOADED, "score", "--gt", sides[0], "--pred", sides[1])
    assert "| All    | 100.00 |" in done.stdout
    assert done.stdout.endswith("\nset()\n")


LOADED = """
import sys
from panbench.cli.app import main
sys.argv[0] = "panbench"
try:
    main()
finally:
    print({"pandas", "scipy", "pyarrow", "torch", "matplotlib"} & set(sys.modules))
"""
