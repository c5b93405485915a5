"""Secrets of the environment and of addresses are taken out of whatever is printed or kept."""

import pytest

from panbench.base.errors import BadArgument
from panbench.base.secrets import redacted, without_secrets

TOKEN = "hf_the4secret5token6of7this8test"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("HF_TOKEN", "HTTPS_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no connection to http://anna:hunter2@proxy:3128/x", "no connection to http://***@proxy:3128/x"),
        ("https://anna:a@b@host/path", "https://***@host/path"),
        ("Illegal header value b'Bearer abc.def-ghi'", "Illegal header value b'Bearer ***'"),
        ("{'Authorization': 'Basic YW5uYTpodW50ZXIy'}", "{'Authorization': '***'}"),
        ("proxy-authorization: Basic YW5uYTpodW50ZXIy", "proxy-authorization: ***"),
        ("GET https://cdn/x?X-Amz-Signature=0a1b2c&part=7", "GET https://cdn/x?X-Amz-Signature=***&part=7"),
        ('{"api_key": "k\\"7", "token": 12, "PQ": 51.9}', '{"api_key": "***", "token": 12, "PQ": 51.9}'),
        ("login with hf_AbCdEfGhIjKlMnOpQrStUv failed", "login with hf_*** failed"),
    ],
)
def test_secrets_are_recognized_by_their_form(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "set HF_TOKEN to a token of your account",
        "hf:owner/name@v2",
        "Basic settings need a secretary",
        "anna@example.org wrote docs/models.md",
        "3 of 40 images, PQ 51.86",
        '{"token": null, "tokens": 123456}',
        "`panbench data coco --limit 20`",
    ],
)
def test_other_text_is_not_changed(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD", "X_SECRET"]
)
def test_values_of_secret_variables_are_hidden_everywhere(monkeypatch, name):
    monkeypatch.setenv(name, "s3cr3t/of+mine")
    assert redacted("(s3cr3t/of+mine), s3cr3t%2Fof%2Bmine") == "(***), ***"


def test_a_token_of_two_lines_is_hidden_in_every_form(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\nsecond-line")
    for spelled in (repr(f"Bearer {TOKEN}\nsecond-line"), f"{TOKEN} second-line", f"Bearer {TOKEN}\\nsecond-line"):
        shown = redacted(spelled)
        assert TOKEN not in shown
        assert "second" not in shown


@pytest.mark.parametrize("value", ["http://anna:hun/ter#2@proxy:3128", "anna:hun/ter#2@proxy:3128"])
def test_a_password_with_slashes_is_hidden_with_its_variable_and_alone(monkeypatch, value):
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert redacted(value) == value.replace("anna:hun/ter#2@", "***@")
    assert redacted("Invalid port: 'hun/ter#2'") == "Invalid port: '***'"


def test_paths_short_values_and_numbers_are_not_taken_for_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_KEY", str(tmp_path))
    monkeypatch.setenv("A_KEY", "seg")
    monkeypatch.setenv("B_TOKEN", "1000000")
    monkeypatch.setenv("INDEX_URL", "https://host/package@1.0")
    text = f"{tmp_path}: segments of 1000000 images, https://host/package@1.0"
    assert redacted(text) == text


def test_an_address_is_shown_without_its_login():
    assert without_secrets("https://anna:hunter2@host/file.zip?token=abc") == "https://host/file.zip?token=***"


def test_an_error_that_quotes_a_library_shows_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert str(BadArgument(f"It said {TOKEN}.")) == "It said ***."
