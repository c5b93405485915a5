import dataclasses
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
from support import Recorder, drawn, refusal

from panbench.base.errors import BadArgument, BadRun, OutOfSpace
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.stored import rule_statistics as rule_statistics_module
from panbench.evaluation.stored.rule_statistics import ChunkCache, rule_statistics
from panbench.evaluation.stored.stored_model import StoredModel, dataset_of
from panbench.evaluation.stored.tuning import tune
from panbench.metrics.slices import image_statistics, pq_by
from panbench.models.opening import open_model
from panbench.models.rules import parse_rule
from panbench.models.stored import StoredOutputs
from panbench.panoptic.coco import read_id_png, write_id_png
from panbench.report.answers.stored import verify
from panbench.runs import candidate_files, layout, load_run, remove_run
from panbench.studies.ensembles.by_masks import StoredEnsemble
from panbench.studies.fusing.again import fuse_run, oracle_statistics, parse_sweep
from panbench.studies.fusing.answer import ORACLE_STEPS, read_oracle, write_oracle

KEEP = EvaluateOptions(keep_candidates=True, save_predictions=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(drawn(tmp_path_factory, 8, (96, 128)))


@pytest.fixture(scope="module")
def model():
    return open_model(find_model("mask2former-tiny"))


@pytest.fixture(scope="module")
def run(dataset, model, tmp_path_factory):
    return evaluate(model, dataset, tmp_path_factory.mktemp("run") / "m2f", KEEP)


def maps(run) -> list[np.ndarray]:
    return [read_id_png(path) for path in sorted((run.path / "predictions").glob("*.png"))]


def test_fusing_again_by_the_same_rule_gives_the_same_maps(run, tmp_path):
    (again,) = fuse_run(
        run, [StoredModel(run).paper], tmp_path / "again", options=EvaluateOptions(save_predictions=True)
    )
    for one, other in zip(maps(run), maps(again), strict=True):
        assert np.array_equal(one, other)
    assert again.pq().equals(run.pq())
    assert again.info.rule == run.info.rule


@pytest.mark.parametrize("name", ["panoptic-fpn-tiny", "maskformer-tiny"])
def test_candidates_of_other_families_can_be_fused_again(dataset, tmp_path, name):
    kept = evaluate(open_model(find_model(name)), dataset, tmp_path / "kept", KEEP)
    (again,) = fuse_run(kept, [StoredModel(kept).paper], tmp_path / "again")
    assert again.pq().equals(kept.pq())


def test_other_rules_give_the_same_maps_as_from_the_network(run, model, dataset, tmp_path):
    rules = [parse_rule("maskformer"), parse_rule("mask2former:score=0.3,overlap=0.5")]
    for rule, fused in zip(rules, fuse_run(run, rules, tmp_path / "rules"), strict=True):
        model.rule, paper = rule, model.rule
        try:
            with_network = evaluate(model, dataset, tmp_path / f"network-{rule.name}-{rule.score}")
        finally:
            model.rule = paper
        assert fused.pq().equals(with_network.pq())
        assert fused.info.rule.name == rule.name
        assert fused.path.parent == tmp_path / "rules"


def test_fusing_again_does_not_need_the_photographs(run, dataset, tmp_path):
    hidden = dataset.images.with_name("moved")
    dataset.images.rename(hidden)
    try:
        (again,) = fuse_run(run, [parse_rule("mask2former")], tmp_path / "again")
    finally:
        hidden.rename(dataset.images)
    assert again.pq().equals(run.pq())


def test_the_size_of_candidates_is_announced(dataset, model, tmp_path):
    heard = Recorder()
    kept = evaluate(model, dataset, tmp_path / "run", EvaluateOptions(keep_candidates=True, half_precision=True), heard)
    assert any("MB per image" in notice for notice in heard.notices)
    assert any("the maps that fuse makes of them may differ from this run's" in notice for notice in heard.notices)
    assert StoredOutputs(kept.path / "candidates").image_ids == kept.image_ids()


def test_a_resumed_run_stores_missing_candidates(run, dataset, model, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    stored = tmp_path / "run" / "candidates"
    for file in candidate_files(tmp_path / "run"):
        file.unlink()
    # As after a kill between a part and the candidates of its images.
    record = (tmp_path / "run" / "run.json").read_text().replace('"status": "done"', '"status": "interrupted"')
    (tmp_path / "run" / "run.json").write_text(record)
    resumed = evaluate(
        model, dataset, tmp_path / "run", EvaluateOptions(keep_candidates=True, save_predictions=True, resume=True)
    )
    assert StoredOutputs(stored).image_ids == run.image_ids()
    assert resumed.pq().equals(run.pq())


def test_runs_without_or_with_foreign_candidates_are_refused(run, dataset, model, tmp_path):
    bare = evaluate(model, dataset, tmp_path / "bare")
    assert "--keep-candidates" in refusal(BadRun, fuse_run, bare, [parse_rule("mask2former")], tmp_path / "out")
    other = evaluate(open_model(find_model("maskformer-tiny")), dataset, tmp_path / "other")
    shutil.copytree(run.path / "candidates", other.path / "candidates")
    with pytest.raises(BadRun, match="of another run"):
        fuse_run(load_run(other.path), [parse_rule("mask2former")], tmp_path / "out")
    assert "takes" in refusal(BadArgument, fuse_run, run, [parse_rule("panoptic-fpn")], tmp_path / "out")
    with pytest.raises(BadArgument, match=r"stored those above 0\.05"):
        fuse_run(run, [parse_rule("mask2former:score=0.01")], tmp_path / "out")


def test_a_sweep_parses_its_points():
    rules = parse_sweep("mask2former:score=0.5:0.7:0.1,overlap=0.8")
    assert [rule.score for rule in rules] == [0.5, 0.6, 0.7]
    assert {rule.overlap for rule in rules} == {0.8}
    assert len(parse_sweep("mask2former:score=0.5:0.95:0.05,overlap=0.5:0.95:0.05")) == 100


@pytest.mark.parametrize(
    "line", ["mask2former", "mask2former:score=0.5", "mask2former:score=0.9:0.5:0.1", "mask2former:score=0.5:0.9:0"]
)
def test_sweeps_without_points_are_refused(line):
    assert "sweep" in refusal(BadArgument, parse_sweep, line)


def test_a_sweep_includes_the_published_point(run):
    model = StoredModel(run)
    dataset = dataset_of(run, model.stored.image_ids)
    ids = model.category_ids(dataset.categories)
    rules = [model.paper, *parse_sweep("mask2former:score=0.2:0.8:0.3,overlap=0.5:0.8:0.3")]
    rules = list(dict.fromkeys(rules))
    statistics = rule_statistics(model.stored, dataset.scenes, dataset.categories, ids, rules)
    assert len(statistics) == 6
    published = pq_by(statistics[str(model.paper)]).iloc[0]
    assert published["PQ"] == run.summary()["All"]["PQ"]
    tuned = tune(statistics, str(model.paper))
    assert tuned.table["PQ"].max() >= published["PQ"]
    assert tuned.held_out["PQ"] == pytest.approx(tuned.table["PQ"].max() - tuned.flattery)


def test_a_killed_sweep_is_resumed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(rule_statistics_module, "IMAGES_A_CHUNK", 3)
    model = StoredModel(run)
    dataset = dataset_of(run, model.stored.image_ids)
    ids = model.category_ids(dataset.categories)
    rules = [model.paper, *parse_sweep("mask2former:score=0.2:0.8:0.3")]
    given = (dataset.scenes, dataset.categories, ids, rules)
    whole = rule_statistics(model.stored, *given)
    kept = ChunkCache(tmp_path / "blocks", "a run")

    class Killed(Exception): ...

    class Dying:
        def read(self, image_id):
            if image_id == model.stored.image_ids[7]:
                raise Killed
            return model.stored.read(image_id)

    with pytest.raises(Killed):
        rule_statistics(Dying(), *given, cache=kept)
    assert len(list(kept.folder.glob("*.parquet"))) == 2
    torn = sorted(kept.folder.glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:50])
    read = []

    class Counting:
        def read(self, image_id):
            read.append(image_id)
            return model.stored.read(image_id)

    resumed = rule_statistics(Counting(), *given, cache=kept)
    # The chunk that was not finished, and the one that is torn.
    assert len(read) == 5
    for name, statistics in whole.items():
        assert resumed[name].table.equals(statistics.table)
        assert np.array_equal(resumed[name].image_ids, statistics.image_ids)
    kept.clear()
    assert not kept.folder.exists()
    # Chunks of another run are not taken for this one's.
    assert kept.chunk_file(["a"], [1]) != ChunkCache(kept.folder, "another run").chunk_file(["a"], [1])


def test_rules_that_need_candidates_below_the_stored_gate_are_refused(run):
    model = StoredModel(run)
    for rule, message in (
        ("kmax", "kmax takes all candidates"),
        ("mask-wise:quality=0.01", "from a score of 0.01 on"),
        ("panoptic-fpn", "Rules that fit it: detr, maskformer"),
    ):
        with pytest.raises(BadArgument, match=message):
            model.with_rule(parse_rule(rule))
    assert model.with_rule(parse_rule("argmax")).rule.name == "argmax"
    assert model.rule.name == "mask2former"


def test_the_oracle_attributes_the_loss(run):
    model = StoredModel(run)
    dataset = dataset_of(run, model.stored.image_ids)
    ids = model.category_ids(dataset.categories)
    steps = oracle_statistics(model.stored, dataset.scenes, dataset.categories, ids, model.paper)
    pq = {step: pq_by(of_step).iloc[0]["PQ"] for step, of_step in steps.items()}
    assert pq["rule"] == run.summary()["All"]["PQ"]
    assert pq["rule"] <= min(pq["labels"], pq["order"]) + 1e-9
    assert pq["all"] >= max(pq["labels"], pq["selection"]) - 1e-9
    assert pq["all"] < 1


def test_masks_of_two_query_models_are_averaged(run, dataset, tmp_path):
    other = evaluate(open_model(find_model("maskformer-tiny")), dataset, tmp_path / "maskformer", KEEP)
    ensemble = StoredEnsemble([run, other])
    both = evaluate(ensemble, dataset, tmp_path / "both")
    assert both.info.model.family == "ensemble"
    assert both.summary()["All"]["PQ"] > min(run.summary()["All"]["PQ"], other.summary()["All"]["PQ"]) - 0.02
    alone = evaluate(StoredEnsemble([run]), dataset, tmp_path / "alone")
    assert alone.pq().equals(run.pq())


def test_masks_and_boxes_are_not_averaged(run, dataset, tmp_path):
    boxes = evaluate(open_model(find_model("panoptic-fpn-tiny")), dataset, tmp_path / "boxes", KEEP)
    with pytest.raises(BadArgument, match="cannot be averaged"):
        evaluate(StoredEnsemble([run, boxes]), dataset, tmp_path / "both")


def test_deleting_a_run_deletes_all_it_can_contain(dataset, model, tmp_path):
    unfused = pytest.importorskip("panbench.studies.unfused.options")
    options = dataclasses.replace(KEEP, studies=(unfused.UnfusedOptions("pq,ap,miou"),))
    made = evaluate(model, dataset, tmp_path / "run", options)
    write_oracle(made, dict.fromkeys(ORACLE_STEPS, image_statistics(made.matched, made.categories)))
    # As an oracle leaves it that was killed.
    (made.path / layout.ORACLE_BLOCKS).mkdir()
    (made.path / layout.ORACLE_BLOCKS / f"{'0a' * 10}.parquet").write_bytes(b"")
    assert {path.name for path in made.path.iterdir()} == set(layout.deletable_names()) - {layout.MARK}
    (made.path / "candidates" / ".7.parquet.k1ll3d_0.tmp").write_bytes(b"left by a kill")
    assert remove_run(made.path) == ()
    assert not made.path.exists()


def test_a_run_that_replaces_another_does_not_inherit_its_oracle(dataset, model, tmp_path):
    made = evaluate(model, dataset, tmp_path / "run", KEEP)
    write_oracle(made, dict.fromkeys(ORACLE_STEPS, image_statistics(made.matched, made.categories)))
    (made.path / "notes.md").write_text("mine")
    again = evaluate(model, dataset, tmp_path / "run", EvaluateOptions(overwrite=True))
    assert read_oracle(again) is None
    assert {path.name for path in again.path.iterdir()} == {"run.json", "parts", "notes.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("moment", ["before the first image", "at predictions.json"])
def test_running_out_of_space_marks_the_run_as_failed(dataset, model, tmp_path, monkeypatch, moment):
    def full(*_: object, **__: object) -> None:
        raise OutOfSpace("No room.")

    name = "sinks.require_space" if moment == "before the first image" else "run_folders.write_predictions_json"
    monkeypatch.setattr(f"panbench.evaluation.{name}", full)
    assert "No room." in refusal(OutOfSpace, evaluate, model, dataset, tmp_path / "run", KEEP)
    info = load_run(tmp_path / "run").info
    assert (info.status, info.error) == ("failed", "No room.")
    monkeypatch.undo()
    resumed = evaluate(model, dataset, tmp_path / "run", dataclasses.replace(KEEP, resume=True))
    assert (resumed.info.status, resumed.info.images.scored) == ("done", 8)


class TestChanged:
    """What a run kept is what is read, or is refused."""

    @pytest.fixture
    def copy(self, run, tmp_path):
        return load_run(shutil.copytree(run.path, tmp_path / "m2f"))

    def test_a_run_with_everything_stored_is_verified(self, copy):
        write_oracle(copy, dict.fromkeys(ORACLE_STEPS, image_statistics(copy.matched, copy.categories)))
        found = verify(copy)
        assert (found.state, found.problems) == ("verified", ())
        said = " ".join(found.checked)
        assert "9 files of candidates and oracle are unchanged." in said
        assert "8 predictions are unchanged." in said
        assert "not recorded" not in said

    def test_candidates_of_other_images_are_refused_despite_valid_checksums(self, copy):
        one, other, *_ = candidate_files(copy.path)
        one.write_bytes(other.read_bytes())
        with pytest.raises(BadRun, match=f"{one.name} is not what the run wrote"):
            StoredOutputs(copy.path / "candidates").read(int(one.stem))
        assert any(one.name in problem for problem in verify(copy).problems)

    def test_an_oracle_with_other_numbers_is_refused(self, copy):
        write_oracle(copy, dict.fromkeys(ORACLE_STEPS, image_statistics(copy.matched, copy.categories)))
        path = copy.path / "oracle.parquet"
        table = pyarrow.parquet.read_table(path)
        at = table.schema.get_field_index("TP")
        pyarrow.parquet.write_table(table.set_column(at, "TP", pc.add(table.column("TP"), 1)), path)
        assert "oracle.parquet is not what the run wrote" in refusal(BadRun, read_oracle, copy)
        assert verify(copy).state == "damaged"

    def test_a_shifted_prediction_counts_as_damage(self, copy):
        for path in (copy.path / "predictions").glob("*.png"):
            write_id_png(path, np.roll(read_id_png(path), 40, axis=1))
        assert any("8 predictions changed since the run was made" in problem for problem in verify(copy).problems)

    def test_removed_candidates_are_not_damage(self, copy):
        shutil.rmtree(copy.path / "candidates")
        found = verify(copy)
        assert found.state == "verified"
        assert "was stored and no longer exists" in " ".join(found.checked)
