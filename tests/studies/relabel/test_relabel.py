"""The same predictions on two truths: numbers, ranks, the ceiling, suspect labels of every kind, and bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from little_runs import scored, write_side
from support import edited, panbench, ran, refused

from panbench.metrics.slices import image_statistics
from panbench.scoring.folder import score_folder
from panbench.studies.relabel.answer import find_predictions, read_truth, relabel
from panbench.studies.relabel.page import write_relabelling
from panbench.studies.relabel.two_truths import rank_changes

# Persons p and q, a dog d, sky s. B is what is there; A has a label of each kind wrong, images 1 to 6.
B = {
    1: "ppppppppssssssss",
    2: "ppppqqqqssssssss",
    3: "ppppppppssssssss",
    4: "ddddddddssssssss",
    5: "ssssssssssssssss",
    6: "ppppppppssssssss",
    **dict.fromkeys(range(7, 19), "ppppddddssssssss"),
}
A = {
    **B,
    1: "ddddddddssssssss",  # renamed
    2: "ppppppppssssssss",  # merged
    3: "ssssssssssssssss",  # unlabelled
    4: "ssssddddddddssss",  # misplaced
    5: "ssssssssdddsssss",  # unseen
    6: "ppppqqqqssssssss",  # split
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Both truths, and three models' predictions: all right by B, each with one mistake of its own."""
    folder = tmp_path_factory.mktemp("relabel")
    write_side(folder, "a", A)
    write_side(folder, "b", B)
    for number, name in enumerate(("one", "two", "three")):
        write_side(folder, name, {**B, 10 + number: "ssssddddssssssss"}, {"p": 0.9, "d": 0.8})
    return folder


@pytest.fixture(scope="module")
def found(place):
    answers = find_predictions([place / f"{name}.json" for name in ("one", "two", "three")])
    return relabel(read_truth(place / "a.json"), read_truth(place / "b.json"), answers)


def test_scores_on_both_truths_equal_those_of_score(place, found):
    for side, truth in enumerate("ab"):
        for name in ("one", "two", "three"):
            run = score_folder(place / f"{truth}.json", place / f"{name}.json")
            rows = found.changes.runs.query("run == @name and group == 'All'")
            assert rows[f"PQ_{truth}"].item() == run.summary()["All"]["PQ"], (side, name)


def test_the_ceiling_scores_the_other_truth_as_a_prediction(place, found):
    for side, (truth, other) in enumerate((("a", "b"), ("b", "a"))):
        run = score_folder(place / f"{truth}.json", place / f"{other}.json")
        table = found.ceiling[side].query("group == 'Things' and metric == 'PQ'")
        assert table["value"].item() == run.summary()["Things"]["PQ"]


def test_a_truth_against_itself_scores_one_even_with_several_crowds(tmp_path):
    images = dict.fromkeys(range(1, 4), "ppppqqqqddddssss")
    path = write_side(tmp_path, "gt", images)
    with edited(path) as document:
        for annotation in document["annotations"]:
            for segment in annotation["segments_info"]:
                segment["iscrowd"] = int(segment["id"] in (ord("p"), ord("q")))
    write_side(tmp_path, "pred", images)
    truth = read_truth(path)
    found = relabel(truth, truth, find_predictions([tmp_path / "pred.json"]))
    assert found.ceiling[0].query("group == 'All' and metric == 'PQ'")["value"].item() == 1


def test_every_kind_of_wrong_label_is_found_and_named(found):
    table = found.suspects[0]
    told = {row.image_id: (row.kind, row.category_id, row.suggested_id) for row in table[::-1].itertuples()}
    # Of an image with several suspects the highest; 1 person, 2 dog, 9 sky.
    assert told[1] == ("renamed", 2, 1)
    assert told[2] == ("merged", 1, 1)
    assert told[3] == ("unlabelled", 0, 1)
    assert told[5] == ("unseen", 2, 9)
    kinds = {image: set(table.loc[table["image_id"] == image, "kind"]) for image in range(1, 7)}
    assert "misplaced" in kinds[4]
    assert "split" in kinds[6]
    assert set(table["image_id"]) <= {1, 2, 3, 4, 5, 6}, "what single models get wrong is not the label's fault"
    assert set(table.query("kind in ['renamed', 'merged', 'unlabelled', 'unseen']")["other"]) == {"models"}
    assert found.suspects[1].empty, "models that agree with a truth suspect none of its labels"


