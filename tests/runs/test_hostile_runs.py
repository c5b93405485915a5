"""A run from a stranger is data: nothing that its files say leads out of its folder, whatever command reads them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_runs import everything, finished, one_row, scored, write_side
from support import edited, panbench, refusal, refused

from panbench.base.errors import BadRun, PanbenchError
from panbench.runs import RunWriter, load_run, remove_run, write_predictions_json
from panbench.runs.layout import is_own_name
from panbench.runs.merge import merge_runs

PART = "0000-000000.parquet"
NAMES = ["../victim/parts", "{folder}/victim/parts", "..", ".", "a/b", "a\\b", "", "C:", "candidates", "hashes"]


@pytest.fixture
def victim(tmp_path) -> Path:
    """A run of somebody else's, with an empty folder and a file that no run lists."""
    path = finished(tmp_path / "victim", 1)
    (path / "parts" / "empty").mkdir()
    shutil.copy(path / "parts" / PART, path / "parts" / "7-7.parquet")
    return path


@pytest.fixture
def untouched(victim):
    """Asserts at its end that the victim is as it was."""
    before = everything(victim)
    yield
    assert everything(victim) == before
    assert (victim / "parts" / "empty").is_dir()


def changed(run: Path, **fields: Any) -> None:
    record = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps({**record, **fields}), "utf-8")


def listed(name: str) -> dict[str, Any]:
    return {"name": name, "size": 1, "sha256": "0" * 64, "images": 1}


@pytest.mark.parametrize("name", NAMES)
def test_a_study_table_cannot_be_a_folder_elsewhere(tmp_path, untouched, name):
    host, name = finished(tmp_path / "host", 2), name.format(folder=tmp_path)
    changed(host, **{name: [listed(PART)]})
    said = refused("runs", "delete", host, "--yes")
    assert "is not the name of a study table" in " ".join(said.split())
    gt = write_side(tmp_path, "gt", {1: "ps"})
    refused("score", "--gt", gt, "--pred", write_side(tmp_path, "pred", {1: "ps"}), "--out", host, "--overwrite")
    refused("runs", "merge", host, finished(tmp_path / "other", 3), "--out", tmp_path / "merged")
    refused("runs", "verify", host)
    assert not (tmp_path / "merged").exists()
    assert host.is_dir()


@pytest.mark.parametrize("name", ["../../victim/parts/" + PART, "/" + PART, "..", "A.parquet", "a\0.parquet"])
def test_a_part_cannot_be_a_file_elsewhere(tmp_path, untouched, name):
    host = finished(tmp_path / "host", 2)
    changed(host, parts=[listed(name)])
    assert "`parts[0].name` must be a name of a-z" in refusal(BadRun, load_run, host)


def _spoiled(value: Any, wrong: str) -> Iterator[Any]:
    """A JSON with another text in the place of each text in it, keys too."""
    if isinstance(value, str) or value is None:
        yield wrong
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from ([*value[:place], one, *value[place + 1 :]] for one in _spoiled(item, wrong))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from ({**value, key: one} for one in _spoiled(item, wrong))
            yield {**{other: kept for other, kept in value.items() if other != key}, wrong: item}


def _rich_run(folder: Path) -> Path:
    """A scored run with predictions, a study table and every kind of file that names others."""
    given = scored(folder, "made", {2: "ppd"}, {2: "ppd"})
    writer = RunWriter.create(folder / "host", given.info)
    writer.write_part(one_row(2))
    writer.write_study_rows("colours", pa.table({"image_id": [2]}))
    write_predictions_json(load_run(writer.path), {2: "2.png"})
    shutil.copytree(folder / "made-pred", writer.path / "predictions")
    return writer.finish("interrupted").path


@pytest.mark.parametrize("file", ["run.json", "predictions.json"])
def test_no_text_in_a_run_makes_a_command_write_outside(tmp_path, untouched, file, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of files, none of which must outlive this
    run = _rich_run(tmp_path)
    record, beside = json.loads((run / file).read_text("utf-8")), set(tmp_path.iterdir())
    outcomes: set[str] = set()
    record["categories"] = record["categories"][:1]
    cases = (("../victim/parts", merge), (f"{tmp_path}/victim/parts", remove_run))
    for spoiled, use in ((spoiled, use) for wrong, use in cases for spoiled in _spoiled(record, wrong)):
        host = Path(shutil.copytree(run, tmp_path / "copy"))
        (host / file).write_text(json.dumps(spoiled), "utf-8")
        try:
            use(host)
            outcomes.add("done")
        except PanbenchError:
            outcomes.add("refused")
        for made in ("copy", "merged"):
            shutil.rmtree(tmp_path / made, ignore_errors=True)
    assert outcomes == {"done", "refused"}
    assert set(tmp_path.iterdir()) == beside


def merge(host: Path) -> None:
    changed(host, status="done")
    merge_runs([host], host.with_name("merged"))


def test_a_prediction_link_that_leads_outside_is_not_merged(tmp_path, untouched):
    run = _rich_run(tmp_path)
    changed(run, status="done")
    (run / "predictions" / "2.png").unlink()
    (run / "predictions" / "2.png").symlink_to(tmp_path / "victim" / "run.json")
    said = refused("runs", "merge", run, "--out", tmp_path / "merged")
    assert "lies outside of the run" in " ".join(said.split())


def test_hashes_of_files_elsewhere_do_not_make_them_part_of_the_run(tmp_path, untouched):
    host = finished(tmp_path / "host", 2)
    (host / "hashes").mkdir()
    names = ["candidates/../../victim/run.json", "../victim/run.json", f"{tmp_path}/victim/run.json"]
    (host / "hashes" / "0000.sha256").write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    assert panbench("runs", "delete", host, "--yes").exit_code == 0
    assert not host.exists()


@pytest.mark.parametrize("name", ["unfused", "my_table-2.v1", "0000-000000.parquet"])
def test_names_given_by_panbench_and_studies_are_accepted(name):
    assert is_own_name(name)


@pytest.mark.parametrize("folder", ["parts", "colours"])
def test_a_file_with_a_repeated_column_is_left_out_with_a_notice(tmp_path, folder):
    run = _rich_run(tmp_path)
    (path,) = (run / folder).iterdir()
    table = pq.read_table(path)
    twice = pa.Table.from_arrays([*table.columns, table.column("image_id")], names=[*table.schema.names, "image_id"])
    pq.write_table(twice.replace_schema_metadata(table.schema.metadata), path)
    with edited(run / "run.json") as record:
        record["parts" if folder == "parts" else folder][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    result = panbench("runs", "verify", run)
    assert result.exit_code == 1
    assert "was left out" in " ".join(result.stdout.split())
    assert "fault of panbench" not in result.output
