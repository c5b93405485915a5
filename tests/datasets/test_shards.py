"""`data convert shards`: a set in tar files, Parquet or JSON lines becomes the set of plain files."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sharded import KINDS, members_of, parts_of, write_shards, write_tar
from support import drawn, ran, refused

from panbench.datasets import shards
from panbench.datasets.coco import open_folder
from panbench.panoptic.coco import read_id_png, read_predictions_json
from panbench.scoring.folder import score_folder

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


@pytest.fixture(scope="module")
def plain_set(tmp_path_factory):
    return drawn(tmp_path_factory, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_in_shards_converts_to_the_same_set_as_plain_files(kind, plain_set, tmp_path):
    written = write_shards(
        kind, plain_set / "annotations" / "panoptic_val.json", tmp_path / "set", images=plain_set / "val", shards=3
    )
    ran("data", "convert", "shards", *written, "--out", tmp_path / "out")
    plain, found = open_folder(plain_set), open_folder(tmp_path / "out")
    assert found.rows == plain.rows
    photographs = {scene.image.id: scene.image_path.read_bytes() for scene in found.scenes}
    assert photographs == {scene.image.id: scene.image_path.read_bytes() for scene in plain.scenes}
    for scene, same in zip(sorted(found.scenes, key=_id), sorted(plain.scenes, key=_id), strict=True):
        assert (read_id_png(scene.gt_path) == read_id_png(same.gt_path)).all()


def _id(scene) -> int:
    return scene.image.id


@pytest.mark.parametrize("kind", ["tar", "png"])
def test_predictions_in_shards_keep_their_scores_and_pq(kind, tmp_path):
    for side in ("gt", "pred"):
        written = write_shards(kind, SCENES / f"{side}.json", tmp_path / side, shards=2)
        if side == "pred":
            (tmp_path / "pred" / "categories.json").write_text((tmp_path / "gt" / "categories.json").read_text())
        ran("data", "convert", "shards", *written, "--out", tmp_path / f"{side}-set")
    both = [tmp_path / f"{side}-set" / "annotations" / "panoptic_val.json" for side in ("gt", "pred")]
    assert score_folder(*both).summary() == score_folder(SCENES / "gt.json", SCENES / "pred.json").summary()
    scores = [
        {segment.score for one in read_predictions_json(path).annotations.values() for segment in one.segments}
        for path in (both[1], SCENES / "pred.json")
    ]
    assert scores[0] == scores[1]


def test_json_lines_convert_to_a_set(plain_set, tmp_path):
    document = json.loads((plain_set / "annotations" / "panoptic_val.json").read_text())
    sizes = {image["id"]: image for image in document["images"]}
    lines = [{"categories": document["categories"]}]
    for one in document["annotations"]:
        lines.append({**one, "png": one["file_name"], "file_name": sizes[one["image_id"]]["file_name"]})
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "val").symlink_to(plain_set / "annotations" / "panoptic_val")
    ran("data", "convert", "shards", tmp_path / "val.jsonl", "--images", plain_set / "val", "--out", tmp_path / "out")
    assert open_folder(tmp_path / "out").rows == open_folder(plain_set).rows


def converted(*shards: object, **options: object) -> str:
    """The one sentence that a conversion ends with."""
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    told = refused("data", "convert", "shards", *shards, "--out", Path(str(shards[0])).parent / "out", *named)
    return told.removeprefix("Error: ")


def truth(folder: Path) -> list[tuple[str, bytes]]:
    """The members of a tar file of the scenes' ground truth, with its categories beside it."""
    document, (pairs,) = parts_of(SCENES / "gt.json", 1)
    folder.mkdir(exist_ok=True)
    (folder / "categories.json").write_text(json.dumps(document["categories"]))
    return list(members_of(pairs, SCENES / "gt", None))


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_tar_is_refused_and_leaves_no_json(kept, tmp_path):
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, truth(path.parent)) if path.parent.mkdir() is None else None
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content.rstrip(b"\0")))])
    assert "truncated" in converted(path)
    assert not (tmp_path / "set" / "out" / "annotations" / "panoptic_val.json").exists()


@pytest.mark.parametrize("how", ["cut off between two members", "a damaged header"])
def test_a_tar_without_an_end_is_refused(how, tmp_path):
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, truth(path.parent)) if path.parent.mkdir() is None else None
    with tarfile.open(path) as archive:
        at = archive.getmembers()[8].offset
    content = path.read_bytes()
    damaged = content[:at] + bytes(range(256)) * 2 + content[at + 512 :]
    path.write_bytes(damaged if "header" in how else content[:at])
    assert "it is truncated or damaged" in converted(path)


