"""PQ in memory: panopticapi's numbers to the last bit, in whatever order and on however many processes."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from little_runs import images_of
from support import python

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Matched
from panbench.metrics.slices import image_statistics
from panbench.panoptic.types import Category, Segment
from panbench.report.answers.comparison import compare
from panbench.runs import load_run
from panbench.scoring.evaluator import Evaluator
from panbench.scoring.folder import as_json, score_folder

REFERENCE = Path(__file__).parent.parent / "reference"
PERSON, SKY = Category(1, "person", True), Category(92, "sky", False)


class Folder:
    """A reference folder, its images as a training loop has them, and panopticapi's answer."""

    def __init__(self, name: str) -> None:
        self.path = REFERENCE / name
        # panopticapi on several cores adds up the sums of each; on one it adds image by image, as we do.
        one_core = self.path / "expected_one_core.json"
        recorded = one_core if one_core.exists() else self.path / "expected.json"
        self.expected = json.loads(recorded.read_text())
        self.categories = json.loads((self.path / "gt.json").read_text())["categories"]
        self.all = list(images_of(self.path))


@pytest.fixture(scope="module", params=["pq_edges", "pq_scenes"])
def folder(request):
    return Folder(request.param)


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
    def test_numbers_equal_the_recorded_ones_of_panopticapi_bit_for_bit(self, folder):
        found = evaluate(folder.categories, folder.all).compute()
        # Of the groups on two cores, too, where panopticapi adds up the sums of each.
        for recorded in (folder.expected, json.loads((folder.path / "expected.json").read_text())):
            for group in ("All", "Things", "Stuff"):
                assert found[group] == {key: recorded[group][key.lower()] for key in ("PQ", "SQ", "RQ", "n")}
        assert {str(category_id) for category_id in found["per_category"]} == set(folder.expected["per_class"])
        for category_id, answer in folder.expected["per_class"].items():
            numbers = found["per_category"][int(category_id)]
            assert {key: numbers[key.upper()] for key in ("pq", "sq", "rq")} == answer

    def test_numbers_equal_those_of_the_command_line(self, folder):
        run = score_folder(folder.path / "gt.json", folder.path / "pred.json")
        assert json.dumps(evaluate(folder.categories, folder.all).compute()) == json.dumps(as_json(run))

    def test_numbers_do_not_depend_on_the_order_of_images_with_ids(self, folder):
        shuffled = [folder.all[place] for place in np.random.default_rng(3).permutation(len(folder.all))]
        assert evaluate(folder.categories, shuffled).compute() == evaluate(folder.categories, folder.all).compute()

    def test_without_image_ids_the_order_of_calls_numbers_the_images(self, folder):
        unnumbered = evaluate(folder.categories, [image[:4] for image in folder.all])
        assert unnumbered.compute() == evaluate(folder.categories, folder.all).compute()

    def test_an_evaluator_without_images_has_no_numbers(self):
        found = Evaluator([PERSON]).compute()
        assert found["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
        assert json.loads(json.dumps(found, allow_nan=False))

    def test_numbers_can_be_computed_between_updates(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("pp"), *little("pp"))
        assert evaluator.compute()["All"]["PQ"] == 1
        evaluator.update(*little("p.."), *little("ppp"))
        found = evaluator.compute()
        assert found["All"] == {"PQ": 0.5, "SQ": 1, "RQ": 0.5, "n": 1}
        assert found["per_category"][1]["FN"] == found["per_category"][1]["FP"] == 1

    def test_crowds_and_void_are_honoured(self):
        images = [(*little("ppp"), *little("ccc", iscrowd=1)), (*little("ppp"), *little("..."))]
        (numbers,) = evaluate([PERSON], images).compute()["per_category"].values()
        assert numbers == {"name": "person", "isthing": True} | dict.fromkeys(("PQ", "SQ", "RQ", "TP", "FP", "FN"), 0)

    def test_compacting_tables_does_not_change_numbers(self, monkeypatch, folder):
        whole = evaluate(folder.categories, folder.all).compute()
        monkeypatch.setattr("panbench.scoring.evaluator._IMAGES_A_CHUNK", 3)
        assert evaluate(folder.categories, folder.all).compute() == whole


class TestMerge:
    @pytest.mark.parametrize("parts", [2, 3, 5])
    def test_merged_evaluators_equal_a_single_one_bit_for_bit(self, folder, parts):
        whole = evaluate(folder.categories, folder.all).compute()
        # As a DistributedSampler deals images out: in turn.
        shares = [evaluate(folder.categories, folder.all[rank::parts]) for rank in range(parts)]
        for first in range(parts):
            merged = Evaluator(folder.categories)
            for share in shares[first:] + shares[:first]:
                merged.merge(share)
            assert merged.compute() == whole
            assert len(merged) == len(folder.all)

    def test_merging_counts_an_image_that_padded_a_batch_once(self, folder):
        one, two = evaluate(folder.categories, folder.all), evaluate(folder.categories, folder.all[:2])
        one.merge(two)
        assert len(one) == len(folder.all)
        assert one.compute() == evaluate(folder.categories, folder.all).compute()

    def test_merging_refuses_two_passes_over_the_data(self):
        one, two = (evaluate([PERSON], [(*little(marks), *little("pp"), 7)]) for marks in ("pp", "p."))
        with pytest.raises(BadArgument, match=r"Image 7 was given twice, with other segments.*reset\(\)"):
            one.merge(two)
        assert len(one) == 1

    def test_merging_does_not_change_the_other_evaluator(self, folder):
        one, two = evaluate(folder.categories, folder.all[:3]), evaluate(folder.categories, folder.all[3:])
        before = two.compute()
        one.merge(two)
        one.reset()
        assert two.compute() == before
        assert len(two) == len(folder.all) - 3

    def test_merging_works_with_pickled_evaluators(self, folder):
        sent = pickle.loads(pickle.dumps(evaluate(folder.categories, folder.all)))
        assert sent.compute() == evaluate(folder.categories, folder.all).compute()
        assert copy.deepcopy(sent).compute() == sent.compute()

    def test_merging_refuses_other_categories(self):
        with pytest.raises(BadArgument, match="other has other categories"):
            Evaluator([PERSON]).merge(Evaluator([SKY]))
        with pytest.raises(BadArgument, match="other must be an Evaluator, not dict"):
            Evaluator([PERSON]).merge({})
        one, two = (evaluate([PERSON], [(*little("p"), *little("p"), *image_id)]) for image_id in ((), (1,)))
        with pytest.raises(BadArgument, match="image ids"):
            one.merge(two)


class TestRows:
    def test_rows_restore_the_same_numbers(self, folder):
        whole = evaluate(folder.categories, folder.all)
        rows = whole.to_rows()
        assert rows.dtype == np.int64
        back = Evaluator.from_rows(folder.categories, rows)
        assert back.compute() == whole.compute()
        assert np.array_equal(back.to_rows(), rows)

    def test_rows_of_several_processes_can_be_joined_and_may_repeat_images(self, folder):
        shares = [evaluate(folder.categories, folder.all[rank::3]).to_rows() for rank in range(3)]
        filled_up = evaluate(folder.categories, folder.all[:2]).to_rows()
        joined = Evaluator.from_rows(folder.categories, np.concatenate([*shares, filled_up]))
        assert len(joined) == len(folder.all)
        assert joined.compute() == evaluate(folder.categories, folder.all).compute()

    def test_rows_without_image_ids_or_images_can_be_joined(self, folder):
        evaluator = evaluate(folder.categories, [image[:4] for image in folder.all])
        back = Evaluator.from_rows(folder.categories, evaluator.to_rows())
        assert back.compute() == evaluator.compute()
        assert len(Evaluator.from_rows(folder.categories, Evaluator(folder.categories).to_rows())) == 0

    def test_rows_of_two_passes_are_refused(self):
        one, two, three = (
            evaluate([PERSON], [(*little(marks), *little("pp"), *image_id)])
            for marks, image_id in (("pp", (7,)), ("p.", (7,)), ("p.", ()))
        )
        with pytest.raises(BadArgument, match="Image 7 was given twice, with other segments"):
            Evaluator.from_rows([PERSON], np.concatenate([one.to_rows(), two.to_rows()]))
        with pytest.raises(BadArgument, match="rows has image ids for some images"):
            Evaluator.from_rows([PERSON], np.concatenate([one.to_rows(), three.to_rows()]))


class TestArguments:
    def test_categories_and_segments_may_be_panbenchs_types(self):
        evaluator = Evaluator([PERSON, SKY])
        ids = np.array([[1, 1, 2]])
        evaluator.update(ids, [Segment(1, 1, 0), Segment(2, 92, 0)], ids, [Segment(1, 1, 2), Segment(2, 92, 1)])
        assert [evaluator.compute()[group]["PQ"] for group in ("All", "Things", "Stuff")] == [1, 1, 1]

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint32])
    def test_maps_may_be_of_any_integer_type(self, kind):
        ids, segments = little("pp.")
        image = (ids.astype(kind), segments, ids[:, ::-1][:, ::-1], segments)
        assert evaluate([PERSON], [image]).compute()["All"]["PQ"] == 1

    @pytest.mark.slow
    def test_maps_may_be_tensors(self):
        torch = pytest.importorskip("torch")
        ids, segments = little("pp.")
        image = (torch.from_numpy(ids), segments) * 2
        assert evaluate([PERSON], [image]).compute()["All"]["PQ"] == 1

    def test_arguments_are_not_modified(self):
        ids, segments = little("pq.")
        kept = ids.copy(), copy.deepcopy(segments)
        Evaluator([PERSON]).update(ids, segments, ids, segments)
        assert (ids == kept[0]).all()
        assert segments == kept[1]

    @pytest.mark.parametrize(
        ("change", "message"),
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
    def test_a_wrong_argument_is_named_and_nothing_added(self, change, message):
        ids, segments = little("pp.")
        arguments = {"pred_ids": ids, "pred_segments": segments, "gt_ids": ids, "gt_segments": segments}
        evaluator = Evaluator([PERSON])
        with pytest.raises(BadArgument, match=message):
            evaluator.update(**(arguments | change))
        assert len(evaluator) == 0
        evaluator.update(**arguments)
        assert evaluator.compute()["All"]["PQ"] == 1

    def test_errors_name_the_image_if_it_has_an_id(self):
        with pytest.raises(BadArgument, match=r"^image 139: gt_ids must hold integers"):
            Evaluator([PERSON]).update(*little("p"), np.zeros((1, 1)), [], image_id=139)

    def test_a_repeated_image_id_suggests_a_forgotten_reset(self):
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
        ("categories", "message"),
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
    def test_invalid_categories_are_refused(self, categories, message):
        with pytest.raises(BadArgument, match=message):
            Evaluator(categories)

    def test_an_area_too_small_to_be_true_is_refused_with_its_image(self):
        evaluator = Evaluator([PERSON])
        evaluator.update(*little("pp"), little("pp")[0], [{"id": 112, "category_id": 1, "area": 0}], image_id=31)
        with pytest.raises(BadDataset, match="Image 31: the ground truth lists area 0 for segment 112"):
            evaluator.compute()


@pytest.mark.slow
def test_torch_is_not_needed():
    code = "import sys; from panbench.scoring.evaluator import Evaluator; print('torch' in sys.modules)"
    finished = python("-c", code)
    assert finished.stdout.strip() == "False", finished.stderr


class TestAreasThatAreAbsent:
    def images(self, with_area: bool):
        ids, segments = little("ppps")
        gt = segments if with_area else [{k: v for k, v in each.items() if k != "area"} for each in segments]
        return [(ids, segments, ids, gt, 1), (little("pp.s")[0], little("pp.s")[1], ids, gt, 2)]

    def test_missing_areas_are_counted_from_the_map_and_reported(self):
        counted = evaluate([PERSON, SKY], self.images(False))
        given = evaluate([PERSON, SKY], self.images(True))
        assert counted.compute() == given.compute()
        assert given.notices == ()
        assert counted.notices == (
            "The areas of 4 ground-truth segments in 2 images were counted from their maps, as their `area` was "
            "absent.",
        )

    def test_the_notice_on_areas_survives_merging_and_ends_with_reset(self):
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
        evaluator = evaluate([PERSON, SKY], [little(marks) * 2 for marks in ("ps", "pp", "ss")])
        assert evaluator.save(tmp_path / "run").image_ids() == (1, 2, 3)

    def test_an_empty_evaluator_saves_no_run_and_replaces_none(self, tmp_path):
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
