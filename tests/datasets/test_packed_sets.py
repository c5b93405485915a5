"""Sets in tar files, Parquet and zips: a model sees what it sees of the folder; faults are one sentence."""

import json
import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask
from sharded import KINDS, LONG_AGO, members_of, parts_of, write_shards, write_tar, zip_of
from support import panbench, ran

from panbench.base import containers
from panbench.base.addresses import path_at
from panbench.base.containers import tar_names
from panbench.base.errors import BadDataset
from panbench.base.files import sha256_of
from panbench.base.packed import Packed
from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.datasets.coco import open_folder
from panbench.panoptic.idmap import decode_id_png, decode_id_runs
from panbench.panoptic.run_lengths import ids_of_run_lengths
from panbench.runs import digest_of

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PANBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    shapes.generate(folder, split="val", count=12, size=(64, 96))
    return folder


@pytest.fixture(scope="module")
def model():
    from panbench.models.opening import open_model

    return open_model(find_model("panoptic-fpn-tiny"), device="cpu")


@pytest.fixture(scope="module")
def plain(drawn, model, tmp_path_factory):
    return run_of(open_folder(drawn, limit=8), model, tmp_path_factory.mktemp("plain") / "run")


def run_of(dataset, model, out):
    from panbench.evaluation.evaluate import evaluate
    from panbench.evaluation.options import EvaluateOptions

    return evaluate(model, dataset, out, EvaluateOptions(batch_size=1, save_predictions=True))


def assert_same(run, plain) -> None:
    assert run.table.to_arrow().equals(plain.table.to_arrow())
    assert json.dumps(run.summary()) == json.dumps(plain.summary()), "all seventeen digits"
    assert run.info.dataset.n_images == plain.info.dataset.n_images
    assert run.files.image.tolist() == plain.files.image.tolist(), "the bytes of each photograph"


def sharded(kind: str, drawn: Path, folder: Path) -> Path:
    """The folder of a set's shards."""
    name = "validation" if kind == "huggingface" else "val"
    place = folder / "data" if kind == "huggingface" else folder
    gt = drawn / "annotations" / "panoptic_val.json"
    write_shards(kind, gt, place, images=drawn / "val", name=name, shards=3)
    if kind == "huggingface":
        (place / "categories.json").rename(folder / "categories.json")
    return folder


def limited(root, drawn):
    """The first eight images of the plain set, of another form of it."""
    return open_dataset(root, image_ids=[scene.image.id for scene in open_folder(drawn, limit=8).scenes])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_scores_shards_as_it_scores_the_folder(kind, drawn, model, plain, tmp_path):
    root = sharded(kind, drawn, tmp_path / "set")
    run = run_of(limited(root, drawn), model, tmp_path / "run")
    assert_same(run, plain)
    assert run.info.dataset.rows == open_folder(drawn).rows
    for command in (
        ("runs", "verify", run.path),
        ("show", "overlay", run.path, "--image", run.images[0], "--out", tmp_path / "one.png"),
        ("report", run.path, "--out", tmp_path / "page.html"),
    ):
        answered = ran(*command)
        assert "not found" not in answered.output
    assert (tmp_path / "one.png").stat().st_size > 1000
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") > 0


@pytest.mark.slow
@pytest.mark.parametrize("inner_stored", [True, False])
def test_a_model_scores_the_downloaded_zips_as_it_scores_the_folder(inner_stored, drawn, model, plain, tmp_path):
    """As COCO's: a zip of images, and one of JSONs and zips of PNGs."""
    root = tmp_path / "coco"
    root.mkdir()
    zip_of(root / "val.zip", {f"val/{path.name}": path.read_bytes() for path in (drawn / "val").iterdir()}, 0)
    pngs = drawn / "annotations" / "panoptic_val"
    zip_of(tmp_path / "inner.zip", {f"panoptic_val/{path.name}": path.read_bytes() for path in pngs.iterdir()})
    document = (drawn / "annotations" / "panoptic_val.json").read_bytes()
    inner = (tmp_path / "inner.zip").read_bytes()
    members = {"annotations/panoptic_val.json": document, "annotations/panoptic_val.zip": inner}
    zip_of(root / "annotations.zip", members, 0 if inner_stored else 8)
    before = sorted(path.name for path in root.rglob("*"))
    run = run_of(open_dataset(root, limit=8), model, tmp_path / "run")
    assert_same(run, plain)
    assert run.info.dataset.images == str(root / "val.zip" / "val")
    assert sorted(path.name for path in root.rglob("*")) == before, "nothing was unpacked there"
    ran("runs", "verify", run.path)
    ran("data", "check", root, "--limit", 3)


