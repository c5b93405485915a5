"""`panbench serve` from its start to Ctrl-C."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import one_sentence, refusal

from panbench.base.extras import install_line

pytest.importorskip("uvicorn", reason="the extra is not installed")


@contextlib.contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """`panbench serve` of an empty folder, and the address that it prints; it must end well with Ctrl-C."""
    (folder / "results").mkdir()
    command = [sys.executable, "-m", "panbench", "serve", "results", "--port", "0", *options]
    pipes: Any = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, **pipes) as server:
        yield re.search(r"http://127\.0\.0\.1:\d+/\S*", server.stderr.readline()).group()
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60) == ("", "")
    assert server.returncode == 0


def test_serve_runs_until_ctrl_c_and_exits_with_0(tmp_path):
    with serving(tmp_path) as address, urllib.request.urlopen(address, timeout=60) as answer:
        assert b"There are no runs in results" in answer.read()


def test_a_port_in_use_is_reported(tmp_path):
    (tmp_path / "results").mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"Port {port} cannot be used" in one_sentence("serve", tmp_path / "results", "--port", port)


def test_a_missing_folder_is_reported(tmp_path):
    assert "There is no folder" in one_sentence("serve", tmp_path / "nowhere")


def test_without_the_extra_the_error_has_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert install_line("serve") in one_sentence("serve", tmp_path)


@pytest.mark.parametrize("own", ["", "a-token-of-this-test"])
def test_with_a_token_only_the_printed_address_lets_in(tmp_path, own):
    with serving(tmp_path, *([] if own else ["--token"]), PANBENCH_SERVE_TOKEN=own) as printed:
        address, shown = printed.split("/enter/")
        # A token of the environment is a secret that the user has: it is not printed.
        assert (shown == "***") == bool(own)
        assert "403" in refusal(urllib.error.HTTPError, urllib.request.urlopen, address + "/", timeout=60)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{address}/enter/{own or shown}", timeout=60) as answer:
            assert b"There are no runs in results" in answer.read()


def test_a_token_that_does_not_fit_into_a_url_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_SERVE_TOKEN", "a b/c")
    assert "PANBENCH_SERVE_TOKEN must be 8 to 200 letters" in one_sentence("serve", tmp_path)