def test_agreement_of_two_of_three_models_counts_less_than_of_all(tmp_path):
    gt = {1: "ddddssss", 2: "ddddssss", **dict.fromkeys(range(3, 13), "ppppssss")}
    write_side(tmp_path, "gt", gt)
    for name, second in (("x", "ppppssss"), ("y", "ppppssss"), ("z", "ddddssss")):
        write_side(tmp_path, name, {**gt, 1: "ppppssss", 2: second})
    truth = read_truth(tmp_path / "gt.json")
    answers = find_predictions([tmp_path / f"{name}.json" for name in "zyx"])
    table = relabel(truth, truth, answers).suspects[0]
    assert list(table["image_id"]) == [1, 2]
    assert table["share"].tolist() == pytest.approx([1, 1 / 3])
    assert table["answers"].tolist()[1] == (0, ord("p"), ord("p"))
    assert (table["score"] == table["share"] * (table["agreement"] - table["iou"]) * table["trust"]).all()
    assert table["score"][1] < table["score"][0] / 2


def test_crowds_and_void_raise_no_suspects(tmp_path):
    gt = dict.fromkeys(range(1, 5), "....ppppssss")
    path = write_side(tmp_path, "gt", gt)
    with edited(path) as document:
        for annotation in document["annotations"]:
            annotation["segments_info"][0]["iscrowd"] = 1
    for name in "xy":
        write_side(tmp_path, name, dict.fromkeys(gt, "ddddppqqssss"))
    truth = read_truth(path)
    table = relabel(truth, truth, find_predictions([tmp_path / "x.json", tmp_path / "y.json"])).suspects[0]
    assert table.empty


def test_the_order_of_models_changes_no_suspect(place, found):
    answers = find_predictions([place / f"{name}.json" for name in ("three", "one", "two")])
    again = relabel(read_truth(place / "a.json"), read_truth(place / "b.json"), answers)
    columns = ["image_id", "kind", "category_id", "suggested_id", "segment_id"]
    first, second = found.suspects[0], again.suspects[0]
    assert sorted(map(tuple, first[columns].to_numpy())) == sorted(map(tuple, second[columns].to_numpy()))
    assert sorted(first["score"]) == pytest.approx(sorted(second["score"]))


def test_changes_are_paired_and_flips_counted(place, found):
    sides = []
    for truth in "ab":
        runs = {name: score_folder(place / f"{truth}.json", place / f"{name}.json") for name in ("one", "two")}
        sides.append({name: image_statistics(run.matched, run.categories) for name, run in runs.items()})
    # The same truth twice: nothing changes.
    still = rank_changes(sides[0], sides[0])
    assert (still.runs[["change", "low", "high"]] == 0).all(axis=None)
    assert not still.pairs["flipped"].any()
    changed = rank_changes(sides[0], sides[1])
    rows = changed.runs.query("group == 'All'")
    assert (rows["change"] > 0).all()
    assert (rows["low"] <= rows["change"]).all()
    pair = changed.pairs.query("group == 'All'").iloc[0]
    assert pair["change"] == pytest.approx(pair["difference_b"] - pair["difference_a"])
    assert 0 <= pair["flips"] <= 1


def test_the_command_prints_tables_and_writes_page_and_files(place, tmp_path):
    words = [place / "a.json", place / "b.json", "--runs", place / "one.json", place / "two.json", place / "three.json"]
    told = ran("relabel", *words, "--out", tmp_path / "out", columns=100)
    assert "The order of the runs is the same on both truths." in told.stdout
    assert "B against A" in told.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"index.html", "relabel.json", "suspects-A.csv", "suspects-B.csv"}
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page needs nothing from outside"
    assert page.count("<article>") == len((tmp_path / "out" / "suspects-A.csv").read_text("utf-8").splitlines()) - 1
    stored = json.loads((tmp_path / "out" / "relabel.json").read_text("utf-8"))
    printed = json.loads(panbench("relabel", *words, "--json").stdout)
    assert printed == stored
    assert {row["kind"] for row in stored["suspects"]["A"]} >= {"renamed", "merged", "unlabelled", "unseen"}
    assert stored["ceiling"]["B against A"][0]["group"] == "All"


