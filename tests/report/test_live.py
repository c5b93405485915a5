"""`panbench serve`: the pages and answers, asked as a browser asks, and the queries against a plain count."""

import asyncio
import functools
import html
import json
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from support import compared_by, in_a_loop, refusal

from panbench.base.errors import BadArgument

pytest.importorskip("starlette", reason="the extra is not installed")
from starlette.testclient import TestClient

from panbench.report.pages.live import selection
from panbench.report.pages.live.library import RunLibrary
from panbench.report.pages.live.queries import ErrorQuery, Query
from panbench.report.pages.live.server import application

BOTH = "run=run-a&run=run-b"


@pytest.fixture
def runs(make_runs, tmp_path) -> Path:
    """A folder of two runs."""
    for run in make_runs(images=6):
        shutil.move(run.path, tmp_path / "results" / run.path.name)
    return tmp_path / "results"


@pytest.fixture
def client(runs):
    return asking(runs)


@pytest.fixture(scope="module")
def shared_client(shared_runs):
    """For tests that only ask: a comparison is made once."""
    return asking(shared_runs[0].path.parent)


def asking(folder: Path) -> TestClient:
    return TestClient(application(RunLibrary(folder)), base_url="http://127.0.0.1:8414")


def found(client, query: str) -> list[int]:
    answer = client.get(f"/api/find?{BOTH}&order=id&limit=96&{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == len(answer.json()["images"])
    return answer.json()["images"]


def refuse_pictures(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(
            f"panbench.report.figures.pictures.Pictures.{name}", lambda *_: pytest.fail("a picture was read again")
        )


def slices_of(client) -> list[str]:
    """The names of the slices that the page lets choose from."""
    page = client.get(f"/compare?{BOTH}").text
    packed = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return [name for name, _ in json.loads(packed.group(1))["live"]["slices"]]


@functools.lru_cache(maxsize=1)
def segments_of(runs: Path) -> list[tuple]:
    """Every found, missed and false segment of both runs: (model, image, category's place, verdict, cause, iou)."""
    selection = compared_by(RunLibrary(runs), ["run-a", "run-b"])
    places = {category.id: place for place, category in enumerate(selection.members[0].categories)}
    return [
        (model, row.image_id, places[row.category_id], row.verdict, row.cause, row.iou)
        for model, member in enumerate(selection.members)
        for row in member.errors.itertuples()
    ]


def images_where(runs, condition) -> list[int]:
    return sorted({segment[1] for segment in segments_of(runs) if condition(*segment)})


class OnlyAsking:
    """Tests that change nothing: their runs are those of the session."""

    @pytest.fixture
    def runs(self, shared_runs) -> Path:
        return shared_runs[0].path.parent

    @pytest.fixture
    def client(self, shared_client):
        return shared_client


class TestQueries(OnlyAsking):
    def test_without_conditions_all_images_are_found(self, client):
        assert found(client, "") == [7, 8, 9, 10]

    @pytest.mark.parametrize("verdict", ["FN", "FP", "TP"])
    def test_a_query_by_category_and_verdict_needs_one_segment_with_both(self, runs, client, verdict):
        for category in range(3):
            for model in range(2):
                wanted = images_where(runs, lambda m, i, c, v, *_: (m, c, v) == (model, category, verdict))  # noqa: B023
                assert found(client, f"category={category}&verdict={verdict}&model={model}") == wanted

    def test_a_query_by_cause_agrees_with_the_tables(self, runs, client):
        causes = {segment[4] for segment in segments_of(runs)}
        assert len(causes) > 1
        for cause in causes:
            wanted = images_where(runs, lambda m, i, c, v, name, iou: name == cause)  # noqa: B023
            assert found(client, f"cause={cause}") == wanted

    def test_an_iou_range_includes_its_ends(self, runs, client):
        ious = sorted({segment[5] for segment in segments_of(runs) if segment[5] == segment[5]})
        low, high = ious[len(ious) // 3], ious[len(ious) // 2]
        wanted = images_where(runs, lambda m, i, c, v, cause, iou: low <= iou <= high)
        assert 0 < len(wanted) <= 4
        assert found(client, f"low={low!r}&high={high!r}") == wanted

    def test_confusions_are_found_by_pixels(self, client):
        # The worse model takes the cat for a ball in every image.
        assert found(client, "taken=0:1")
        assert found(client, "taken=2:0") != found(client, "taken=0:1") or found(client, "taken=2:0") == []

    def test_a_slice_query_finds_its_images_with_errors(self, runs, client):
        slices = slices_of(client)
        assert slices
        whole = set()
        for name in slices:
            whole |= set(found(client, urlencode({"slice": name})))
        wrong = images_where(runs, lambda m, i, c, verdict, *_: verdict != "TP")
        assert whole == set(wrong)

    def test_images_are_sorted_by_mean_pq_and_by_disagreement(self, runs, client):
        table = compared_by(RunLibrary(runs), ["run-a", "run-b"]).per_image.pivot(
            index="image_id", columns="run", values="PQ"
        )
        worst = client.get(f"/api/find?{BOTH}&order=worst").json()["images"]
        mean = table.mean(axis=1)
        assert (np.diff([mean[image] for image in worst]) >= 0).all()
        assert client.get(f"/api/find?{BOTH}&order=best").json()["images"][0] == mean.idxmax()
        gap = table.max(axis=1) - table.min(axis=1)
        differ = client.get(f"/api/find?{BOTH}&order=differ").json()["images"]
        assert (np.diff([gap[image] for image in differ]) <= 0).all()
        least = float(gap.median())
        assert found(client, f"differ={least!r}") == sorted(gap.index[gap >= least])

    def test_pages_of_a_result_follow_each_other(self, client):
        whole = client.get(f"/api/find?{BOTH}&order=worst").json()
        parts = [client.get(f"/api/find?{BOTH}&order=worst&offset={at}&limit=3").json() for at in (0, 3)]
        assert [part["total"] for part in parts] == [4, 4]
        assert parts[0]["images"] + parts[1]["images"] == whole["images"]
        assert [example["id"] for example in parts[1]["examples"]] == parts[1]["images"]

    @pytest.mark.parametrize(
        "words",
        ["category=99", "category=x", "model=7", "cause=bad luck", "verdict=TN", "low=nan", "slice=size:enormous",
         "taken=1", "taken=1:77", "order=random", "offset=-1", "limit=1000"],
    )  # fmt: skip
    def test_a_wrong_query_is_answered_with_400_and_one_sentence(self, client, words):
        answer = client.get(f"/api/find?{BOTH}&{words}")
        assert answer.status_code == 400
        assert re.fullmatch(r"[^\n]+\.", answer.json()["error"])

    def test_an_empty_query_is_the_default(self):
        assert Query.read({}) == Query()
        with pytest.raises(BadArgument):
            Query.read({"differ": "much"})


def errors_asked(client, query: str = "") -> dict:
    answer = client.get(f"/api/errors?{BOTH}&limit=96&{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestErrors(OnlyAsking):
    """The wall of errors: of all images, cut out when they are asked for."""

    @pytest.mark.parametrize(
        ("query", "fits"),
        [("", lambda row: True), ("cause=missed", lambda row: row.cause == "missed"),
         ("category=1", lambda row: row.category_id == 2), ("size=large", lambda row: False),
         ("size=small&cause=missed", lambda row: row.cause == "missed")],
    )  # fmt: skip
    def test_listed_errors_equal_the_table_with_the_costliest_first(self, runs, client, query, fits):
        selection = compared_by(RunLibrary(runs), ["run-a", "run-b"])
        for model, member in enumerate(selection.members):
            rows = list(member.priced.itertuples())
            wanted = [(row.image_id, round(row.gain, 6)) for row in rows if fits(row)]
            found = errors_asked(client, f"model={model}&{query}")
            assert [(one["image"], round(one["gain"], 6)) for one in found["errors"]] == [
                (image, pytest.approx(gain, rel=1e-3)) for image, gain in wanted
            ]
            assert (found["total"], found["all"], found["faults"]) == (len(wanted), len(rows), [])

    def test_each_crop_comes_with_the_other_models_prediction(self, client):
        alone = errors_asked(client, "model=1&cause=missed")["errors"][0]
        assert alone["photo"].startswith("data:image/")
        assert alone["truth"]
        assert alone["beside"] == [None, None]
        beside = errors_asked(client, "model=1&cause=missed&beside=0")["errors"][0]
        assert beside["beside"][0][0] == "found, IoU 1.00"
        assert beside["beside"][1] is None

    def test_a_slice_lists_the_errors_of_its_images(self, client):
        name = slices_of(client)[0]
        images = set(found(client, urlencode({"slice": name})))
        shown = errors_asked(client, "model=1&" + urlencode({"slice": name}))
        assert {one["image"] for one in shown["errors"]} <= images
        assert shown["total"] > 0

    @pytest.mark.parametrize("words", ["model=7", "beside=7", "category=99", "cause=luck", "size=tiny", "slice=a:b",
                                       "model=x", "limit=1000", "offset=-1"])  # fmt: skip
    def test_a_wrong_query_is_answered_with_400_and_one_sentence(self, client, words):
        answer = client.get(f"/api/errors?{BOTH}&{words}")
        assert answer.status_code == 400
        assert re.fullmatch(r"[^\n]+\.", answer.json()["error"])

    def test_crops_are_cached(self, runs, monkeypatch):
        client = asking(runs)
        first = errors_asked(client, "model=1")
        refuse_pictures(monkeypatch, "photo")
        assert errors_asked(client, "model=1") == first
        # Other words, the same errors.
        assert errors_asked(client, "model=1&cause=missed")["total"] < first["total"]

    def test_the_cache_of_crops_is_bounded(self, runs, monkeypatch):
        monkeypatch.setattr("panbench.report.pages.live.errors.KEPT", 2)
        selection = compared_by(RunLibrary(runs), ["run-a", "run-b"])
        answer = selection.errors(ErrorQuery(model=1))
        assert len(answer["errors"]) == answer["total"] > 2
        assert len(selection._errors._kept) == 2

    def test_errors_of_a_linked_picture_are_left_out_with_a_notice(self, make_runs, tmp_path):
        folder = tmp_path / "results"
        for run in make_runs(images=4):
            shutil.move(run.path, folder / run.path.name)
        picture = folder / "run-b" / "predictions" / "photo 1 <i>.png"
        picture.rename(tmp_path / "outside.png")
        picture.symlink_to(tmp_path / "outside.png")
        shown = errors_asked(asking(folder), "model=1")
        assert 8 not in {one["image"] for one in shown["errors"]}
        assert ["is a link that leads out of the folder" in fault for fault in shown["faults"]] == [True]


class TestServer:
    def test_the_list_leads_to_each_run(self, client):
        page = client.get("/")
        assert page.status_code == 200
        for name in ("run-a", "run-b"):
            assert f'href="/compare?run={name}"' in page.text
            assert client.get(f"/compare?run={name}").status_code == 200
        assert page.text.count('<span class="marker"') == 2

    def test_the_list_shows_the_costliest_error_of_each_run(self, client):
        client.get("/")  # takes a second at most, and looks at one run at least
        assert client.get("/").text.count('<svg class="crop"') == 2

    def test_a_served_example_equals_the_static_pages(self, client):
        example = client.get(f"/api/example?{BOTH}&image=8").json()
        assert example["id"] == 8
        assert len(example["layers"]) == 3
        assert all(example["layers"])
        assert example["photo"].startswith("data:image/jpeg;base64,")

    def test_thumbnails_show_the_requested_model_or_the_worst(self, client):
        shown = client.get(f"/api/find?{BOTH}").json()["examples"]
        assert all(one["part"] for one in shown)
        # The truth, and of two models the one that does worse: the second misses a ball of each image.
        assert [[layer is not None for layer in one["layers"]] for one in shown] == [[True, False, True]] * 6
        assert [[answers is not None for answers in one["answers"]] for one in shown] == [[False, True]] * 6
        first = client.get(f"/api/find?{BOTH}&model=0").json()["examples"]
        assert [[layer is not None for layer in one["layers"]] for one in first] == [[True, True, False]] * 6
        whole = client.get(f"/api/example?{BOTH}&image={shown[0]['id']}").json()
        assert "part" not in whole
        assert whole["layers"][2]["segments"] == shown[0]["layers"][2]["segments"]

    def test_thumbnails_have_the_displayed_size(self, client, monkeypatch):
        # Of the real size they would be 40 pixels wide: the bound is set lower.
        monkeypatch.setattr(selection, "SIDE", 20)
        for one in client.get(f"/api/find?{BOTH}").json()["examples"]:
            assert (one["width"], one["height"]) == (20, 15)
        assert client.get(f"/api/example?{BOTH}&image=8").json()["width"] == 40

    def test_a_repeated_list_reads_no_picture_again(self, client, monkeypatch):
        first = client.get(f"/api/find?{BOTH}&category=1").json()
        assert len(first["examples"]) == 6
        refuse_pictures(monkeypatch, "photo", "small_photo", "truth")
        # Other words, the same images and models.
        assert client.get(f"/api/find?{BOTH}&order=id&category=1").json()["total"] == 6
        assert client.get(f"/api/find?{BOTH}&category=1").json() == first

    def test_only_local_host_names_are_accepted(self, client):
        for host in ("evil.example", "127.0.0.1.evil.example", ""):
            assert client.get("/", headers={"Host": host}).status_code == 400
        for host in ("127.0.0.1:8414", "localhost:8414", "localhost"):
            assert client.get("/", headers={"Host": host}).status_code == 200

    def test_no_url_leads_out_of_the_folder(self, client, runs):
        secret = runs.parent / "secret"
        shutil.copytree(runs / "run-a", secret)
        (runs / "link").symlink_to(secret)
        for name in ("../secret", "%2e%2e/secret", str(secret), "link", "run-a/../../secret"):
            answer = client.get("/compare", params={"run": name})
            assert answer.status_code == 400
            assert "There is no run" in answer.text
        assert "run=link" not in client.get("/").text
        for path in ("/../secret/run.json", "/run-a/run.json", "/static/..%2f..%2fsecret/run.json", "/run-a"):
            assert client.get(path).status_code == 404

    def test_predictions_that_name_a_file_outside_are_refused(self, client, runs):
        annotations = [{"image_id": 8, "file_name": "../../run-b/predictions/1.png", "segments_info": []}]
        (runs / "run-a" / "predictions.json").write_text(json.dumps({"annotations": annotations}))
        answer = client.get(f"/api/example?{BOTH}&image=8")
        assert answer.status_code == 400
        assert "which leaves its folder" in answer.json()["error"]

    def test_only_reading_requests_are_answered(self, client):
        assert client.post("/", data={"run": "run-a"}).status_code == 405
        assert client.delete(f"/compare?{BOTH}").status_code == 405

    def test_names_are_escaped_everywhere(self, client, runs):
        shutil.copytree(runs / "run-a", runs / "<img src=x onerror=alert(1)>")
        for page in (client.get("/").text, client.get(f"/compare?{BOTH}").text):
            assert "<img src=x" not in page
            assert "</script><b>cat" not in page
            assert "default-src 'none'" in html.unescape(page)

    def test_torn_and_damaged_runs_are_marked(self, client, runs):
        shutil.copytree(runs / "run-a", runs / "torn")
        next((runs / "torn" / "parts").glob("*.parquet")).unlink()
        (runs / "broken").mkdir()
        (runs / "broken" / "run.json").write_text("{")
        page = client.get("/").text
        assert re.search(r"torn.*incomplete.*is missing", page, re.DOTALL)
        assert re.search(r"broken</th><td>[^<]*is damaged", page)
        assert 'href="/compare?run=torn"' not in page

    def test_new_and_changed_runs_are_read_again(self, client, runs):
        assert client.get("/compare?run=new").status_code == 400
        shutil.copytree(runs / "run-b", runs / "new")
        assert client.get("/compare?run=new").status_code == 200
        shutil.rmtree(runs / "new" / "parts")
        assert client.get("/compare?run=new").status_code == 400

    def test_an_empty_selection_returns_to_the_list_with_a_hint(self, client):
        answer = client.get("/compare")
        assert answer.status_code == 400
        assert "No run is chosen: tick at least one." in answer.text
        assert 'aria-label="Compare run-a"' in answer.text

    def test_the_two_best_runs_are_preselected(self, client, runs):
        shutil.copytree(runs / "run-b", runs / "run-c")
        ticked = re.findall(r'value="([^"]*)" checked', client.get("/").text)
        assert ticked == ["run-a", "run-b"]

    def test_without_predictions_numbers_are_still_served(self, client, runs):
        for name in ("run-a", "run-b"):
            shutil.rmtree(runs / name / "predictions")
        page = client.get(f"/compare?{BOTH}")
        assert page.status_code == 200
        assert "No run has stored predictions" in page.text
        assert client.get(f"/api/example?{BOTH}&image=8").status_code == 400

    def test_a_missing_folder_is_refused(self, tmp_path):
        assert "There is no folder" in refusal(BadArgument, RunLibrary, tmp_path / "nowhere")

    def test_an_empty_folder_is_reported(self, tmp_path):
        (tmp_path / "none").mkdir()
        page = asking(tmp_path / "none").get("/")
        assert "There are no runs in" in page.text


class Requests:
    """The application asked through ASGI itself, many requests at a time, each of which may leave."""

    def __init__(self, app):
        self.app = app

    async def get(self, path, query="", leave=None):
        """(status, headers, body), or None for a client that left before it was answered."""
        events = [{"type": "http.request", "body": b"", "more_body": False}]
        answer = {}

        async def receive():
            if events:
                return events.pop()
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message):
            answer.setdefault("status", message.get("status"))
            answer.setdefault("headers", dict(message.get("headers", [])))
            answer["body"] = answer.get("body", b"") + message.get("body", b"")

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(b"host", b"127.0.0.1:8414")], "server": ("127.0.0.1", 8414), "scheme": "http",
            "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await self.app(scope, receive, send)
        return None if answer["status"] == 499 else (answer["status"], answer["headers"], answer["body"])


class HeldUp:
    """Comparisons that begin, and go on when they may."""

    def __init__(self, monkeypatch):
        self.began, self.made = [], []
        self.started, self.may_go_on = threading.Event(), threading.Event()
        compare = RunLibrary.compare

        def held_up(library, asked, reporter):
            self.began.append(asked.run_names)
            self.started.set()
            self.may_go_on.wait()
            reporter.status("going on")
            found = compare(library, asked, reporter)
            self.made.append(asked.run_names)
            return found

        monkeypatch.setattr(RunLibrary, "compare", held_up)


class TestUnderLoad:
    @pytest.fixture
    def held_up(self, monkeypatch):
        held = HeldUp(monkeypatch)
        yield held
        held.may_go_on.set()

    @pytest.fixture
    def library(self, shared_runs):
        return RunLibrary(shared_runs[0].path.parent)

    @pytest.fixture
    def requests(self, library):
        return Requests(application(library))

    @in_a_loop
    async def test_two_hundred_equal_requests_share_one_comparison_and_the_index_still_answers(self, requests, held_up):
        asking = [
            asyncio.ensure_future(requests.get("/compare", BOTH if place % 2 else "run=run-b&run=run-a"))
            for place in range(200)
        ]
        await asyncio.to_thread(held_up.started.wait)
        assert (await requests.get("/"))[0] == 200
        assert not any(task.done() for task in asking)
        held_up.may_go_on.set()
        answers = await asyncio.gather(*asking)
        assert {status for status, _, _ in answers} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert (await requests.get("/compare", BOTH))[2] == answers[0][2]
        assert held_up.began == [("run-a", "run-b")]

    @in_a_loop
    async def test_a_comparison_that_all_clients_abandoned_is_not_computed(self, requests, held_up):
        leave = asyncio.Event()
        running = asyncio.ensure_future(requests.get("/compare", BOTH, leave))
        await asyncio.to_thread(held_up.started.wait)
        waiting = [asyncio.ensure_future(requests.get("/compare", "run=run-a", leave)) for _ in range(5)]
        await asyncio.sleep(0)
        leave.set()
        assert await asyncio.gather(running, *waiting) == [None] * 6
        held_up.may_go_on.set()
        # The next comparison comes after those that nobody waits for.
        assert (await requests.get("/compare", "run=run-b"))[0] == 200
        assert held_up.began == [("run-a", "run-b"), ("run-b",)]
        assert held_up.made == [("run-b",)]

    @in_a_loop
    async def test_too_many_requests_get_503_with_retry_after(self, library, held_up, monkeypatch):
        monkeypatch.setattr("panbench.report.pages.live.server.MOST_COMPARISONS", 2)
        requests = Requests(application(library))
        leave = asyncio.Event()
        asked = [BOTH, "run=run-a", "run=run-b"]
        asking = []
        for query in asked:
            asking.append(asyncio.ensure_future(requests.get("/compare", query, leave)))
            await asyncio.to_thread(held_up.started.wait)
        # They are looked up before they wait; this request is looked up after them.
        assert (await requests.get("/compare", "run=nothing"))[0] == 400
        status, headers, body = await requests.get("/compare", f"{BOTH}&common=1")
        assert (status, headers[b"retry-after"]) == (503, b"5")
        assert b"This server is busy. Try again in 5 seconds." in body
        status, headers, body = await requests.get("/api/find", f"{BOTH}&common=1")
        assert (status, headers[b"retry-after"]) == (503, b"5")
        assert json.loads(body) == {"error": "This server is busy. Try again in 5 seconds."}
        leave.set()
        await asyncio.gather(*asking)


class TestLinks:
    """A run from somebody else may hold links to anything of ours."""

    @pytest.mark.parametrize("name", ["parts", "predictions", "predictions.json"])
    def test_a_run_with_a_link_that_leads_outside_is_not_served(self, client, runs, tmp_path, name):
        outside = tmp_path / "outside"
        if (runs / "run-a" / name).exists():
            (runs / "run-a" / name).rename(outside)
        else:
            outside.write_text('{"annotations": []}')
        (runs / "run-a" / name).symlink_to(outside)
        page = client.get("/").text
        assert re.search(rf"run-a</th><td>{name} is a link that leads out of the folder", page)
        assert 'href="/compare?run=run-a"' not in page
        for path in ("/compare?run=run-a", f"/api/find?{BOTH}", f"/api/example?{BOTH}&image=8"):
            assert client.get(path).status_code == 400
        assert client.get("/compare?run=run-b").status_code == 200

    def test_a_part_that_is_a_link_is_not_read(self, client, runs, tmp_path):
        part = next((runs / "run-a" / "parts").glob("*.parquet"))
        part.rename(tmp_path / part.name)
        part.symlink_to(tmp_path / part.name)
        answer = client.get("/compare?run=run-a")
        assert (answer.status_code, "is a link that leads out of the folder" in answer.text) == (400, True)

    def test_a_picture_that_is_a_link_is_not_shown(self, client, runs, tmp_path):
        pictures = sorted((runs / "run-a" / "predictions").glob("*.png"))
        for picture in pictures:
            picture.rename(tmp_path / picture.name)
            picture.symlink_to(tmp_path / picture.name)
        answer = client.get(f"/api/example?{BOTH}&image=8")
        assert answer.status_code == 400
        assert "is a link that leads out of the folder and is not served" in answer.json()["error"]

    def test_a_link_within_the_folder_is_followed(self, client, runs):
        (runs / "run-a" / "parts").rename(runs / "kept-parts")
        (runs / "run-a" / "parts").symlink_to(runs / "kept-parts")
        assert client.get("/compare?run=run-a").status_code == 200


class TestToken:
    TOKEN = "a-token-of-this-test"

    @pytest.fixture
    def client(self, shared_runs):
        app = application(RunLibrary(shared_runs[0].path.parent), self.TOKEN)
        return TestClient(app, base_url="http://127.0.0.1:8414")

    def test_without_the_token_nothing_is_served(self, client):
        for path in ("/", "/compare?run=run-a", f"/api/find?{BOTH}", "/nowhere", "/enter/another-token", "/enter/"):
            answer = client.get(path, follow_redirects=False)
            assert answer.status_code == 403, path
            assert "run-a" not in answer.text
            assert "set-cookie" not in answer.headers

    def test_the_tokens_url_sets_a_cookie_and_leaves_the_address_bar(self, client):
        entered = client.get(f"/enter/{self.TOKEN}", follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert self.TOKEN not in cookie
        assert "HttpOnly" in cookie
        assert client.get("/").status_code == 200
        assert client.get("/compare?run=run-a").status_code == 200

    def test_programs_send_the_token_in_a_header(self, client):
        for kind in ("token", "Bearer"):
            assert client.get("/", headers={"Authorization": f"{kind} {self.TOKEN}"}).status_code == 200
        for shown in (f"Basic {self.TOKEN}", "token another", self.TOKEN, "token \xff".encode("latin-1")):
            assert client.get("/", headers={"Authorization": shown}).status_code == 403

    def test_a_token_does_not_open_the_door_to_another_host(self, client):
        assert client.get(f"/enter/{self.TOKEN}", headers={"Host": "evil.example"}).status_code == 400
