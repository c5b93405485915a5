"""PQ in memory: panopticapi's numbers to the last bit, in whatever order and on however many processes."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Matched
from panbench.metrics.slices import image_statistics
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.types import Category, Segment
from panbench.report.answers.comparison import standing as compare
from panbench.runs import load_run
from panbench.scoring.evaluator import Evaluator
from panbench.scoring.folder import as_json, score_folder

REFERENCE = Path(__file__).parent.parent / "reference"
PERSON, SKY = Category(1, "person", True), Category(92, "sky", False)


class Folder:
    """A reference folder as a training loop has it: id maps and `segments_info`, image by image."""

    def __init__(self, name: str) -> None:
        self.path = REFERENCE / name
        # panopticapi on several cores adds up the sums of each; on one it adds image by image, as we do.
        one_core = self.path / "expected_one_core.json"
        recorded = one_core if one_core.exists() else self.path / "expected.json"
        self.expected = json.loads(recorded.read_text())
        self.gt = json.loads((self.path / "gt.json").read_text())
        self.categories = self.gt["categories"]
        self.of_pred = {
            record["image_id"]: record for record in json.loads((self.path / "pred.json").read_text())["annotations"]
        }

    def images(self):
        for record in self.gt["annotations"]:
            image_id = record["image_id"]
            pred = self.of_pred[image_id]
            yield (
                read_id_png(self.path / "pred" / pred["file_name"]),
                pred["segments_info"],
                read_id_png(self.path / "gt" / record["file_name"]),
                record["segments_info"],
                image_id,
            )


@pytest.fixture(scope="module", params=["pq_edges", "pq_scenes"])
def folder(request):
    found = Folder(request.param)
    found.all = list(found.images())
    return found


def evaluate(categories, images) -> Evaluator:
    evaluator = Evaluator(categories)
    for image in images:
        evaluator.update(*image)
    return evaluator


def little(marks: str, category_id: int = 1, **more) -> tuple[np.ndarray, list[dict]]:
    """One row of pixels: `.` is void, a letter a segment."""
    ids = np.array([[0 if mark == "." else ord(mark) for mark in marks]])
    segments = [
        {"id": ord(mark), "category_id": category_id, "area": marks.count(mark), **more}
        for mark in dict.fromkeys(marks.replace(".", ""))
    ]
    return ids, segments


class TestTheNumbers:
    def test_are_panopticapis_recorded_ones_to_the_last_bit(self, folder):
        found = evaluate(folder.categories, folder.all).compute()
        for group in ("All", "Things", "Stuff"):
            assert found[group] == {key: folder.expected[group][key.lower()] for key in ("PQ", "SQ", "RQ", "n")}
        assert {str(category_id) for category_id in found["per_category"]} == set(folder.expected["per_class"])
        for category_id, answer in folder.expected["per_class"].items():
            numbers = found["per_category"][int(category_id)]
            assert {key: numbers[key.upper()] for key in ("pq", "sq", "rq")} == answer

    def test_of_the_groups_are_those_recorded_on_two_cores_too(self, folder):
        recorded = json.loads((folder.path / "expected.json").read_text())
        found = evaluate(folder.categories, folder.all).compute()
        for group in ("All", "Things", "Stuff"):
            assert found[group] == {key: recorded[group][key.lower()] for key in ("PQ", "SQ", "RQ", "n")}

    def test_are_those_of_the_command_line(self, folder):
        run = score_folder(folder.path / "gt.json", folder.path / "pred.json")
        assert json.dumps(evaluate(folder.categories, folder.all).compute()) == json.dumps(as_json(run))

    def test_do_not_depend_on_the_order_of_images_with_ids(self, folder):
        shuffled = [folder.all[place] for place in np.random.default_rng(3).permutation(len(folder.all))]
        assert evaluate(folder.categories, shuffled).compute() == evaluate(folder.categories, folder.all).compute()

    def test_without_image_ids_are_those_of_the_order_of_calls(self, folder):
        evaluator = Evaluator(folder.categories)
        for *image, _ in folder.all:
            evaluator.update(*image)
        assert evaluator.compute() == evaluate(folder.categories, folder.all).compute()

    def test_before_any_image_are_none(self):
        found = Evaluator([PERSON]).compute()
        assert found["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
        assert json.loads(json.dumps(found, allow_nan=False))

    def test_can_be_asked_for_on_the_way(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("pp"), *little("pp"))
        assert evaluator.compute()["All"]["PQ"] == 1
        evaluator.update(*little("p.."), *little("ppp"))
        found = evaluator.compute()
        assert found["All"] == {"PQ": 0.5, "SQ": 1, "RQ": 0.5, "n": 1}
        assert found["per_category"][1]["FN"] == found["per_category"][1]["FP"] == 1

    def test_know_crowds_and_void(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("ppp"), *little("ccc", iscrowd=1))
        evaluator.update(*little("ppp"), *little("..."))
        assert evaluator.compute()["per_category"][1] | {"name": ""} == {
            **{"name": "", "isthing": True, "PQ": 0, "SQ": 0, "RQ": 0, "TP": 0, "FP": 0, "FN": 0}
        }

    def test_survive_the_joining_of_tables(self, monkeypatch, folder):
        whole = evaluate(folder.categories, folder.all).compute()
        monkeypatch.setattr("panbench.scoring.evaluator._IMAGES_A_BLOCK", 3)
        assert evaluate(folder.categories, folder.all).compute() == whole


class TestMerge:
    @pytest.mark.parametrize("parts", [2, 3, 5])
    def test_is_all_at_once_to_the_last_bit(self, folder, parts):
        whole = evaluate(folder.categories, folder.all).compute()
        # As a DistributedSampler deals images out: in turn.
        shares = [evaluate(folder.categories, folder.all[rank::parts]) for rank in range(parts)]
        for first in range(parts):
            merged = Evaluator(folder.categories)
            for share in shares[first:] + shares[:first]:
                merged.merge(share)
            assert merged.compute() == whole
            assert len(merged) == len(folder.all)

    def test_counts_an_image_once_that_filled_up_a_batch(self, folder):
        one, two = evaluate(folder.categories, folder.all), evaluate(folder.categories, folder.all[:2])
        one.merge(two)
        assert len(one) == len(folder.all)
        assert one.compute() == evaluate(folder.categories, folder.all).compute()

    def test_refuses_two_passes_in_one(self):
        one, two = Evaluator([PERSON]), Evaluator([PERSON])
        one.update(*little("pp"), *little("pp"), image_id=7)
        two.update(*little("p."), *little("pp"), image_id=7)
        with pytest.raises(BadArgument, match=r"Image 7 was given twice, with other segments.*reset\(\)"):
            one.merge(two)
        assert len(one) == 1

    def test_leaves_the_other_as_it_was(self, folder):
        one, two = evaluate(folder.categories, folder.all[:3]), evaluate(folder.categories, folder.all[3:])
        before = two.compute()
        one.merge(two)
        one.reset()
        assert two.compute() == before
        assert len(two) == len(folder.all) - 3

    def test_works_with_what_another_process_sent(self, folder):
        sent = pickle.loads(pickle.dumps(evaluate(folder.categories, folder.all)))
        assert sent.compute() == evaluate(folder.categories, folder.all).compute()
        assert copy.deepcopy(sent).compute() == sent.compute()

    def test_refuses_other_categories_and_other_things(self):
        with pytest.raises(BadArgument, match="other has other categories"):
            Evaluator([PERSON]).merge(Evaluator([SKY]))
        with pytest.raises(BadArgument, match="other must be an Evaluator, not dict"):
            Evaluator([PERSON]).merge({})
        one, two = Evaluator([PERSON]), Evaluator([PERSON])
        one.update(*little("p"), *little("p"))
        two.update(*little("p"), *little("p"), image_id=1)
        with pytest.raises(BadArgument, match="image ids"):
            one.merge(two)


class TestRows:
    def test_bring_the_same_numbers_back(self, folder):
        whole = evaluate(folder.categories, folder.all)
        rows = whole.to_rows()
        assert rows.dtype == np.int64
        back = Evaluator.from_rows(folder.categories, rows)
        assert back.compute() == whole.compute()
        assert np.array_equal(back.to_rows(), rows)

    def test_of_several_processes_may_be_joined_and_repeat_images(self, folder):
        shares = [evaluate(folder.categories, folder.all[rank::3]).to_rows() for rank in range(3)]
        filled_up = evaluate(folder.categories, folder.all[:2]).to_rows()
        joined = Evaluator.from_rows(folder.categories, np.concatenate([*shares, filled_up]))
        assert len(joined) == len(folder.all)
        assert joined.compute() == evaluate(folder.categories, folder.all).compute()

    def test_may_lack_image_ids_and_images(self, folder):
        evaluator = Evaluator(folder.categories)
        for *image, _ in folder.all:
            evaluator.update(*image)
        back = Evaluator.from_rows(folder.categories, evaluator.to_rows())
        assert back.compute() == evaluator.compute()
        assert len(Evaluator.from_rows(folder.categories, Evaluator(folder.categories).to_rows())) == 0

    def test_of_two_passes_are_refused(self):
        one, two, three = Evaluator([PERSON]), Evaluator([PERSON]), Evaluator([PERSON])
        one.update(*little("pp"), *little("pp"), image_id=7)
        two.update(*little("p."), *little("pp"), image_id=7)
        three.update(*little("p."), *little("pp"))
        with pytest.raises(BadArgument, match="Image 7 was given twice, with other segments"):
            Evaluator.from_rows([PERSON], np.concatenate([one.to_rows(), two.to_rows()]))
        with pytest.raises(BadArgument, match="rows has image ids for some images"):
            Evaluator.from_rows([PERSON], np.concatenate([one.to_rows(), three.to_rows()]))


class TestArguments:
    def test_categories_may_be_ours_and_segments_too(self):
        evaluator = Evaluator([PERSON, SKY])
        ids = np.array([[1, 1, 2]])
        evaluator.update(ids, [Segment(1, 1, 0), Segment(2, 92, 0)], ids, [Segment(1, 1, 2), Segment(2, 92, 1)])
        assert [evaluator.compute()[group]["PQ"] for group in ("All", "Things", "Stuff")] == [1, 1, 1]

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint32])
    def test_maps_may_be_of_any_integer_type(self, kind):
        evaluator = Evaluator([PERSON])
        ids, segments = little("pp.")
        evaluator.update(ids.astype(kind), segments, ids[:, ::-1][:, ::-1], segments)
        assert evaluator.compute()["All"]["PQ"] == 1

    @pytest.mark.slow
    def test_maps_may_be_tensors(self):
        torch = pytest.importorskip("torch")
        evaluator = Evaluator([PERSON])
        ids, segments = little("pp.")
        evaluator.update(torch.from_numpy(ids), segments, torch.from_numpy(ids), segments)
        assert evaluator.compute()["All"]["PQ"] == 1

    def test_nothing_that_was_given_is_changed(self):
        ids, segments = little("pq.")
        kept = ids.copy(), copy.deepcopy(segments)
        Evaluator([PERSON]).update(ids, segments, ids, segments)
        assert (ids == kept[0]).all()
        assert segments == kept[1]

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"pred_ids": np.zeros((2, 3), int)}, r"pred_ids is 2×3 but gt_ids is 1×3"),
            ({"pred_ids": np.zeros((1, 1, 3), int)}, r"pred_ids must be \(H, W\), not \(1, 1, 3\)"),
            ({"gt_ids": np.zeros((0, 3), int)}, r"gt_ids must be \(H, W\)"),
            ({"gt_ids": np.zeros((1, 3))}, "gt_ids must hold integers .*, not float64"),
            ({"pred_ids": np.array([[-1, 112, 112]])}, "pred_ids has ids of -1…112; ids must lie in 0…16777215"),
            ({"pred_ids": np.array([[1 << 24, 0, 0]])}, "pred_ids has ids of 0…16777216"),
            ({"pred_ids": np.array([[5, 112, 112]])}, "pred_ids has ids that pred_segments lacks: 5"),
            ({"pred_ids": np.array([[0, 0, 0]])}, "pred_segments lists ids that pred_ids lacks: 112"),
            ({"pred_segments": None}, "pred_segments must be a list of segments"),
            ({"pred_segments": {"id": 1}}, "pred_segments must be a list of segments"),
            ({"pred_segments": [7]}, r"pred_segments\[0\] must be a dict, not an int"),
            ({"pred_segments": [{"category_id": 1}]}, r"pred_segments\[0\] lacks `id`"),
            (
                {"pred_segments": [{"id": 112, "label_id": 0}]},
                r"pred_segments\[0\] has `label_id` but no `category_id`",
            ),
            ({"pred_segments": [{"id": 112, "category_id": 5}]}, r"pred_segments\[0\] has category_id 5, which is not"),
            ({"pred_segments": [{"id": 1.5, "category_id": 1}]}, r"pred_segments\[0\]: id must be an integer, not 1.5"),
            ({"pred_segments": [{"id": 0, "category_id": 1}]}, r"pred_segments\[0\]: id is 0, outside 1…16777215"),
            ({"pred_segments": [{"id": 112, "category_id": 1}] * 2}, r"pred_segments\[1\] repeats the id 112"),
            ({"gt_segments": [{"id": 112, "category_id": 1, "area": -1}]}, r"gt_segments\[0\]: area is -1"),
            ({"image_id": True}, "image_id must be an integer, not True"),
        ],
    )
    def test_what_is_wrong_names_the_argument_and_nothing_is_added(self, change, sentence):
        ids, segments = little("pp.")
        arguments = {"pred_ids": ids, "pred_segments": segments, "gt_ids": ids, "gt_segments": segments}
        evaluator = Evaluator([PERSON])
        with pytest.raises(BadArgument, match=sentence):
            evaluator.update(**(arguments | change))
        assert len(evaluator) == 0
        evaluator.update(**arguments)
        assert evaluator.compute()["All"]["PQ"] == 1

    def test_an_image_is_named_where_it_has_an_id(self):
        with pytest.raises(BadArgument, match=r"^image 139: gt_ids must hold integers"):
            Evaluator([PERSON]).update(*little("p"), np.zeros((1, 1)), [], image_id=139)

    def test_an_image_id_twice_means_that_reset_was_forgotten(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("p"), *little("p"), image_id=5)
        with pytest.raises(BadArgument, match=r"image_id 5 was given before. Call reset\(\)"):
            evaluator.update(*little("p"), *little("p"), image_id=5)
        with pytest.raises(BadArgument, match="image_id must be given for all images or for none"):
            evaluator.update(*little("p"), *little("p"))
        evaluator.reset()
        evaluator.update(*little("p"), *little("p"), image_id=5)
        assert len(evaluator) == 1

    @pytest.mark.parametrize(
        ("categories", "sentence"),
        [
            (None, "categories must be a list of COCO's categories .*, not None"),
            ([], "categories is empty"),
            ([{"id": 1, "name": "x"}], r"categories\[0\] lacks `isthing`"),
            ([{"id": 1, "name": "x", "isthing": 2}], r"categories\[0\]: isthing must be 0 or 1, not 2"),
            ([{"id": "1", "name": "x", "isthing": 1}], r"categories\[0\]: id must be an integer, not '1'"),
            ([PERSON, PERSON], r"categories\[1\] repeats the id 1"),
            (["person"], r"categories\[0\] must be a dict, not a str"),
        ],
    )
    def test_categories_that_are_none_are_refused(self, categories, sentence):
        with pytest.raises(BadArgument, match=sentence):
            Evaluator(categories)

    def test_an_area_too_small_to_be_true_is_refused_with_its_image(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("pp"), little("pp")[0], [{"id": 112, "category_id": 1, "area": 0}], image_id=31)
        with pytest.raises(BadDataset, match="Image 31: the ground truth lists area 0 for segment 112"):
            evaluator.compute()


@pytest.mark.slow
def test_torch_is_not_needed():
    code = "import sys; from panbench.scoring.evaluator import Evaluator; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.stdout.strip() == "False", finished.stderr


class TestAreasThatAreAbsent:
    def images(self, with_area: bool):
        ids, segments = little("ppps")
        gt = segments if with_area else [{k: v for k, v in each.items() if k != "area"} for each in segments]
        return [(ids, segments, ids, gt, 1), (little("pp.s")[0], little("pp.s")[1], ids, gt, 2)]

    def test_they_are_counted_from_the_map_and_it_is_said(self):
        counted = evaluate([PERSON, SKY], self.images(False))
        given = evaluate([PERSON, SKY], self.images(True))
        assert counted.compute() == given.compute()
        assert given.notices == ()
        assert counted.notices == (
            "The areas of 4 ground-truth segments in 2 images were counted from their maps, as their `area` was "
            "absent.",
        )

    def test_it_is_still_said_after_merging_and_forgotten_by_reset(self):
        one, other = evaluate([PERSON, SKY], self.images(False)[:1]), evaluate([PERSON, SKY], self.images(False)[1:])
        one.merge(other)
        assert "4 ground-truth segments in 2 images" in one.notices[0]
        one.reset()
        assert one.notices == ()


class TestSavedAsRun:
    def test_a_saved_evaluator_is_a_run_with_its_numbers(self, folder, tmp_path):
        evaluator = evaluate(folder.categories, folder.all)
        run = evaluator.save(tmp_path / "mine", dataset="my validation set")
        stored = load_run(tmp_path / "mine")
        assert stored.summary() == run.summary()
        assert {group: stored.summary()[group] for group in ("All", "Things", "Stuff")} == {
            group: evaluator.compute()[group] for group in ("All", "Things", "Stuff")
        }
        assert stored.info.dataset.name == "my validation set"
        assert stored.image_ids() == tuple(sorted(image[4] for image in folder.all))

    def test_runs_of_one_ground_truth_can_be_compared_and_others_cannot(self, folder, tmp_path):
        evaluate(folder.categories, folder.all).save(tmp_path / "a")
        # Other predictions, none at all, of the same images in another order.
        nothing = [(np.zeros_like(image[0]), [], *image[2:]) for image in reversed(folder.all)]
        evaluate(folder.categories, nothing).save(tmp_path / "b")
        evaluate(folder.categories, folder.all[:-1]).save(tmp_path / "c")
        runs = [load_run(tmp_path / name) for name in "abc"]
        assert [row.PQ for row in compare(runs[:2]).rows][1] == 0
        with pytest.raises(BadRun, match="cannot be compared"):
            compare([runs[0], runs[2]])

    def test_images_without_ids_are_numbered(self, tmp_path):
        evaluator = Evaluator([PERSON, SKY])
        for marks in ("ps", "pp", "ss"):
            evaluator.update(*little(marks), *little(marks))
        assert evaluator.save(tmp_path / "run").image_ids() == (1, 2, 3)

    def test_nothing_is_no_run_and_a_run_is_not_replaced_unasked(self, tmp_path):
        evaluator = Evaluator([PERSON])
        with pytest.raises(BadArgument, match="no image yet"):
            evaluator.save(tmp_path / "run")
        assert not (tmp_path / "run").exists()
        evaluator.update(*little("p"), *little("p"))
        evaluator.save(tmp_path / "run")
        with pytest.raises(BadRun, match="another run"):
            evaluator.save(tmp_path / "run")
        evaluator.save(tmp_path / "run", overwrite=True)


def test_intervals_are_those_of_the_stored_run(folder, tmp_path):
    evaluator = evaluate(folder.categories, folder.all)
    run = evaluator.save(tmp_path / "run")
    matched = Matched.of(run.table)
    rows = intervals(image_statistics(matched, run.categories))
    found = evaluator.intervals()
    for row in rows[rows["group"].notna()].itertuples():
        own = found[row.group][row.metric]
        assert (own is None) == np.isnan(row.low)
        if own is not None:
            assert own == (row.low, row.high)
            assert own[0] <= own[1]
    assert set(found) == {"All", "Things", "Stuff"}