def same_name(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Another image whose id is the name of the first one's files."""
    record = json.loads(dict(members)["000000000001.json"])
    return [("copy.png", members[2][1]), ("copy.json", json.dumps({**record, "image_id": "000000000001"}).encode())]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[:3] + members[4:], "000000000001 has no 000000000001.json"),
        (lambda members: members[:2] + members[3:], "000000000001 has no 000000000001.png"),
        (lambda members: [*members, members[2], members[3]], "comes twice"),
        (lambda members: [*members, ("copy.png", members[2][1]), ("copy.json", members[3][1])], "comes twice"),
        (lambda members: [*members, *same_name(members)], "the image id '000000000001', which comes twice"),
        (lambda members: [("1.json", b"{"), ("1.png", b"")], "1.json is not JSON"),
        (lambda members: [("1.json", b"{}"), ("1.png", b"")], "has no `segments_info`"),
        (lambda members: [("1.json", b"[]"), ("1.png", b"")], "1.json is not a JSON object"),
        (
            lambda members: [("1.json", b'{"segments_info": [{"id": [1]}]}'), ("1.png", members[2][1])],
            "the id [1]; ids",
        ),
        (lambda members: [(members[3][0], members[3][1]), (members[2][0], members[2][1][:-20])], "the id PNG is"),
    ],
)
def test_missing_and_repeated_members_of_a_tar_are_named_with_their_key(change, message, tmp_path):
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, change(truth(tmp_path / "set")))
    told = converted(path)
    assert told.startswith(str(path))
    assert message in told


def counts(row, value) -> None:
    row["segments_info"][0]["counts"] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: counts(row, row["segments_info"][1]["counts"]), "shares pixels with another one"),
        (lambda row: row.update(height=row["height"] - 1), "row 0, segment"),
        (lambda row: row.update(height=None), "neither an id PNG nor run lengths with `height` and `width`"),
        (lambda row: row.update(segments_info=None), "has no `segments_info`"),
        (lambda row: row["segments_info"][0].update(id=1 << 40), "a segment with the id 1099511627776"),
    ],
)
def test_bad_rows_are_named_with_file_and_number(change, message, tmp_path):
    (path,) = write_shards("rle", SCENES / "gt.json", tmp_path / "set", shards=1)
    rows = pq.read_table(path).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows), path)
    told = converted(path)
    assert told.startswith(f"{path}: row 0")
    assert message in told


def test_a_truncated_parquet_file_is_refused(tmp_path):
    (path,) = write_shards("png", SCENES / "gt.json", tmp_path, shards=1)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not a Parquet file, or is damaged" in converted(path)


def test_sizes_are_bounded_before_data_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_BYTES", 1000)
    (path,) = write_shards("png", SCENES / "gt.json", tmp_path / "parquet", shards=1)
    assert "row group larger than the limit" in converted(path)
    write_tar(tmp_path / "set" / "val.tar", truth(tmp_path / "set"))
    assert "larger than the limit" in converted(tmp_path / "set" / "val.tar")


def test_shards_without_categories_and_files_of_another_kind_are_refused(tmp_path):
    write_tar(tmp_path / "val-000.tar", truth(tmp_path / "elsewhere"))
    assert "There is no categories.json next to" in converted(tmp_path / "val-000.tar")
    (tmp_path / "val.zip").touch()
    assert "is not a shard" in converted(tmp_path / "val.zip", categories=tmp_path / "elsewhere" / "categories.json")


def test_rows_without_image_ids_are_numbered_across_files(tmp_path):
    written = write_shards("huggingface", SCENES / "gt.json", tmp_path, shards=3, sized=False)
    for path in written:
        pq.write_table(pq.read_table(path).drop_columns(["image_id"]), path, row_group_size=2)
    ran("data", "convert", "shards", *written, "--out", tmp_path / "out")
    images = json.loads((tmp_path / "out" / "annotations" / "panoptic_val.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(16))


def test_a_json_line_that_is_not_an_object_is_named(tmp_path):
    (tmp_path / "val.jsonl").write_text("7\n")
    assert "val.jsonl: line 1 is not a JSON object" in converted(tmp_path / "val.jsonl")