def scored(gt: object, pred: object = SCENES / "pred.json"):
    return panbench("score", "--gt", gt, "--pred", pred)


def refused(answer) -> str:
    """The one sentence that a command ended with."""
    assert answer.exit_code == 2, answer.output
    told = answer.stderr.partition("Error: ")[2].strip()
    assert len(told.splitlines()) == 1, told
    return told


def truth(folder: Path) -> list[tuple[str, bytes]]:
    """The members of a tar file of the scenes' ground truth, with its categories beside it."""
    document, (pairs,) = parts_of(SCENES / "gt.json", 1)
    folder.mkdir(exist_ok=True)
    (folder / "categories.json").write_text(json.dumps(document["categories"]))
    return list(members_of(pairs, SCENES / "gt", None))


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_tar_is_refused(kept, tmp_path):
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, truth(path.parent)) if path.parent.mkdir() is None else None
    content = path.read_bytes()
    end = content.rstrip(b"\0")
    path.write_bytes(content[: int(kept * len(end))])
    told = refused(scored(path))
    assert told.startswith(f"{path} cannot be read: it ")
    assert "truncated" in told


def test_a_tar_cut_off_between_two_members_is_refused_too(tmp_path):
    members = truth(tmp_path / "set")
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, members)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[8]
    path.write_bytes(path.read_bytes()[: last.offset])
    assert f"it has no end after {members[7][0]}: it is truncated or damaged" in refused(scored(path))


def test_a_damaged_header_within_a_tar_is_refused(tmp_path):
    members = truth(tmp_path / "set")
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, members)
    with tarfile.open(path) as archive:
        at = archive.getmembers()[8].offset
    content = bytearray(path.read_bytes())
    content[at : at + 512] = bytes(range(256)) * 2
    path.write_bytes(content)
    assert f"it has no end after {members[7][0]}" in refused(scored(path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda members: members[:3] + members[4:], "has no 000000000001.json"),
        (lambda members: members[:2] + members[3:], "has 000000000001.json and no 000000000001.png, the id PNG"),
        (lambda members: [*members, members[2]], "it holds 000000000001.png twice. Each key may be there once"),
        (
            lambda members: [*members, ("x.png", b""), ("x.json", b"{}")],
            "x.json has no `image_id`, and x is not a number",
        ),
        (lambda members: [("1.json", b"{"), ("1.png", b"")], "1.json is not JSON"),
        (lambda members: [("1.json", b"[]"), ("1.png", b"")], "1.json must be an object, not list"),
        (lambda members: [], "has no images"),
        (lambda members: [*members, ("copy.png", members[2][1]), ("copy.json", members[3][1])], "repeats an image id"),
    ],
)
def test_what_is_missing_or_double_in_a_tar_is_named_with_its_key(change, sentence, tmp_path):
    path = tmp_path / "set" / "val-000.tar"
    write_tar(path, change(truth(tmp_path / "set")))
    told = refused(scored(path))
    assert told.startswith(str(path))
    assert sentence in told


def test_a_damaged_png_in_a_tar_is_named_with_its_image(tmp_path):
    members = truth(tmp_path / "set")
    members[2] = (members[2][0], members[2][1][:-20])
    write_tar(tmp_path / "set" / "val-000.tar", members)
    told = refused(scored(tmp_path / "set" / "val-000.tar"))
    assert told.startswith(f"{tmp_path}/set/val-000.tar/000000000001.png (image 1) is")


