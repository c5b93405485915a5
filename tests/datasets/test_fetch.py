import json
import os
import random
import re
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import refusal

from panbench.base import download as download_module
from panbench.base.download import download
from panbench.base.errors import BadArgument, BadDataset, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.reporter import Silent
from panbench.catalog import find_model
from panbench.datasets import fetch as fetch_module
from panbench.datasets import open_dataset
from panbench.datasets.fetch import CocoFolder, coco_missing, fetch_coco, panoptic_categories
from panbench.weights import weights_here
from scripts.make.coco_mimic import Fault, FaultServer, Mimic, build_mimic

ANNOTATIONS = "/annotations/panoptic_annotations_trainval2017.zip"
VAL = "/zips/val2017.zip"


@pytest.fixture(scope="module", params=[True, False], ids=["inner zip stored", "inner zip deflated"])
def either_mimic(request) -> Mimic:
    return build_mimic(inner_stored=request.param)


@pytest.fixture(scope="module")
def mimic() -> Mimic:
    return build_mimic()


@pytest.fixture
def server(mimic) -> Iterator[FaultServer]:
    with FaultServer(mimic.files) as server:
        yield server


def fetch(server: FaultServer, mimic: Mimic, root: Path, split: str = "val", **arguments) -> CocoFolder:
    return fetch_coco(root, split, host=mimic.at(server.url), **arguments)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_sleep", lambda _: None)


def on_disk(root: Path) -> dict[str, bytes]:
    """Every file of a root but the program's own notes."""
    paths = [path for path in root.rglob("*") if path.is_file() and ".panbench" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def expected_of(mimic: Mimic, split: str = "val") -> dict[str, bytes]:
    return {name: content for name, content in mimic.expected.items() if f"{split}2017" in name}


# What is fetched.


def test_fetching_val_downloads_all_of_val_and_nothing_else(either_mimic, tmp_path):
    with FaultServer(either_mimic.files) as server:
        folder = fetch(server, either_mimic, tmp_path / "data é" / "coco")
    assert on_disk(folder.root) == expected_of(either_mimic)
    assert (folder.n_images, folder.n_pngs) == (12, 12)
    assert sorted(path.name for path in (folder.root / ".panbench").iterdir()) == [
        "panoptic_val2017.json",
        "panoptic_val2017.json.json",
        "val2017.json",
    ]


def test_the_training_part_of_the_annotations_is_not_fetched(tmp_path):
    mimic = build_mimic(n_train=60, png_bytes=8000, jpeg_bytes=20_000)
    with FaultServer(mimic.files) as server:
        folder = fetch(server, mimic, tmp_path)
        assert server.sent == folder.fetched
        spent = sum(len(mimic.files[path]) for path in (ANNOTATIONS, VAL))
    assert folder.fetched < 0.5 * spent
    assert folder.fetched < 1.1 * sum(map(len, expected_of(mimic).values()))
    assert not list(tmp_path.rglob("*train*"))


def test_a_limit_fetches_the_first_images_of_the_json_and_their_ground_truth(either_mimic, tmp_path):
    with FaultServer(either_mimic.files) as server:
        folder = fetch(server, either_mimic, tmp_path, limit=5)
    document = json.loads(folder.json.read_bytes())
    first = [image["file_name"] for image in document["images"][:5]]
    assert sorted(path.name for path in folder.images.iterdir()) == sorted(first)
    pngs = {path.stem for path in folder.pngs.iterdir()}
    if either_mimic.inner_stored:
        assert pngs == {Path(name).stem for name in first}
    else:
        # They came all in one stream; what was paid for is kept.
        assert len(pngs) == 12
    assert on_disk(tmp_path).items() <= expected_of(either_mimic).items()
    assert not (tmp_path / ".panbench" / "archives").exists()


def test_a_limit_can_be_raised_and_removed(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path, limit=2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "val2017").iterdir()}
    fetch(server, mimic, tmp_path, limit=4)
    fetch(server, mimic, tmp_path)
    assert on_disk(tmp_path) == expected_of(mimic)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_fetching_train_downloads_all_of_train(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path, "train")
    assert on_disk(tmp_path) == expected_of(mimic, "train")


