"""Tables that a study keeps beside a run's parts: whatever a study calls its rows, the run knows which are its own."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from little_runs import CATEGORIES, one_row
from support import refusal

from panbench.base import studies
from panbench.base.studies import Study
from panbench.report.answers.stored import verify
from panbench.runs import RunInfo, RunWriter, load_run, remove_run
from panbench.runs.merge import merge_runs

NAME = "colours"


@pytest.fixture(autouse=True)
def _a_study_with_a_table(monkeypatch):
    everything = (*studies.find_studies(), Study("paint", "Colours.", tables={NAME: "colours"}))
    monkeypatch.setattr(studies, "find_studies", lambda: everything)


def rows(*images, red=7):
    columns = {"image_id": np.array(images, np.int64), "red": np.full(len(images), red, np.int32)}
    return pa.table(columns).replace_schema_metadata({b"paint": b"oil"})


def stored(path, *chunks, **changes):
    """A run with a part and a file of colours for each chunk of images."""
    made = RunWriter.create(path, replace(RunInfo(categories=CATEGORIES), **changes))
    for chunk in chunks:
        for image_id in chunk:
            made.write_part(one_row(image_id))
        made.write_study_rows(NAME, rows(*chunk))
    return made


def reds(run):
    table = run.study_tables[NAME].table
    return dict(zip(table.column("image_id").to_pylist(), table.column("red").to_pylist(), strict=True))


def test_rows_are_read_in_order_of_images_and_their_files_listed_in_run_json(tmp_path):
    run = stored(tmp_path / "run", [5, 3], [1]).finish("done")
    assert list(reds(run)) == [1, 3, 5]
    assert run.study_tables[NAME].table.schema.metadata == {b"paint": b"oil"}
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [listed["images"] for listed in content[NAME]] == [2, 1]
    assert list(load_run(tmp_path / "run").info.study_tables) == [NAME]
    assert "2 files of colours are unchanged." in verify(run).checked


@pytest.mark.parametrize("harm", ["changed", "missing", "foreign"])
def test_a_foreign_file_is_left_out_with_a_notice(harm, tmp_path):
    stored(tmp_path / "run", [1], [2]).finish("done")
    first, second = sorted((tmp_path / "run" / NAME).iterdir())
    if harm == "changed":
        first.write_bytes(second.read_bytes())
    elif harm == "missing":
        first.unlink()
    else:
        stored(tmp_path / "other", [3]).finish("done")
        (other,) = (tmp_path / "other" / NAME).iterdir()
        (first.parent / "0000-000009.parquet").write_bytes(other.read_bytes())
    run = load_run(tmp_path / "run")
    (notice,) = run.study_tables[NAME].notices
    said = {"changed": "its SHA-256 differs", "missing": "is missing", "foreign": "by another run"}
    assert said[harm] in notice
    assert notice in verify(run).problems
    assert 3 not in reds(run)


def test_an_image_with_two_sets_of_rows_counts_once(tmp_path):
    # Killed between a part and the file beside it, a run looks at those images again.
    made = stored(tmp_path / "run", [1, 2])
    made.write_study_rows(NAME, rows(2, 3, red=9))
    assert reds(made.finish("done")) == {1: 7, 2: 7, 3: 9}


def test_a_resumed_run_continues_its_study_table(tmp_path):
    stored(tmp_path / "run", [1]).finish("interrupted")
    made = RunWriter.resume(tmp_path / "run")
    made.write_part(one_row(2))
    made.write_study_rows(NAME, rows(2))
    assert list(reds(made.finish("done"))) == [1, 2]


def test_merged_runs_have_the_rows_of_all(tmp_path):
    for number, chunk in enumerate(([4, 2], [1, 3])):
        stored(tmp_path / f"shard-{number}", chunk).finish("done")
    merged = merge_runs([tmp_path / "shard-0", tmp_path / "shard-1"], tmp_path / "merged")
    assert list(reds(merged)) == [1, 2, 3, 4]
    assert [listed.images for listed in merged.info.study_tables[NAME]] == [2, 2]


def test_deleting_a_run_deletes_its_study_table(tmp_path):
    stored(tmp_path / "run", [1]).finish("done")
    assert remove_run(tmp_path / "run") == ()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["parts", "predictions", "summary"])
def test_reserved_names_are_refused_for_study_tables(name, tmp_path):
    made = stored(tmp_path / "run", [1])
    assert "is reserved in a run folder" in refusal(ValueError, made.write_study_rows, name, rows(1))


def test_listed_study_tables_survive_without_their_study(tmp_path, monkeypatch):
    stored(tmp_path / "run", [1]).finish("done")
    monkeypatch.setattr(studies, "find_studies", tuple)
    RunWriter.resume(tmp_path / "run").finish("done")
    assert [listed["images"] for listed in json.loads((tmp_path / "run" / "run.json").read_text())[NAME]] == [1]
    assert remove_run(tmp_path / "run") == ()


def test_runs_are_merged_with_tables_of_studies_that_are_not_installed(tmp_path, monkeypatch):
    for number, chunk in enumerate(([4, 2], [1, 3])):
        stored(tmp_path / f"shard-{number}", chunk).finish("done")
    monkeypatch.setattr(studies, "find_studies", tuple)
    merged = merge_runs([tmp_path / "shard-0", tmp_path / "shard-1"], tmp_path / "merged")
    assert list(reds(merged)) == [1, 2, 3, 4]
    assert [listed.images for listed in merged.info.study_tables[NAME]] == [2, 2]
