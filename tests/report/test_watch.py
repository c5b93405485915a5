"""`panbench serve` beside a run that is being written: what it says of it, and that it only reads."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from growing_run import Growing
from little_runs import everything

from panbench.metrics.fixes import priced_errors
from panbench.metrics.jackknife import intervals
from panbench.metrics.slices import image_statistics
from panbench.report.pages.live import growing as growing_module
from panbench.report.pages.live.growing import GrowingRun as Read
from panbench.runs import RunWriter, load_run

pytest.importorskip("starlette", reason="the extra is not installed")
from starlette.testclient import TestClient

from panbench.report.pages.live.library import RunLibrary
from panbench.report.pages.live.server import application


@pytest.fixture
def growing(tmp_path):
    made = Growing(tmp_path)
    yield made
    made.writer.close()


@pytest.fixture
def client(growing):
    return TestClient(application(RunLibrary(growing.folder)), base_url="http://127.0.0.1:8414", follow_redirects=False)


def how_far(client) -> dict:
    answer = client.get("/api/live?run=live")
    assert answer.status_code == 200, answer.text
    return answer.json()


def scores_of(run, *image_ids) -> list:
    """Rows of PQ, its interval, SQ and RQ that the tool gives for some images of a finished run."""
    table = intervals(image_statistics(run.matched.only(image_ids), run.categories), groups_only=True)
    rows = []
    for group in ("All", "Things", "Stuff"):
        own = table[table["group"] == group].set_index("metric")
        rows.append([group, *own.loc["PQ", ["value", "low", "high"]], own.loc["SQ", "value"], own.loc["RQ", "value"]])
    return rows


def test_pq_so_far_equals_that_of_a_finished_run_of_the_same_images(growing, client):
    far = how_far(client)
    assert (far["state"], far["images"], far["expected"], far["scores"]) == ("running", 0, 30, [])
    # Not in the order of ids, as a run in batches of one size writes them.
    for written in ([20, 21, 9], [7, 8], [30, 31, 32, 10, 11, 12, 25]):
        growing.score(*written)
    far = how_far(client)
    assert (far["state"], far["images"]) == ("running", 12)
    ids = sorted([20, 21, 9, 7, 8, 30, 31, 32, 10, 11, 12, 25])
    for row, wanted in zip(far["scores"], scores_of(growing.finished, *ids), strict=True):
        assert row[0] == wanted[0]
        assert row[1:] == pytest.approx(wanted[1:], abs=1e-6)
    assert far["scores"][0][2] < far["scores"][0][1] < 1


def test_each_part_of_a_watched_run_is_read_once(growing, client, monkeypatch):
    read = []
    real = growing_module.read_part
    monkeypatch.setattr(growing_module, "read_part", lambda part: (read.append(part.name), real(part))[1])
    for image in (7, 8, 9):
        growing.score(image)
        how_far(client)
    how_far(client)
    assert read == ["0000-000000.parquet", "0000-000001.parquet", "0000-000002.parquet"]


def test_a_request_without_news_is_answered_304_with_an_empty_body(growing, client):
    growing.score(7, 8)
    tag = client.get("/api/live?run=live").headers["ETag"]
    again = client.get("/api/live?run=live", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    growing.score(9)
    changed = client.get("/api/live?run=live", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["images"]) == (200, 3)
    assert changed.headers["ETag"] != tag


def test_half_written_and_foreign_parts_are_not_read(growing, client):
    part = growing.score(7, 8)
    content = part.read_bytes()
    (part.parent / ".0000-000001.parquet.x.tmp").write_bytes(content)
    (part.parent / "0000-000002.parquet").write_bytes(content[: len(content) // 2])
    other = RunWriter.create(growing.folder.parent / "other", growing.info(30))
    stranger = other.write_part(growing.finished.table)
    other.finish("interrupted")
    (part.parent / "0000-000003.parquet").write_bytes(stranger.read_bytes())
    assert how_far(client)["images"] == 2


def test_watching_a_run_neither_changes_it_nor_blocks_its_writer(growing, client):
    growing.score(7, 8, 9)
    before = everything(growing.folder)
    times = {path: path.stat().st_mtime_ns for path in growing.folder.rglob("*")}
    for address in ("/", "/live?run=live", "/api/live?run=live"):
        assert client.get(address).status_code == 200
    assert everything(growing.folder) == before
    assert {path: path.stat().st_mtime_ns for path in growing.folder.rglob("*")} == times
    growing.score(10)
    assert growing.writer.finish("done").images.tolist() == [7, 8, 9, 10]


def test_watching_takes_no_lock_so_a_new_writer_can_start(growing, client, monkeypatch):
    from panbench.base import locks

    growing.score(7)
    monkeypatch.setattr(locks.Lock, "acquire", lambda *_, **__: pytest.fail("a lock was taken"))
    for address in ("/", "/live?run=live", "/api/live?run=live"):
        assert client.get(address).status_code == 200


def test_the_rate_is_that_of_the_newest_parts(growing, client):
    since = growing.writer.path.stat().st_mtime + 1000
    for number, seconds in enumerate((0, 10, 12, 20)):
        part = growing.score(7 + 2 * number, 8 + 2 * number)
        os.utime(part, (since + seconds, since + seconds))
    # Six images came in the 20 seconds after the first part.
    assert how_far(client)["rate"] == pytest.approx(0.3)


def test_a_rate_does_not_count_the_time_before_the_run_was_resumed(growing):
    read = Read(growing.home, growing.writer.info)
    for number, seconds in enumerate((0, 5000, 5010)):
        part = growing.score(7 + number)
        os.utime(part, (1e9 + seconds, 1e9 + seconds))
    read.read_new_part_files()
    assert read.images_per_second(since=1e9 + 100) == pytest.approx(0.1)
    assert read.images_per_second(since=1e9 + 6000) is None


def test_newest_errors_come_with_their_crops_newest_part_first(growing, client):
    growing.score(7, 8)
    growing.score(9)
    far = how_far(client)
    assert far["faults"] == []
    images = [error["image"] for error in far["errors"]]
    assert images[0] == 9
    assert set(images) == {7, 8, 9}
    assert images.index(9) < images.index(7)
    for error in far["errors"]:
        assert error["photo"].startswith("data:image/")
        assert error["truth"] or error["predicted"]
    missed = next(error for error in far["errors"] if error["image"] == 9 and error["truth"])
    assert missed["gain"] > 0


def test_the_cost_of_an_error_is_computed_over_all_images_so_far(growing, client):
    growing.score(*range(7, 20))
    growing.score(20)
    run = growing.finished
    matched = run.matched.only(range(7, 21))
    from panbench.metrics.errors import assign_causes

    whole = priced_errors(assign_causes(matched, run.categories), matched, run.categories)
    wanted = {row.gt_ids: row.gain for row in whole.itertuples() if row.image_id == 20}
    assert wanted
    read = Read(growing.home, growing.writer.info)
    read.read_new_part_files()
    found = {error.gt_ids: error.gain for error in read.newest_errors(6) if error.image_id == 20}
    assert found == pytest.approx(wanted)
    # Alone, an image's errors weigh far more.
    alone = run.matched.only([20])
    assert priced_errors(assign_causes(alone, run.categories), alone, run.categories)["gain"].max() > 2 * max(
        found.values()
    )


def test_without_predictions_the_images_of_errors_are_shown(growing, client):
    growing.score(7, keep=False)
    errors = how_far(client)["errors"]
    assert {error["image"] for error in errors} == {7}
    assert all(error["photo"].startswith("data:image/") and not error["predicted"] for error in errors)


def test_without_photographs_errors_are_described_in_words(growing, client):
    for photo in (growing.finished.path.parent / "photos").iterdir():
        photo.unlink()
    growing.score(7)
    far = how_far(client)
    assert far["errors"]
    assert all("photo" not in error for error in far["errors"])
    assert "cannot be read" in far["faults"][0]


def test_a_picture_that_links_out_of_the_folder_is_not_shown(growing, client, tmp_path):
    growing.score(7)
    picture = growing.home / "predictions" / "photo 0 <i>.png"
    picture.rename(tmp_path / "outside.png")
    picture.symlink_to(tmp_path / "outside.png")
    far = how_far(client)
    assert all("photo" not in error for error in far["errors"])
    assert far["faults"] == ["photo 0 <i>.png is a link that leads out of the folder and is not served."]


def test_after_the_end_the_page_is_the_ordinary_report(growing, client):
    growing.score(*range(7, 37))
    assert client.get("/live?run=live").status_code == 200
    growing.writer.finish("done")
    assert how_far(client) == {"state": "done", "report": "/compare?run=live"}
    leads = client.get("/live?run=live")
    assert (leads.status_code, leads.headers["location"]) == (303, "/compare?run=live")
    assert "What PQ is lost to" in client.get("/compare?run=live").text


def test_a_killed_run_is_shown_as_stopped_with_the_command_that_resumes_it(tmp_path):
    script = (
        "import os, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from growing_run import Growing\n"
        "growing = Growing(Path(sys.argv[1]))\n"
        "growing.score(7, 8)\n"
        f"os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
    )
    tests = Path(__file__).resolve().parents[1]
    ended = subprocess.run([sys.executable, "-c", script, tmp_path, tests], check=False)
    assert ended.returncode == -signal.SIGTERM
    client = TestClient(application(RunLibrary(tmp_path / "results")), base_url="http://127.0.0.1")
    before = everything(tmp_path / "results")
    assert ".live.lock" in before
    far = how_far(client)
    assert (far["state"], far["images"], far["rate"]) == ("stopped", 2, None)
    assert "has ended without closing it" in far["said"]
    assert far["command"] == "panbench eval --model second --data shapes --resume"
    assert re.search(r'<a href="/live\?run=live">stopped</a>: 2 of 30 images', client.get("/").text)
    assert everything(tmp_path / "results") == before


def test_an_interrupted_run_shows_the_reason_and_how_to_resume(growing, client):
    growing.score(7)
    growing.writer.finish("interrupted", error="Interrupted from the keyboard.")
    far = how_far(client)
    assert far["state"] == "stopped"
    assert far["said"] == "The run was interrupted: Interrupted from the keyboard. What it scored is saved."
    assert far["command"].endswith("--resume")
    # It goes on, and is followed again.
    resumed = RunWriter.resume(growing.home)
    try:
        far = how_far(client)
        assert (far["state"], far["images"], far["command"]) == ("running", 1, None)
    finally:
        resumed.close()


def test_the_list_marks_a_run_in_progress(growing, client):
    growing.score(7, 8, 9)
    page = client.get("/").text
    assert re.search(r'<a href="/live\?run=live">being written</a>: 3 of 30 images', page)


def test_a_replacing_run_leads_to_its_final_page(growing, client):
    growing.score(7, 8)
    growing.writer.finish("done")
    growing.writer = RunWriter.create(growing.home, growing.info(30), overwrite=True)
    growing.score(7)
    new = ".live.panbench-new"
    far = client.get(f"/api/live?run={new}").json()
    assert (far["state"], far["images"]) == ("running", 1)
    growing.writer.finish("done")
    assert client.get(f"/api/live?run={new}").json() == {"state": "done", "report": "/compare?run=live"}


def test_parts_compacted_at_the_end_count_once(growing, client, monkeypatch):
    for image in range(7, 30):
        growing.score(image)
    how_far(client)
    # The run is joined to one part and is not done yet, as between two steps of the writer.
    growing.writer._compact_part_files()
    assert len(list((growing.home / "parts").glob("*.parquet"))) < 23
    growing.score(30)
    assert how_far(client)["images"] == 24
    assert load_run(growing.home).images.tolist() == list(range(7, 31))


def test_names_are_escaped_on_the_page_of_a_run_in_progress(growing, client):
    hostile = "</script><script>alert(1)</script>"
    growing.writer.update(model=replace(growing.writer.info.model, title=hostile))
    page = client.get("/live?run=live").text
    assert hostile not in page
    packed = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(packed.group(1))["models"][0]["label"] == hostile