def test_a_run_without_predictions_is_refused_with_the_command_that_makes_them(place, tmp_path):
    run = scored(tmp_path, "mine", B, B)
    answers = find_predictions([run.path])
    assert [answer.name for answer in answers] == ["mine"]
    told = ran("relabel", place / "a.json", place / "b.json", run.path, "--suspects", 0)
    assert "With a single run" in told.stderr
    (tmp_path / "mine-pred.json").rename(tmp_path / "moved.json")
    assert "which is no longer there" in refused("relabel", place / "a.json", place / "b.json", run.path)


def test_a_category_map_converts_the_second_truth_to_the_first_ones_categories(place, tmp_path):
    other = json.loads((place / "b.json").read_text("utf-8"))
    for category in other["categories"]:
        category["name"] = category["name"].upper()
    (tmp_path / "b.json").write_text(json.dumps(other), "utf-8")
    (tmp_path / "map.json").write_text(
        json.dumps({"categories": {"PERSON": "person", "DOG": "dog", "SKY": "sky"}}), "utf-8"
    )
    words = ["relabel", place / "a.json", tmp_path / "b.json", place / "one.json", "--gt-dir-b", place / "b", "--json"]
    assert "have different categories (DOG, PERSON, SKY, dog, person and 1 more)" in refused(*words)
    mapped = ran(*words, "--category-map", tmp_path / "map.json")
    plain = panbench("relabel", place / "a.json", place / "b.json", place / "one.json", "--json")
    assert json.loads(mapped.stdout)["runs"] == json.loads(plain.stdout)["runs"]


def of_another_category(place: Path, folder: Path) -> list[object]:
    path = write_side(folder, "x", B)
    with edited(path) as document:
        document["annotations"][0]["segments_info"][0]["category_id"] = 77
    return [place / "a.json", place / "b.json", path]


def against(place: Path, folder: Path, truth: dict[int, str], *options: str) -> list[object]:
    """The words of a line whose second truth is drawn anew."""
    return [place / "a.json", write_side(folder, "b", truth), place / "one.json", *options]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda place, new: against(place, new, {1: "pppp", 2: "pppp"}), "The truths have different images"),
        (lambda place, new: against(place, new, {100: "pppp"}, "--common-images"), "have no image in common"),
        (
            lambda place, new: [place / "a.json", place / "b.json", write_side(new, "x", dict(list(B.items())[:8]))],
            "and the truths have different images",
        ),
        (of_another_category, "predicts category ids that"),
        (lambda place, new: against(place, new, {**B, 1: "ppppssss"}), "the two are not truths of the same images"),
        (lambda place, new: [place / "a.json", place / "b.json"], "No predictions are named"),
        (lambda place, new: [place / "a.json", place / "b.json", new], "is not a run"),
    ],
    ids=["images", "nothing shared", "predictions", "category", "size", "no runs", "empty run"],
)
def test_bad_input_is_refused_with_exit_2_and_one_sentence(place, tmp_path, words, message):
    said = refused("relabel", *words(place, tmp_path))
    assert message in said
    assert "Traceback" not in said
    assert said.count("Error:") == 1


def test_images_that_are_not_shared_can_be_left_out(place, tmp_path):
    fewer = write_side(tmp_path, "x", {image: B[image] for image in range(1, 9)})
    told = panbench("relabel", place / "a.json", place / "b.json", fewer, "--common-images", "--json")
    record = json.loads(told.stdout)
    assert (record["images"], record["images_left_out"]) == (8, 10)


def test_ranks_of_small_runs_follow_their_pq(found):
    rows = found.changes.runs.query("group == 'All'")
    for side in "ab":
        order = np.argsort(-rows[f"PQ_{side}"].to_numpy(), kind="stable")
        ranks = rows[f"rank_{side}"].to_numpy()[order]
        assert (np.diff(ranks) >= 0).all()


def test_truths_and_predictions_without_segments_cause_no_error(tmp_path):
    void = dict.fromkeys((1, 2), "........")
    write_side(tmp_path, "gt", dict.fromkeys(void, "ppppssss"))
    for name in ("empty", "x", "y"):
        write_side(tmp_path, name, void)
    full, empty = read_truth(tmp_path / "gt.json"), read_truth(tmp_path / "empty.json")
    silent = find_predictions([tmp_path / "x.json", tmp_path / "y.json"])
    for truths in ((full, full), (empty, full), (empty, empty)):
        found = relabel(*truths, silent)
        assert all(table.empty for table in found.suspects)
        write_relabelling(found, tmp_path / "out")
        json.dumps(found.record(), allow_nan=False)
