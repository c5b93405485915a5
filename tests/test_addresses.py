"""The weekly look at every address that panbench fetches from, against a server on this machine."""

import datetime
import http.server

from support import serve

from panbench.catalog import load_catalog
from scripts.check.addresses import addresses, answer_of, table_of


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        kind = {"/w.pkl": "application/octet-stream", "/parked.pkl": "text/html; charset=utf-8"}.get(self.path)
        self.send_response(404 if kind is None else 200)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", "1234")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_file_answers_and_a_web_page_or_nothing_does_not() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = serve(server)
        url = f"http://127.0.0.1:{server.server_port}"
        assert answer_of(f"{url}/w.pkl") == (True, "200 application/octet-stream, 1,234 bytes")
        assert answer_of(f"{url}/parked.pkl") == (False, "200 text/html, 1,234 bytes")
        assert answer_of(f"{url}/gone.pkl")[0] is False
        server.shutdown()
        thread.join()
    assert answer_of(f"{url}/w.pkl")[0] is False


def test_every_model_that_is_fetched_has_its_address_in_the_table() -> None:
    asked = addresses()
    assert asked["mask2former-r50-authors"].endswith("/model_final_94dc52.pkl")
    assert "val2017.zip" in " ".join(asked)
    missing = {name for name, spec in load_catalog().items() if "://" in (spec.weights or "")} - set(asked)
    assert missing == set()
    table = table_of({"a": ("https://a", True, "200"), "b": ("https://b", False, "404")}, datetime.date(2026, 11, 24))
    assert "# Addresses on 2026-11-24: 1 of 2 answer" in table
    assert "| b | NO: 404 | https://b |" in table