def test_instances_are_fetched_on_request_without_the_rest_of_their_archive(server, mimic, tmp_path):
    assert fetch(server, mimic, tmp_path).instances is None
    folder = fetch(server, mimic, tmp_path, instances=True)
    name = "annotations/instances_val2017.json"
    assert folder.instances == tmp_path / name
    assert on_disk(tmp_path) == {**expected_of(mimic), name: mimic.instances[name]}
    assert 0 < folder.fetched < len(mimic.files["/annotations/annotations_trainval2017.zip"]) + 2000
    assert fetch(server, mimic, tmp_path, instances=True).fetched == 0
    # Damaged, it is fetched again.
    folder.instances.write_bytes(b"{}")
    assert fetch(server, mimic, tmp_path, instances=True).instances.read_bytes() == mimic.instances[name]
    assert "The ground truth of test-dev is secret. Leave out --instances." in refusal(
        BadArgument, fetch, server, mimic, tmp_path, "test-dev", instances=True
    )


def test_test_dev_has_its_images_and_panoptic_categories(server, mimic, tmp_path):
    folder = fetch(server, mimic, tmp_path, "test-dev")
    images = {name: content for name, content in mimic.expected.items() if name.startswith("test2017/")}
    assert {name: content for name, content in on_disk(tmp_path).items() if name.endswith("jpg")} == images
    document = json.loads(folder.json.read_bytes())
    assert document["categories"] == panoptic_categories()
    assert len(document["images"]) == len(images) == 3
    assert folder.pngs is None


def test_fetched_coco_has_the_133_panoptic_categories():
    categories = panoptic_categories()
    assert [category["isthing"] for category in categories].count(1) == 80
    assert [category["isthing"] for category in categories].count(0) == 53
    assert len({category["id"] for category in categories}) == 133
    assert categories[0] == {"id": 1, "name": "person", "isthing": 1, "supercategory": "person", "color": [220, 20, 60]}


# Second calls and repairs.


@pytest.mark.parametrize("split", ["val", "test-dev"])
def test_a_second_call_needs_no_network(server, mimic, tmp_path, split):
    fetch(server, mimic, tmp_path, split)
    server.log.clear()
    before = on_disk(tmp_path)
    folder = fetch(server, mimic, tmp_path, split)
    assert server.log == []
    assert folder.fetched == 0
    assert on_disk(tmp_path) == before


def test_an_altered_file_is_detected_and_repaired(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path)
    image = sorted((tmp_path / "val2017").iterdir())[3]
    png = sorted((tmp_path / "annotations" / "panoptic_val2017").iterdir())[2]
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(image, ns=(1, 1))
    png.unlink()
    fetch(server, mimic, tmp_path)
    assert on_disk(tmp_path) == expected_of(mimic)
    assert not any(path == VAL and not wanted for path, wanted, _ in server.log[-8:])


def test_a_half_extracted_folder_is_repaired_without_starting_over(server, mimic, tmp_path):
    names = sorted(name for name in expected_of(mimic) if name.startswith("val2017/"))
    (tmp_path / "val2017").mkdir()
    for name in names[:9]:
        (tmp_path / name).write_bytes(mimic.expected[name])
    (tmp_path / names[9]).write_bytes(mimic.expected[names[9]][:100])
    os.utime(tmp_path / names[0], ns=(5, 5))
    fetch(server, mimic, tmp_path)
    assert on_disk(tmp_path) == expected_of(mimic)
    assert (tmp_path / names[0]).stat().st_mtime_ns == 5
    fetched = sum(200 + len(mimic.expected[name]) for name in names[9:])
    assert sum(_length(wanted) for path, wanted, _ in server.log if path == VAL) < fetched + 70_000


