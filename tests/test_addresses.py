"""The weekly look at every address that panbench fetches from, against a server on this machine."""

import datetime
from typing import Any

from support import answering

from panbench.catalog import load_catalog
from scripts.check.addresses import addresses, answer_of, table_of


def answer(request: Any) -> None:
    kind = {"/w.pkl": "application/octet-stream", "/parked.pkl": "text/html; charset=utf-8"}.get(request.path)
    request.send_response(404 if kind is None else 200)
    request.send_header("Content-Type", kind or "text/plain")
    request.send_header("Content-Length", "1234")
    request.end_headers()


def test_addresses_that_give_a_web_page_or_nothing_are_reported() -> None:
    with answering(answer) as url:
        assert answer_of(f"{url}/w.pkl") == (True, "200 application/octet-stream, 1,234 bytes")
        assert answer_of(f"{url}/parked.pkl") == (False, "200 text/html, 1,234 bytes")
        assert answer_of(f"{url}/gone.pkl")[0] is False
    assert answer_of(f"{url}/w.pkl")[0] is False


def test_every_downloadable_model_has_its_address_in_the_table() -> None:
    asked = addresses()
    assert asked["mask2former-r50-authors"].endswith("/model_final_94dc52.pkl")
    assert "val2017.zip" in " ".join(asked)
    missing = {name for name, spec in load_catalog().items() if "://" in (spec.weights or "")} - set(asked)
    assert missing == set()
    table = table_of({"a": ("https://a", True, "200"), "b": ("https://b", False, "404")}, datetime.date(2026, 11, 24))
    assert "# Addresses on 2026-11-24: 1 of 2 answer" in table
    assert "| b | NO: 404 | https://b |" in table
