"""No command shows a password or a token: what it prints is made to be pasted into reports."""

import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support import answering, panbench, panbench_program

from panbench.cli import console
from panbench.runs import RunInfo

PASSWORD = "hunter2/and#more"
TOKEN = "hf_the4secret5token6of7this8test"
LINES = f"{TOKEN}\nits-second-line"


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_doctor_shows_no_password_of_proxies_and_mirrors(arguments, tmp_path):
    secrets = {
        "HTTPS_PROXY": f"http://anna:{PASSWORD}@proxy:3128",
        "HTTP_PROXY": f"anna:{PASSWORD}@proxy:3128",
        "PANBENCH_MIRROR_COCO": f"https://anna:{PASSWORD}@mirror/coco",
        "PANBENCH_MIRROR_OPENMMLAB": "https://a-token-that-is-long-enough@mirror/zoo",
        "PANBENCH_TOKEN": TOKEN,
    }
    shown = panbench(*arguments, cwd=tmp_path, **secrets).stdout
    for secret in ("anna", "hunter2", "and#more", "a-token-that", TOKEN):
        assert secret not in shown
    for host in ("http://***@proxy:3128", "https://***@mirror/coco", "https://***@mirror/zoo"):
        assert host in shown


@pytest.fixture
def refusing():
    """The address of a server that refuses everything."""
    with answering(lambda request: request.send_error(503)) as address:
        yield address.removeprefix("http://")


@pytest.mark.parametrize(
    ("token", "endpoint"),
    [
        (LINES, "http://{}"),
        (f"{TOKEN}\u00e9", "http://{}"),
        (TOKEN, "http://anna:hunter2@{}"),
        (TOKEN, "http://anna:hunter2@127.0.0.1:1"),
        (TOKEN, f"http://anna:{PASSWORD}@{{}}"),
        (TOKEN, f"anna:{PASSWORD}@{{}}"),
    ],
)
def test_no_error_of_the_hub_shows_a_token_or_a_password(token, endpoint, refusing, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    settings = {**os.environ, "HF_TOKEN": token, "HF_ENDPOINT": endpoint.format(refusing)}
    # A process of its own, as huggingface_hub reads them when it is imported.
    done = panbench_program(
        *("predict", "photo.png", "--model", "hf:owner/name", "--download", "--debug"), cwd=tmp_path, env=settings
    )
    said = done.stderr + done.stdout
    assert done.returncode == 2, said
    assert "\nError: " in said
    assert not any(secret in said for secret in ("hunter2", "and#more", TOKEN, "its-second-line")), said


def test_tracebacks_and_results_show_no_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    console.print_error("It failed.", ValueError(f"token {TOKEN}"))
    console.note(f"Note {TOKEN}")
    console.hint(f"Hint {TOKEN}")
    console.show(f"Result {TOKEN}")
    console.show_json({"said": TOKEN})
    with console.Bars() as bars:
        bars.progress(f"Building {TOKEN}", 1, 1)
        bars.notice(f"Skipped {TOKEN}")
    shown = "".join(capsys.readouterr())
    assert TOKEN not in shown
    assert shown.count("***") == 7


def test_run_json_stores_no_secret_of_command_line_and_error(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    info = RunInfo(command=("panbench", "eval", "--gt", "https://anna:hunter2@host/gt.json"), error=f"401 for {TOKEN}")
    kept = json.dumps(info.to_json())
    assert "hunter2" not in kept
    assert TOKEN not in kept
    # A run.json that somebody else wrote is shown without them, too.
    stored = {**info.to_json(), "error": "no http://anna:hunter2@proxy", "command": [f"--x={TOKEN}"]}
    read = RunInfo.from_json(stored)
    assert (read.error, read.command) == ("no http://***@proxy", ("--x=***",))
    assert replace(read, error=TOKEN).error == "***"