def _length(wanted: str) -> int:
    first, last = wanted.removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


def test_a_damaged_json_is_fetched_again(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path, limit=1)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    fetch(server, mimic, tmp_path, limit=1)
    assert path.read_bytes() == mimic.expected["annotations/panoptic_val2017.json"]


def test_torn_records_of_a_fetch_are_rebuilt(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path)
    (tmp_path / ".panbench" / "val2017.json").write_text('{"schema": 1, "ori')
    fetch(server, mimic, tmp_path)
    assert on_disk(tmp_path) == expected_of(mimic)


# Archives.


def test_archives_are_removed_unless_they_are_to_be_kept(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path / "a")
    assert not list((tmp_path / "a").rglob("*.zip"))
    fetch(server, mimic, tmp_path / "b", keep_archives=True)
    assert [path.name for path in (tmp_path / "b" / "archives").iterdir()] == ["val2017.zip"]
    assert (tmp_path / "b" / "archives" / "val2017.zip").read_bytes() == mimic.files[VAL]


def test_kept_archives_are_used_for_the_next_repair(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path, keep_archives=True)
    shutil.rmtree(tmp_path / "val2017")
    server.log.clear()
    fetch(server, mimic, tmp_path)
    assert server.log == []
    assert (tmp_path / "archives" / "val2017.zip").exists()


def written(mimic: Mimic, folder: Path) -> Path:
    """The archives of the host in a folder."""
    folder.mkdir()
    for path, content in mimic.files.items():
        (folder / Path(path).name).write_bytes(content)
    return folder


@pytest.mark.parametrize("limit", [None, 3])
def test_existing_archives_are_read_in_place(either_mimic, tmp_path, limit):
    folder = written(either_mimic, tmp_path / "meine Archive é")
    found = fetch_coco(tmp_path / "coco", host=either_mimic.at("http://127.0.0.1:9"), archives_from=folder, limit=limit)
    assert on_disk(tmp_path / "coco").items() <= expected_of(either_mimic).items()
    assert found.n_images == (limit or 12)
    assert found.fetched == 0
    assert len(list(folder.iterdir())) == len(either_mimic.files)


def test_a_mirror_may_be_a_folder(mimic, tmp_path, monkeypatch):
    for path, content in mimic.files.items():
        (tmp_path / "mirror" / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / path[1:]).write_bytes(content)
    monkeypatch.setenv("PANBENCH_MIRROR_COCO", (tmp_path / "mirror").as_uri())
    fetch_coco(tmp_path / "coco", host=mimic.at("http://images.cocodataset.org"))
    assert on_disk(tmp_path / "coco") == expected_of(mimic)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive_is_refused_by_name(mimic, tmp_path, damage):
    path = written(mimic, tmp_path / "archives") / "val2017.zip"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadFailed, match=r"val2017\.zip is not COCO's"):
        fetch_coco(tmp_path / "coco", host=mimic.at("http://127.0.0.1:9"), archives_from=path.parent)


# Faults.