def test_shards_that_share_an_image_are_refused(tmp_path):
    members = truth(tmp_path / "set")
    write_tar(tmp_path / "set" / "val-000.tar", members[:8])
    write_tar(tmp_path / "set" / "val-001.tar", members[6:])
    assert "share 1 images (3)" in refused(scored(f"{tmp_path}/set/val-*.tar"))


def test_shards_without_categories_are_refused(tmp_path):
    write_tar(tmp_path / "val-000.tar", truth(tmp_path / "elsewhere"))
    assert "there is no categories.json beside it or in the folder above" in refused(scored(tmp_path / "val-000.tar"))


def test_a_compressed_tar_is_refused(tmp_path):
    truth(tmp_path / "set")
    path = tmp_path / "set" / "val-000.tar"
    with tarfile.open(path, "w:gz"):
        pass
    assert "compressed" in refused(scored(path))


def with_segments(folder: Path, change) -> Path:
    """A Parquet file of the scenes' ground truth in run lengths whose first row was changed."""
    (path,) = write_shards("rle", SCENES / "gt.json", folder, shards=1)
    rows = pq.read_table(path).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def counts(row, value) -> None:
    row["segments_info"][0]["counts"] = value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: counts(row, "0"), "bad RLE: the counts of segment 6995260 add up to 0, not to 187,500 pixels"),
        (lambda row: counts(row, row["segments_info"][0]["counts"][:-1]), "segment 6995260"),
        (lambda row: counts(row, "~~"), "bad RLE: the counts of segment 6995260 are damaged or cut off"),
        (lambda row: counts(row, "oooooooooooo0"), "bad RLE: a count of segment 6995260 is too large"),
        (lambda row: counts(row, "é"), "neither text nor a list of numbers"),
        (lambda row: counts(row, row["segments_info"][1]["counts"]), "share pixels. Each pixel has one segment"),
        (lambda row: row.update(height=row["height"] - 1), "pixels"),
        (lambda row: row.update(height=None), "run lengths of the size None×375, which must be two numbers above 0"),
    ],
)
def test_bad_run_lengths_are_named_with_file_and_image(change, sentence, tmp_path):
    path = with_segments(tmp_path / "set", change)
    told = refused(scored(path))
    assert told.startswith(str(path))
    assert sentence in told
    assert "segments_info/0.rle (image 0) has" in told


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        (["counts"], "has neither a column of id PNGs"),
        (["height"], "has run lengths without the columns `height` and `width`"),
        (["segments_info"], "has no column `segments_info`"),
    ],
)
def test_parquet_without_a_column_is_refused(drop, sentence, tmp_path):
    (path,) = write_shards("rle", SCENES / "gt.json", tmp_path, shards=1)
    rows = [{key: value for key, value in row.items() if key not in drop} for row in pq.read_table(path).to_pylist()]
    for row in rows:
        for segment in row.get("segments_info", ()):
            for key in drop:
                segment.pop(key, None)
    pq.write_table(pa.Table.from_pylist(rows), path)
    told = refused(scored(path))
    assert told.startswith(str(path))
    assert sentence in told


def test_a_truncated_parquet_file_is_refused(tmp_path):
    (path,) = write_shards("png", SCENES / "gt.json", tmp_path, shards=1)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not a Parquet file, or is damaged" in refused(scored(path))


