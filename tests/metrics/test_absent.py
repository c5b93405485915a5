"""What makes a score say little is said beside it: nothing predicted, and a truth that is void for the most part."""

import pytest
from little_runs import scored
from support import ran

from panbench.metrics.absent import AbsentFold, void_sentence
from panbench.report.answers.findings import error_findings
from panbench.report.answers.tables import comparison_row

GT = dict.fromkeys(range(1, 13), "ppppqqqqssss")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("absent")
    return {
        "nothing": scored(folder, "nothing", GT, ["............" for _ in GT]),
        "stuff": scored(folder, "stuff", GT, ["........ssss" for _ in GT]),
        "all": scored(folder, "all", GT, ["ppppqqqqssss" for _ in GT]),
    }


def test_a_run_without_a_predicted_segment_says_so_first_and_has_nothing_to_fix_first(runs):
    notes = comparison_row(runs["nothing"]).notes
    assert notes[0] == "no segment is predicted in 12 of 12 images"
    found = error_findings(runs["nothing"])
    assert found.record["fix_first"] == []
    assert not any(grid.columns[0] == "Fix first" for grid in found.grids)
    assert error_findings(runs["stuff"]).record["fix_first"]


def test_things_that_are_never_predicted_are_counted(runs):
    assert "no thing is predicted, of 24 segments in the ground truth" in comparison_row(runs["stuff"]).notes
    assert comparison_row(runs["all"]).notes == ()


def test_a_category_with_many_segments_that_is_never_predicted_is_named(tmp_path):
    truth = dict.fromkeys(range(1, 13), "ppppddddssss")
    run = scored(tmp_path / "many", "run", truth, ["pppp....ssss" for _ in truth])
    assert comparison_row(run).notes == ("never predicted: dog (12 segments)",)
    few = dict.fromkeys(range(1, 10), "ppppddddssss")
    assert comparison_row(scored(tmp_path / "fewer", "few", few, ["pppp....ssss" for _ in few])).notes == ()


def test_the_rule_whose_thresholds_dropped_all_is_named(runs):
    fold = AbsentFold(runs["nothing"].categories)
    runs["nothing"].fold(fold)
    (sentence,) = fold.sentences("maskformer:score=0.8")
    assert sentence.endswith("; what scores less than the thresholds of the rule maskformer:score=0.8 is dropped")


def test_a_truth_of_which_more_than_half_is_void_is_called_so(tmp_path):
    void = dict.fromkeys(range(1, 13), "pppp........")
    notes = comparison_row(scored(tmp_path, "void", void, ["ppppqqqq...." for _ in void])).notes
    assert notes == (
        "67 % of the ground truth is void: predictions there are not counted; if 0 is background, give it a category",
    )
    assert void_sentence(0.5) is None
    checked = ran("data", "check", tmp_path / "gt.json").output
    assert "67% of the ground truth is void" in checked