FAULTS = {
    "drops at random bytes": [Fault(drop_after=random.Random(i).randrange(3000)) for i in range(4)],
    "503, then fine": [Fault(status=503), Fault(status=503, retry_after="1")],
    "wrong Content-Length": [Fault(length_off_by=50), Fault(length_off_by=-50)],
    "slow drip": [Fault(block=50)] * 4,
    "redirect": [Fault(redirect="/elsewhere")],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", [ANNOTATIONS, VAL])
def test_temporary_faults_lose_no_file(server, mimic, tmp_path, fault, path):
    server.files["/elsewhere"] = mimic.files[path]
    for skip in range(3):
        server.faults[path] = [None] * skip + FAULTS[fault]
        fetch(server, mimic, tmp_path / str(skip))
        assert on_disk(tmp_path / str(skip)) == expected_of(mimic)


@pytest.mark.slow
def test_a_byte_flipped_in_transit_is_detected_in_every_file(server, mimic, tmp_path):
    for number, path in enumerate([ANNOTATIONS, VAL] * 12):
        length = len(mimic.files[path])
        server.faults[path] = [Fault(flip_at=random.Random(number).randrange(length))] * (1 + number % 4)
        try:
            fetch(server, mimic, tmp_path / str(number))
        except DownloadFailed:
            assert on_disk(tmp_path / str(number)).items() <= expected_of(mimic).items()
        else:
            assert on_disk(tmp_path / str(number)) == expected_of(mimic)


@pytest.mark.parametrize("limit", [None, 3])
def test_a_server_without_ranges_works(server, mimic, tmp_path, limit, monkeypatch):
    for path in (ANNOTATIONS, VAL):
        server.always[path] = Fault(ignore_range=True)
    said: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "notice", said.append)
    fetch(server, mimic, tmp_path, limit=limit, reporter=reporter)
    assert on_disk(tmp_path).items() <= expected_of(mimic).items()
    assert len(list((tmp_path / "val2017").iterdir())) == (limit or 12)
    assert any("whole" in message for message in said)


@pytest.mark.parametrize("path", [ANNOTATIONS, VAL])
@pytest.mark.parametrize(
    "fault",
    [Fault(status=404), Fault(status=503), Fault(cut_file_at=2000), Fault(drop_after=0), Fault(flip_at=-30)],
    ids=["404", "503", "truncated zip", "dropped always", "directory damaged"],
)
def test_permanent_faults_leave_no_wrong_file(server, mimic, tmp_path, path, fault):
    server.always[path] = fault
    with pytest.raises(DownloadFailed) as caught:
        fetch(server, mimic, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert on_disk(tmp_path).items() <= expected_of(mimic).items()
    server.always.clear()
    fetch(server, mimic, tmp_path)
    assert on_disk(tmp_path) == expected_of(mimic)


def test_an_archive_of_another_size_is_not_coco(server, mimic, tmp_path):
    server.files[VAL] = mimic.files["/zips/train2017.zip"]
    assert "not the same file" in refusal(DownloadFailed, fetch, server, mimic, tmp_path)


@pytest.mark.slow
def test_after_any_interruption_the_next_call_continues(server, mimic, tmp_path):
    steps = 0

    class InterruptAt(Silent):
        def __init__(self, step: int) -> None:
            self.step = step

        def progress(self, task, done, total, unit="images") -> None:
            nonlocal steps
            steps += 1
            if steps == self.step:
                raise KeyboardInterrupt

    for step in range(1, 200, 3):
        steps = 0
        try:
            fetch(server, mimic, tmp_path / str(step), reporter=InterruptAt(step))
        except KeyboardInterrupt:
            named = {name: content for name, content in on_disk(tmp_path / str(step)).items() if ".part" not in name}
            assert named.items() <= expected_of(mimic).items()
            fetch(server, mimic, tmp_path / str(step))
        else:
            break
        assert on_disk(tmp_path / str(step)) == expected_of(mimic)
    assert step > 30


# Bad input.


def unreachable(mimic: Mimic, root: Path) -> Unreachable:
    """What fetching ends with where the host does not answer."""
    with FaultServer({}) as server:
        url = server.url
    with pytest.raises(Unreachable) as caught:
        fetch_coco(root, host=mimic.at(url))
    return caught.value


def test_a_missing_network_is_reported_in_one_sentence(mimic, tmp_path):
    said = str(unreachable(mimic, tmp_path))
    assert re.search(r"no connection.*val2017\.zip elsewhere.*`panbench data coco --from", said)


def test_without_a_network_eval_suggests_a_model_that_needs_none(mimic, tmp_path):
    error = unreachable(mimic, tmp_path)
    said = error.message(["--model", "--download"])
    assert "--from" not in said
    assert said.endswith("or run a model that needs no download: --model mask2former-tiny.")
    assert weights_here(find_model("mask2former-tiny")), "it comes with panbench"
    assert "--model" not in error.message(["--from"])


def test_disk_space_is_checked_first(server, mimic, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 9_000_000))
    monkeypatch.setattr(fetch_module, "_COMPLETE_SHARE", 0)
    big = build_mimic(n_val=3, n_train=1, jpeg_bytes=400_000)
    with FaultServer(big.files) as server, pytest.raises(OutOfSpace, match=r"val2017\.zip"):
        fetch(server, big, tmp_path)
    assert not [wanted for path, wanted, _ in server.log if path == VAL and _length(wanted) > 70_000]