def test_a_damaged_member_of_a_zip_is_named_with_its_image(tmp_path):
    content = {f"gt/{path.name}": path.read_bytes() for path in sorted((SCENES / "gt").glob("*.png"))}
    zip_of(tmp_path / "gt.zip", content, 0)
    name, png = list(content.items())[3]
    whole = (tmp_path / "gt.zip").read_bytes()
    at = whole.index(png)
    (tmp_path / "gt.zip").write_bytes(whole[: at + 40] + b"\0\1\2\3" + whole[at + 44 :])
    options = ("--gt-dir", tmp_path / "gt.zip" / "gt", "--pred", SCENES / "pred.json")
    told = refused(panbench("score", "--gt", SCENES / "gt.json", *options))
    assert told.startswith(f"{tmp_path}/gt.zip/{name} (image 3) cannot be read: the member {name} is damaged")
    (tmp_path / "gt.zip").write_bytes(whole[:-30])
    told = refused(panbench("score", "--gt", SCENES / "gt.json", *options))
    assert "is not a zip archive, or it is truncated or damaged" in told


def test_rows_without_image_id_are_numbered_through_all_files_and_sizes_come_from_the_pngs(tmp_path):
    written = write_shards(
        "huggingface", SCENES / "gt.json", tmp_path / "data", shards=3, name="validation", sized=False
    )
    numbers = iter(range(100))
    _, parts = parts_of(SCENES / "gt.json", 3)
    for path in written:
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["image_id"]), path, row_group_size=2)
    (tmp_path / "data" / "other-00000.parquet").write_bytes(b"another split")
    opened = open_dataset_bare(tmp_path)
    by_order = [pair for part in parts for pair in part]
    assert [scene.image.id for scene in opened.scenes] == [next(numbers) for _ in by_order]
    sizes = [(image["height"], image["width"]) for image, _ in by_order]
    assert [(scene.image.height, scene.image.width) for scene in opened.scenes] == sizes


def open_dataset_bare(root: Path):
    from panbench.datasets.coco import open_json, shards_of

    return open_json(shards_of(root, "val"), root, images_needed=False)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_checked_and_indexed(kind, drawn, tmp_path):
    gt = drawn / "annotations" / "panoptic_val.json"
    (path,) = write_shards(kind, gt, tmp_path, images=drawn / "val", shards=1)
    checked = ran("data", "check", path, "--json")
    whole = json.loads(panbench("data", "check", gt, "--json").output)
    found = json.loads(checked.output)
    assert {key: found[key] for key in ("images", "segments", "categories", "sizes", "void_share", "findings")} == {
        key: whole[key] for key in ("images", "segments", "categories", "sizes", "void_share", "findings")
    }
    rows = {json.loads(panbench("data", "index", each, "--json").output)["rows"] for each in (path, gt)}
    assert len(rows) == 1
    assert open_dataset(tmp_path).n_images == 12, "an index beside shards is not one of them"


def test_several_shards_are_not_checked_together(drawn, tmp_path):
    write_shards("tar", drawn / "annotations" / "panoptic_val.json", tmp_path, images=drawn / "val")
    assert "has several shards, which are checked one by one" in refused(panbench("data", "check", tmp_path))
    indexed = panbench("data", "index", tmp_path, "--json")
    assert json.loads(indexed.output)["images"] == 12


def test_a_shard_without_photographs_is_not_evaluated(drawn, tmp_path):
    write_shards("tar", drawn / "annotations" / "panoptic_val.json", tmp_path)
    with pytest.raises(BadDataset, match=r"12 of 12 images are missing in .*: val-000.tar/000000000001.jpg"):
        open_dataset(tmp_path)


# The paths themselves


def test_paths_into_containers_are_paths(tmp_path):
    zip_of(tmp_path / "set.zip", {"a/1.txt": b"one", "a/b/2.txt": b"two", "3.txt": b"three"})
    folder = path_at(f"{tmp_path}/set.zip/a")
    assert isinstance(folder, Packed)
    assert type(path_at(f"{tmp_path}/set.zip")) is type(Path()), "the zip itself is a file"
    assert folder.is_dir()
    assert not folder.is_file()
    assert (folder / "1.txt").is_file()
    assert (folder / "1.txt").read_text() == "one"
    assert not (folder / "9.txt").exists()
    assert [path.name for path in folder.glob("*.txt")] == ["1.txt"]
    assert folder.missing_of(["1.txt", "b/2.txt", "3.txt"]) == ["3.txt"]
    with pytest.raises(FileNotFoundError):
        (folder / "9.txt").read_bytes()
    assert sha256_of(folder / "1.txt") == digest_of(str(folder / "1.txt")).hex()
    assert digest_of(folder / "9.txt") == b""
    carried = pickle.loads(pickle.dumps(folder / "1.txt"))
    assert (type(carried), carried.read_bytes()) == (Packed, b"one")


