"""The index of a dataset: the rows of its JSON, read by the share, and never those of another JSON."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from panbench.base.errors import BadDataset
from panbench.cli import app as cli
from panbench.datasets import index as indexing
from panbench.datasets.index import build_index, fresh_index, index_paths, open_index, share_of
from panbench.panoptic.coco import read_annotation_columns, read_panoptic_json, read_predictions_json
from panbench.panoptic.fingerprint import fingerprint_of_columns, fingerprint_of_set, joined_rows

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "who", "color": [1, 2, 3]},
    {"id": 92, "name": "sky", "isthing": 0},
]


def content(image_ids: list[int], annotated: bool = True) -> dict:
    """A JSON of these images, each with as many segments as the last digit of its id says."""

    def segment(number: int) -> dict:
        found = {"id": 17 - number, "category_id": (1, 92)[number % 2], "area": 10 + number, "iscrowd": number == 2}
        return found if number == 1 else {**found, "bbox": [1, 2.5, 3, 4], "score": 0.1 + number}

    def annotation(image_id: int) -> dict:
        segments = [segment(number) for number in range(image_id % 10)]
        return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}

    return {
        "images": [{"id": one, "file_name": f"{one}.jpg", "height": 4 + one % 3, "width": 5} for one in image_ids],
        "annotations": [annotation(one) for one in reversed(image_ids)] if annotated else [],
        "categories": CATEGORIES,
    }


def written(path: Path, image_ids: list[int], **options) -> Path:
    """A JSON on disk whose times lie far enough back to be believed."""
    path.write_text(json.dumps(content(image_ids, **options)))
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch, tmp_path):
    monkeypatch.setattr(indexing, "ROW_GROUP_IMAGES", 4)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))


IDS = [44, 3, 12, 31, 8, 25, 7, 16, 90, 51, 62]


def test_the_index_has_the_rows_of_the_json(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    index = open_index(build_index([path]))
    truth = read_panoptic_json(path)
    rows = list(index.rows().images())
    assert [image.id for image, _ in rows] == sorted(IDS)
    assert {image.id: image for image, _ in rows} == truth.images
    assert {image.id: annotation for image, annotation in rows} == truth.annotations
    assert index.facts.categories == truth.categories
    assert [IDS[place] for place in index.places().tolist()] == index.ids().tolist()


def test_predictions_are_indexed_without_images(tmp_path):
    path = written(tmp_path / "pred.json", IDS)
    document = json.loads(path.read_text())
    del document["images"], document["categories"]
    path.write_text(json.dumps(document))
    index = open_index(build_index([path], predictions=True))
    found = {image.id: annotation for image, annotation in index.rows().images()}
    assert found == read_predictions_json(path).annotations


def test_images_without_annotation_stay_in_the_index(tmp_path):
    document = content([5, 3, 4])
    document["annotations"] = document["annotations"][1:]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(document))
    rows = {image.id: annotation for image, annotation in open_index(build_index([path])).rows().images()}
    assert rows[4] is None
    assert len(rows[3].segments) == 3
    assert len(rows[5].segments) == 5


def test_a_list_of_images_without_ground_truth_is_indexed(tmp_path):
    path = written(tmp_path / "list.json", IDS, annotated=False)
    index = open_index(build_index([path]))
    assert [annotation for _, annotation in index.rows().images()] == [None] * len(IDS)
    assert index.facts.rows == fingerprint_of_set(read_panoptic_json(path))


@pytest.mark.parametrize("of", [1, 3, 11])
def test_shards_are_every_row_once_and_as_read_from_the_json(tmp_path, of):
    path = written(tmp_path / "gt.json", IDS)
    index = open_index(build_index([path]))
    whole = read_annotation_columns(path)
    place = {image_id: row for row, image_id in enumerate(whole.image_ids)}
    seen = []
    for number in range(1, of + 1):
        share = index.shard(number, of)
        columns = index.columns(tmp_path, path, share.start, share.stop)
        seen += columns.image_ids
        for row, image_id in enumerate(columns.image_ids):
            mine, theirs = (slice(*one.first[at : at + 2]) for one, at in ((columns, row), (whole, place[image_id])))
            assert columns.file_names[row] == f"{image_id}.png"
            for name in ("id", "category_id", "area", "iscrowd", "score"):
                np.testing.assert_array_equal(getattr(columns, name)[mine], getattr(whole, name)[theirs])
    assert seen == sorted(IDS)
    assert [len(share_of(11, number, 3)) for number in (1, 2, 3)] == [4, 4, 3]


def test_only_the_row_groups_of_a_share_are_read(tmp_path, monkeypatch):
    index = open_index(build_index([written(tmp_path / "gt.json", IDS)]))
    assert [len(group) for group in index.row_groups] == [4, 4, 3]
    read, whole = [], index._file.read_row_groups

    class Watched:
        def read_row_groups(self, groups, **options):
            read.append(groups)
            return whole(groups, **options)

    assert index._leaves  # the schema is read before the file is watched
    monkeypatch.setattr(index, "_file", Watched())
    assert index.rows(5, 7).image_id.tolist() == sorted(IDS)[5:7]
    assert read == [[1]]


def test_rows_between_two_ids_are_found_by_the_footer(tmp_path):
    index = open_index(build_index([written(tmp_path / "gt.json", IDS)]))
    ordered = sorted(IDS)
    for low, high in ((0, 100), (8, 8), (9, 30), (91, 99), (3, 3), (0, 2)):
        wanted = [number for number, one in enumerate(ordered) if low <= one <= high]
        found = index.between(low, high)
        assert list(found) == wanted


def test_the_fingerprint_is_that_of_the_rows_whatever_files_they_came_from(tmp_path):
    whole = open_index(build_index([written(tmp_path / "gt.json", IDS)]))
    halves = [written(tmp_path / "gt-0.json", IDS[:5]), written(tmp_path / "gt-1.json", IDS[5:])]
    joined = open_index(build_index(halves))
    each = [open_index(build_index([half])).facts.rows for half in halves]
    assert joined.facts.rows == whole.facts.rows == joined_rows(each)
    assert whole.facts.rows == fingerprint_of_set(read_panoptic_json(tmp_path / "gt.json"))
    assert whole.facts.rows == fingerprint_of_columns(read_annotation_columns(tmp_path / "gt.json"))
    assert joined.fingerprint != whole.fingerprint
    assert len({whole.facts.rows, *each}) == 3


@pytest.mark.parametrize("field", ["id", "category_id", "area", "iscrowd", "order", "isthing"])
def test_the_fingerprint_changes_with_every_field_that_scoring_reads(tmp_path, field):
    before = fingerprint_of_set(read_panoptic_json(written(tmp_path / "gt.json", IDS)))
    document = content(IDS)
    segments = next(one for one in document["annotations"] if one["image_id"] == 44)["segments_info"]
    if field == "order":
        segments[0], segments[3] = segments[3], segments[0]
    elif field == "isthing":
        document["categories"] = [{**CATEGORIES[0], "isthing": 0}, CATEGORIES[1]]
    else:
        segments[0][field] = {"id": 99, "category_id": 92, "area": 11, "iscrowd": 1}[field]
    (tmp_path / "other.json").write_text(json.dumps(document))
    assert fingerprint_of_set(read_panoptic_json(tmp_path / "other.json")) != before


def test_a_stale_index_is_not_used(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    build_index([path])
    assert fresh_index([path]) is not None
    written(path, [*IDS[:-1], 63])
    assert fresh_index([path]) is None


def test_a_json_of_the_same_size_and_time_written_after_the_index_is_noticed(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    build_index([path])
    size = path.stat().st_size
    written(path, [*IDS[:-1], 72])
    assert path.stat().st_size == size
    assert fresh_index([path]) is None


def test_a_copied_set_keeps_its_index_by_the_json_s_hash(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    built = build_index([path])
    other = tmp_path / "copy"
    other.mkdir()
    for file in (path, built):
        (other / file.name).write_bytes(file.read_bytes())
    found = fresh_index([other / "gt.json"])
    assert found is not None
    assert found.path == other / built.name


def test_a_damaged_index_is_not_used_and_made_again(tmp_path, monkeypatch):
    path = written(tmp_path / "gt.json", IDS)
    built = build_index([path])
    built.write_bytes(built.read_bytes()[:-100])
    assert fresh_index([path]) is None
    monkeypatch.setattr(indexing, "PAYS_FROM_BYTES", 1)
    assert fresh_index([path], make=True).ids().tolist() == sorted(IDS)


def test_a_read_only_folder_has_its_index_in_the_cache(tmp_path, monkeypatch):
    path = written(tmp_path / "gt.json", IDS)
    write = indexing._write

    def refuses(place, *rest):
        if place.parent == tmp_path:
            raise PermissionError(13, "Read-only file system")
        write(place, *rest)

    monkeypatch.setattr(indexing, "_write", refuses)
    built = build_index([path])
    assert built == index_paths([path])[1]
    assert fresh_index([path]).path == built
    assert not list(tmp_path.glob("*.parquet"))


def test_small_jsons_are_not_indexed_unasked(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    assert fresh_index([path], make=True) is None
    assert not list(tmp_path.glob("*.parquet"))


def test_a_bad_json_is_not_indexed_and_left_to_its_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "PAYS_FROM_BYTES", 1)
    document = content(IDS)
    document["images"][0]["height"] = 0
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(document))
    assert fresh_index([path], make=True) is None
    with pytest.raises(BadDataset, match=r"images\[0\].height is 0"):
        build_index([path])


def test_parts_that_share_an_image_or_differ_in_categories_are_refused(tmp_path):
    first = written(tmp_path / "gt-0.json", IDS[:5])
    with pytest.raises(BadDataset, match=r"gt-0.json and .*gt-1.json share 1 images \(44\)"):
        build_index([first, written(tmp_path / "gt-1.json", [44, 2])])
    document = content([1, 2])
    document["categories"] = document["categories"][:1]
    for annotation in document["annotations"]:
        annotation["segments_info"] = []
    (tmp_path / "gt-2.json").write_text(json.dumps(document))
    with pytest.raises(BadDataset, match="have different categories"):
        build_index([first, tmp_path / "gt-2.json"])


def _make(path: str, answer) -> None:
    indexing.PAYS_FROM_BYTES = 1
    answer.put(fresh_index([Path(path)], make=True).facts.made_ns)


@pytest.mark.slow
def test_two_that_ask_at_once_get_one_index(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    processes = [context.Process(target=_make, args=(str(path), answer)) for _ in range(2)]
    for process in processes:
        process.start()
    made = {answer.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert len(made) == 1
    assert {one.name for one in tmp_path.iterdir()} - {"cache"} == {"gt.json", "gt.panbench-rows.parquet"}


def test_an_index_travels_to_other_processes_by_its_path(tmp_path):
    index = open_index(build_index([written(tmp_path / "gt.json", IDS)]))
    assert pickle.loads(pickle.dumps(index)).ids().tolist() == sorted(IDS)


def test_another_parquet_file_is_not_taken_for_an_index(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image_id": [1]}), tmp_path / "other.parquet")
    with pytest.raises(BadDataset, match="is not an index of a dataset"):
        open_index(tmp_path / "other.parquet")


def test_the_command_makes_an_index_and_says_both_fingerprints(tmp_path):
    path = written(tmp_path / "gt.json", IDS)
    for _ in range(2):
        answer = CliRunner().invoke(cli.app, ["data", "index", str(path)])
        assert answer.exit_code == 0, answer.output
        index = fresh_index([path])
        assert f"11 images, {sum(one % 10 for one in IDS)} segments" in answer.output
        assert index.facts.rows in answer.output
        assert index.fingerprint in answer.output