def test_an_unwritable_root_is_reported_in_one_sentence(server, mimic, tmp_path):
    (tmp_path / "coco").write_text("a file where the root should be")
    assert "coco" in refusal(DownloadFailed, fetch, server, mimic, tmp_path / "coco")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "val, train, test-dev"),
        ({"limit": 0}, "at least 1"),
        ({"archives_from": "/nowhere"}, "is not a folder"),
    ],
)
def test_wrong_arguments_are_refused(server, mimic, tmp_path, arguments, message):
    assert message in refusal(BadArgument, fetch, server, mimic, tmp_path, **arguments)


# What is missing.


def test_missing_data_are_reported_with_command_and_size(tmp_path):
    missing = coco_missing(tmp_path / "data" / "coco", "val", 50)
    assert missing.command == f"panbench data coco --limit 50 --root {tmp_path / 'data' / 'coco'}"
    assert (missing.json, missing.images, missing.pngs) == (True, 50, 50)
    assert 8_000_000 < missing.bytes < 30_000_000
    assert "MB" in missing.way
    assert missing.command in missing.way


def test_the_default_root_needs_no_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert coco_missing().command == "panbench data coco"
    assert 840_000_000 < coco_missing().bytes < 900_000_000


def test_nothing_is_missing_after_a_fetch(server, mimic, tmp_path):
    fetch(server, mimic, tmp_path, limit=4)
    assert coco_missing(tmp_path, "val", 4) is None
    missing = coco_missing(tmp_path, "val")
    assert (missing.json, missing.images, missing.pngs) == (False, 8, 8)
    next((tmp_path / "val2017").iterdir()).unlink()
    assert coco_missing(tmp_path, "val", 4).images == 1


def test_the_test_archive_is_a_zip_in_a_zip(either_mimic, tmp_path):
    (tmp_path / "a.zip").write_bytes(either_mimic.files[ANNOTATIONS])
    with zipfile.ZipFile(tmp_path / "a.zip") as outer, outer.open("annotations/panoptic_val2017.zip") as inner:
        assert len(zipfile.ZipFile(inner).namelist()) == 14


def test_single_files_of_the_host_can_be_downloaded(server, mimic, tmp_path):
    download(server.url + VAL, tmp_path / "val2017.zip", sha256=mimic.host.images["val"].sha256)


@pytest.mark.parametrize("name", ["coco", "mine"])
def test_existing_archives_are_answered_with_the_command_that_unpacks_only_val(mimic, tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    (root / "val2017.zip").write_bytes(mimic.files[VAL])
    (root / "panoptic_annotations_trainval2017.zip").write_bytes(mimic.files[ANNOTATIONS])
    with pytest.raises(BadDataset) as caught:
        open_dataset(root)
    (line,) = re.findall(r"`(panbench data coco .*?)`", str(caught.value))
    assert "just val" in str(caught.value)
    words = shlex.split(line)
    assert (words[words.index("--root") + 1], words[words.index("--from") + 1]) == (str(root), str(root))
    fetch_coco(root, archives_from=root, host=mimic.host)
    assert len(open_dataset(root).scenes) == 12
