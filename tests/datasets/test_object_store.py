"""Data in an S3 store on this machine (moto's server), which times out, throttles and loses objects.

A lane of its own (`make engines`): s3fs and moto need other packages at versions that constraints.txt does not have.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import panbench, ran, refused

from panbench.base import remote_paths
from panbench.base.errors import BadDataset, PredictionMismatch
from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.evaluation.options import EvaluateOptions
from panbench.runs import Run, load_run
from panbench.scoring.folder import score_folder

pytestmark = pytest.mark.s3
SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"
BUCKET = "s3://bucket"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

Fault = Callable[[str, int], "tuple[str, bytes] | None"]
"""What is answered to a path that is asked for the n-th time, from 1; None: what the store answers."""


class Store:
    """moto's server behind what a test makes go wrong."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._store = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.fault: Fault = lambda path, number: None
        self.asked: dict[str, int] = {}
        self.awake = threading.Event()
        self._guard = threading.Lock()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ, start):
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "GET":
            with self._guard:
                number = self.asked[path] = self.asked.get(path, 0) + 1
            if (faulty := self.fault(path, number)) is not None:
                start(faulty[0], [("Content-Type", "application/xml"), ("Content-Length", str(len(faulty[1])))])
                return [faulty[1]]
        return self._store(environ, start)

    def close(self) -> None:
        self.awake.set()
        self._server.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    store = Store()
    yield store
    store.close()


@pytest.fixture
def store(server, monkeypatch) -> Iterator[Store]:
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_paths, "WAITS", (0, 0, 0))
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for file in SCENES.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), "bucket", file.relative_to(SCENES).as_posix())
    server.client = client
    yield server
    server.fault = lambda path, number: None
    server.asked.clear()
    for listed in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=listed["Key"])


def score(place: str | Path, out: Path, **options) -> Run:
    score_folder(f"{place}/gt.json", f"{place}/pred.json", out=out, **options)
    return load_run(out)


def assert_same(there: Run, here: Run) -> None:
    assert there.table.to_arrow().equals(here.table.to_arrow())
    assert there.files.to_bytes() == here.files.to_bytes()
    assert [f"{row[name]:.17g}" for row in there.summary().values() for name in ("PQ", "SQ", "RQ")] == [
        f"{row[name]:.17g}" for row in here.summary().values() for name in ("PQ", "SQ", "RQ")
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Run:
    return score(SCENES, tmp_path_factory.mktemp("here") / "run")


def test_scores_from_a_bucket_equal_those_of_local_files_with_one_request_per_object(store, here, tmp_path):
    assert_same(score(BUCKET, tmp_path / "run"), here)
    pngs = {path: count for path, count in store.asked.items() if path.endswith(".png")}
    assert len(pngs) == 2 * 16
    assert set(pngs.values()) == {1}


def test_the_run_stores_the_address_without_credentials_and_is_verified_from_it(store, tmp_path):
    run = score(BUCKET, tmp_path / "run")
    assert run.info.dataset.gt == "s3://bucket/gt.json"
    assert "a-secret-of-the-test" not in (run.path / "run.json").read_text()
    verified = ran("runs", "verify", run.path, "--from-addresses")
    assert "The files of 16 images are unchanged" in verified.output
    name = sorted(SCENES.glob("gt/*.png"))[0].name
    store.client.put_object(Bucket="bucket", Key=f"gt/{name}", Body=b"other")
    assert f"s3://bucket/gt/{name}" in panbench("runs", "verify", run.path, "--from-addresses").output


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Server Error", "429 Too Many Requests"])
def test_temporary_throttling_changes_no_number(status, store, here, tmp_path):
    store.fault = lambda path, number: (status, SLOW_DOWN) if number <= 2 and path.endswith(".png") else None
    assert_same(score(BUCKET, tmp_path / "run"), here)
    assert {count for path, count in store.asked.items() if path.endswith(".png")} == {3}


def test_permanent_throttling_is_reported_with_the_image_and_can_be_resumed(store, here, tmp_path):
    name = sorted(SCENES.glob("pred/*.png"))[5].name
    store.fault = lambda path, number: ("503 Slow Down", SLOW_DOWN) if path.endswith(f"pred/{name}") else None
    with pytest.raises(PredictionMismatch) as refused:
        score(BUCKET, tmp_path / "run")
    told = str(refused.value)
    assert re.search(
        rf"s3://bucket/pred/{name} \(image \d+\) cannot be read: the store gave no answer after 4 tries", told
    )
    assert len(told.splitlines()) == 1
    assert store.asked[f"/bucket/pred/{name}"] == 4
    store.fault = lambda path, number: None
    assert_same(score(BUCKET, tmp_path / "run", resume=True), here)


def test_waiting_for_a_silent_store_is_bounded(store, here, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_paths, "_TIMEOUT", 1)
    name = sorted(SCENES.glob("gt/*.png"))[1].name

    def silent(path: str, number: int) -> "tuple[str, bytes] | None":
        if path.endswith(f"gt/{name}") and number == 1:
            store.awake.wait(60)
        return None

    store.fault = silent
    assert_same(score(BUCKET, tmp_path / "run"), here)
    assert store.asked[f"/bucket/gt/{name}"] == 2
    store.awake.set()


def test_an_object_that_vanishes_before_reading_is_named_and_the_run_can_be_resumed(store, tmp_path):
    from panbench.evaluation.evaluate import evaluate
    from panbench.models.opening import open_model

    shapes.generate(tmp_path / "coco", count=4, size=(64, 96))
    for file in (tmp_path / "coco").rglob("*"):
        if file.is_file():
            store.client.upload_file(str(file), "bucket", f"coco/{file.relative_to(tmp_path / 'coco').as_posix()}")
    model = open_model(find_model("mask2former-tiny"), device="cpu")
    options = EvaluateOptions(batch_size=1)
    here = evaluate(model, open_dataset(tmp_path / "coco"), tmp_path / "here", options)
    dataset = open_dataset("s3://bucket/coco")
    key = str(dataset.scenes[2].image_path).removeprefix("s3://bucket/")
    store.client.delete_object(Bucket="bucket", Key=key)
    with pytest.raises(BadDataset, match=rf"s3://bucket/{key} \(image \d+\) was not found") as refused:
        evaluate(model, dataset, tmp_path / "there", options)
    assert "the same command with --resume continues" in str(refused.value)
    store.client.upload_file(str(tmp_path / key), "bucket", key)
    resumed = evaluate(model, dataset, tmp_path / "there", EvaluateOptions(batch_size=1, resume=True))
    assert_same(resumed, here)
    assert resumed.info.dataset.images == "s3://bucket/coco/val"


def test_a_bucket_without_the_json_is_refused(store, tmp_path):
    said = refused("eval", "--model", "mask2former-tiny", "--data", "s3://bucket/coco", cwd=tmp_path)
    assert "There is no dataset s3://bucket/coco" in said
    assert "data coco" not in said
    assert list(tmp_path.iterdir()) == []
