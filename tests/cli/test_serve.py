"""`panbench serve` from its start to Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from support import panbench

pytest.importorskip("uvicorn", reason="the extra is not installed: pip install 'panbench[serve]'")


def refused(*arguments: object) -> str:
    """The sentence with which a call ends that exits with 2."""
    result = panbench("serve", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_it_serves_until_ctrl_c_and_then_exits_with_0(tmp_path):
    (tmp_path / "results").mkdir()
    command = [sys.executable, "-m", "panbench", "serve", "results", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stderr.readline()).group()
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"There are no runs in results" in answer.read()
        server.send_signal(signal.SIGINT)
        stdout, stderr = server.communicate(timeout=60)
    assert (server.returncode, stdout, stderr) == (0, "", "")


def test_a_port_that_is_taken_is_said(tmp_path):
    (tmp_path / "results").mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"Port {port} cannot be used" in refused(tmp_path / "results", "--port", port)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    assert "There is no folder" in refused(tmp_path / "nowhere")


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'panbench[serve]'" in refused(tmp_path)
