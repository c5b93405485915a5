import json
from pathlib import Path

import numpy as np
import pytest
from support import refusal

from panbench.base.errors import BadArgument, BadRun
from panbench.datasets import shapes
from panbench.panoptic.coco import read_id_png, read_panoptic_json, read_predictions_json, write_id_png
from panbench.runs import load_run
from panbench.scoring.folder import score_folder
from panbench.studies.ensembles.by_votes import ensemble_runs


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three 'models' of 12 scenes: one loses things, one loses stuff, one moves everything by a pixel."""
    root = tmp_path_factory.mktemp("ensemble")
    gt = shapes.generate(root / "set", count=12, size=(64, 80))
    truth = read_panoptic_json(gt, gt.parent / "panoptic_val")
    isthing = {category.id: category.isthing for category in truth.categories}

    def predict(name: str, loses: bool | None) -> Path:
        annotations = []
        for image_id, annotation in truth.annotations.items():
            ids = read_id_png(truth.png_path(image_id))
            if loses is None:
                ids = np.roll(ids, 1, axis=1)
            kept = [
                segment
                for segment in annotation.segments
                if loses is None or isthing[segment.category_id] != loses or (segment.id + image_id) % 3
            ]
            kept = [segment for segment in kept if (ids == segment.id).any()]
            ids = np.where(np.isin(ids, [segment.id for segment in kept]), ids, 0)
            write_id_png(root / name / annotation.file_name, ids)
            annotations.append(
                {
                    "image_id": image_id,
                    "file_name": annotation.file_name,
                    "segments_info": [{"id": one.id, "category_id": one.category_id, "score": 0.9} for one in kept],
                }
            )
        path = root / f"{name}.json"
        path.write_text(json.dumps({"annotations": annotations}))
        score_folder(gt, path, truth.folder, root / name, root / "runs" / name)
        return root / "runs" / name

    return [load_run(predict(name, loses)) for name, loses in (("things", True), ("stuff", False), ("moved", None))]


def pq(run) -> float:
    return run.summary()["All"]["PQ"]


def test_an_ensemble_beats_its_members_and_is_an_ordinary_run(members, tmp_path):
    run, (share,) = ensemble_runs(members, tmp_path / "both")
    assert pq(run) > max(map(pq, members))
    assert share.things == share.stuff == (1.0, 1.0, 1.0)
    stored = load_run(tmp_path / "both")
    assert stored.info.status == "done"
    assert stored.image_ids() == members[0].image_ids()
    assert stored.info.model.title == "Ensemble of 3 runs"
    kept = read_predictions_json(tmp_path / "both" / "predictions.json", tmp_path / "both" / "predictions")
    assert set(kept.annotations) == set(run.image_ids())
    # Scored as a folder of anybody's it has the same PQ.
    dataset = members[0].info.dataset
    again = score_folder(dataset.gt, kept.path, dataset.gt_dir, kept.folder)
    assert again.pq().equals(run.pq())


def test_tuned_weights_do_not_depend_on_the_images_they_fuse(members, tmp_path):
    run, shares = ensemble_runs(members, tmp_path / "tuned", tuned=True, seed=1)
    assert [share.images for share in shares] == [6, 6]
    assert all(share.pq_here is not None for share in shares)
    assert pq(run) > max(map(pq, members))
    assert run.info.arguments["tuned"] is True
    assert run.info.arguments["weights_1_things"].count(" ") == 2


def test_given_weights_decide_between_runs(members, tmp_path):
    run, _ = ensemble_runs(members, tmp_path / "one", weights=[0.0, 0.0, 1.0])
    assert pq(run) == pytest.approx(pq(members[2]), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0, 2.0]}, "needs 3 weights"),
        ({"weights": [0.0, 0.0, 0.0]}, "one above"),
        ({"weights": [1.0, -1.0, 1.0]}, "none below 0"),
        ({"weights": [1.0, 1.0, 1.0], "tuned": True}, "either given or tuned"),
    ],
)
def test_weights_that_do_not_fit_are_refused(members, tmp_path, options, message):
    assert message in refusal(BadArgument, ensemble_runs, members, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_single_run_is_refused(members, tmp_path):
    assert "at least two" in refusal(BadArgument, ensemble_runs, members[:1], tmp_path / "run")


def test_runs_without_maps_or_of_other_data_are_refused(members, tmp_path):
    reference = Path(__file__).parents[2] / "reference" / "pq_edges"
    other = score_folder(reference / "gt.json", reference / "pred.json", out=tmp_path / "edges")
    with pytest.raises(BadRun, match=r"was scored on .* and .* on .*: there is nothing to vote on"):
        ensemble_runs([members[0], other], tmp_path / "run")
    moved = Path(members[0].info.predictions.json)
    hidden = moved.with_suffix(".hidden")
    moved.rename(hidden)
    try:
        assert "--save-predictions" in refusal(BadRun, ensemble_runs, members, tmp_path / "run")
    finally:
        hidden.rename(moved)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_replaced_unless_requested(members, tmp_path):
    ensemble_runs(members[:2], tmp_path / "run")
    assert "--overwrite" in refusal(BadRun, ensemble_runs, members, tmp_path / "run")
    ensemble_runs(members, tmp_path / "run", overwrite=True)