def test_a_folder_that_is_called_like_a_container_stays_a_folder(tmp_path):
    (tmp_path / "set.zip").mkdir()
    (tmp_path / "set.zip" / "1.txt").write_text("one")
    path = path_at(tmp_path / "set.zip" / "1.txt")
    assert path.read_bytes() == b"one"
    assert path.is_file()
    assert path.parent.is_dir()


def test_the_list_of_a_tar_is_made_once_and_made_again_when_it_changed(tmp_path, monkeypatch):
    path = tmp_path / "val-000.tar"
    write_tar(path, [("1.png", b"one"), ("d/2.png", b"twotwo")])
    os.utime(path, ns=LONG_AGO)
    monkeypatch.setattr(containers, "_RACY_NS", -(10**19))
    first = tar_names(path)
    assert {name: path.read_bytes()[at : at + size] for name, (at, size) in first.items()} == {
        "1.png": b"one",
        "d/2.png": b"twotwo",
    }
    scanned = containers._scanned
    monkeypatch.setattr(containers, "_scanned", lambda path: pytest.fail("it was scanned again"))
    assert tar_names(path) == first
    monkeypatch.setattr(containers, "_scanned", scanned)
    write_tar(path, [("1.png", b"another")])
    assert list(tar_names(path)) == ["1.png"]
    assert Packed(path / "1.png").read_bytes() == b"another"


def _read_all(root: str) -> list[str]:
    names = [f"{number:012}.png" for number in range(16)] * 4
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda name: sha256_of(f"{root}/{name}"), names))


def test_threads_and_processes_read_at_once(tmp_path):
    content = {path.name: path.read_bytes() for path in sorted((SCENES / "gt").glob("*.png"))}
    zip_of(tmp_path / "gt.zip", content)
    write_tar(tmp_path / "gt.tar", list(content.items()))
    expected = _read_all(str(SCENES / "gt"))
    for root in (tmp_path / "gt.zip", tmp_path / "gt.tar"):
        assert _read_all(str(root)) == expected, "open containers are inherited by the processes below"
        with multiprocessing.get_context("fork" if os.name == "posix" else "spawn").Pool(2) as pool:
            assert pool.map(_read_all, [str(root)] * 2) == [expected] * 2


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 4, (5, 6)), np.ones((rng.integers(1, 40), 7), int)).astype(np.int32)
    segments = [
        [one, coco_mask.encode(np.asfortranarray(ids == one).astype(np.uint8))["counts"].decode()]
        for one in np.unique(ids).tolist()
        if one
    ]
    assert (ids_of_run_lengths(ids.shape, segments) == ids).all()
    content = json.dumps({"size": list(ids.shape), "segments": segments}, separators=(",", ":")).encode()
    assert (decode_id_png(content) == ids).all()
    assert (decode_id_runs(content).to_map() == ids).all()
    with pytest.raises(ValueError, match="more than the limit"):
        decode_id_png(content, max_pixels=3)


def test_counts_may_be_a_list():
    assert ids_of_run_lengths((2, 2), [[5, [1, 2, 1]], [7, [3, 1]]]).tolist() == [[0, 5], [5, 7]]
    assert ids_of_run_lengths((2, 2), [[5, [0, 4]]]).tolist() == [[5, 5], [5, 5]]
    assert ids_of_run_lengths((2, 2), []).tolist() == [[0, 0], [0, 0]]
