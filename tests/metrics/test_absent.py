"""What makes a score say little is said beside it: nothing predicted, and a truth that is void for the most part."""

import numpy as np
import pytest
from little_runs import CATEGORIES, scored
from support import ran

from panbench.metrics.absent import void_warning
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Segment
from panbench.report.answers.findings import error_findings
from panbench.report.answers.tables import comparison_row
from panbench.runs import FileHashes, RuleRecord, RunInfo, RunWriter, load_run

GT = dict.fromkeys(range(1, 13), "ppppqqqqssss")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("absent")
    return {
        "nothing": scored(folder, "nothing", GT, ["............" for _ in GT]),
        "stuff": scored(folder, "stuff", GT, ["........ssss" for _ in GT]),
        "all": scored(folder, "all", GT, ["ppppqqqqssss" for _ in GT]),
    }


def test_errors_of_a_run_without_predictions_say_so_and_list_no_fixes(runs):
    notes = comparison_row(runs["nothing"]).notes
    assert notes[0] == "no segment is predicted in 12 of 12 images"
    found = error_findings(runs["nothing"])
    assert found.record["fix_first"] == []
    assert not any(grid.columns[0] == "Fix first" for grid in found.grids)
    assert error_findings(runs["stuff"]).record["fix_first"]


@pytest.mark.parametrize("command", ["errors", "metrics"])
def test_metrics_of_a_run_without_predictions_say_so_first(runs, command):
    printed = ran(command, runs["nothing"].path).stdout
    assert printed.splitlines()[1] == "No segment is predicted in 12 of 12 images."
    assert printed.count("o segment is predicted") == 1


def test_thing_categories_that_are_never_predicted_are_counted(runs):
    assert "no thing is predicted, of 24 segments in the ground truth" in comparison_row(runs["stuff"]).notes
    assert comparison_row(runs["all"]).notes == ()


def test_a_category_with_many_segments_that_is_never_predicted_is_named(tmp_path):
    truth = dict.fromkeys(range(1, 13), "ppppddddssss")
    run = scored(tmp_path / "many", "run", truth, ["pppp....ssss" for _ in truth])
    assert comparison_row(run).notes == ("never predicted: dog (12 segments)",)
    few = dict.fromkeys(range(1, 10), "ppppddddssss")
    assert comparison_row(scored(tmp_path / "fewer", "few", few, ["pppp....ssss" for _ in few])).notes == ()


MASKFORMER = RuleRecord("maskformer", {"score": 0.8})


@pytest.mark.parametrize(
    ("rule", "best", "said"),
    [
        (MASKFORMER, (0.25, 0.7963), "; the best score was 0.79, the rule's threshold is 0.8"),
        (MASKFORMER, (0.0, 0.0), "; what scores less than the thresholds of the rule maskformer:score=0.8 is dropped"),
        (
            RuleRecord("kmax", {"things": 0.7}),
            (0.0, 0.3127),
            "; the best score was 0.31, and what scores less than the thresholds of the rule kmax:things=0.7 is "
            "dropped",
        ),
        (None, (0.0, 0.0), ""),
    ],
    ids=["score", "no score is known", "thresholds of other names", "no rule"],
)
def test_a_run_whose_rule_dropped_everything_reports_the_best_score(tmp_path, rule, best, said):
    truth = np.array([[7, 7, 8]], np.int32)
    info = RunInfo(categories=CATEGORIES, rule=rule)
    writer = RunWriter.create(tmp_path / "run", info)
    for image_id, dropped in enumerate(best, 1):
        table = overlap_table(image_id, truth, [Segment(7, 1, 2), Segment(8, 9, 1)], 0 * truth, [])
        writer.write_part(table, FileHashes.of([(image_id, b"", b"")], dropped=[dropped]))
    writer.finish("done")
    assert f"no segment is predicted in 2 of 2 images{said}" in comparison_row(load_run(tmp_path / "run")).notes


def test_a_ground_truth_that_is_mostly_void_is_reported(tmp_path):
    void = dict.fromkeys(range(1, 13), "pppp........")
    notes = comparison_row(scored(tmp_path, "void", void, ["ppppqqqq...." for _ in void])).notes
    assert notes == (
        "67 % of the ground truth is void: predictions there are not counted; if 0 is background, give it a category",
    )
    assert void_warning(0.5) is None
    checked = ran("data", "check", tmp_path / "gt.json").output
    assert "67% of the ground truth is void" in checked
