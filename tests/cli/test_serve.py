"""`panbench serve` from its start to Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import support

from panbench.base.extras import install_line

pytest.importorskip("uvicorn", reason="the extra is not installed")


def refused(*arguments: object) -> str:
    """The sentence with which a call ends that exits with 2."""
    said = support.refused("serve", *arguments)
    assert said.count("\n") == 1
    return said


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
    assert install_line("serve") in refused(tmp_path)


@pytest.mark.parametrize("own", ["", "a-token-of-this-test"])
def test_with_a_token_only_the_printed_address_lets_in(tmp_path, own):
    (tmp_path / "results").mkdir()
    command = [sys.executable, "-m", "panbench", "serve", "results", "--port", "0"] + ([] if own else ["--token"])
    environment = {**os.environ, "PANBENCH_SERVE_TOKEN": own}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stderr=pipe, stdout=pipe, text=True, env=environment) as server:
        address, shown = re.search(r"(http://127\.0\.0\.1:\d+)/enter/(\S+)", server.stderr.readline()).groups()
        # A token of the environment is a secret that the user has: it is not printed.
        assert (shown == "***") == bool(own)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address + "/", timeout=60)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{address}/enter/{own or shown}", timeout=60) as answer:
            assert b"There are no runs in results" in answer.read()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 0


def test_a_token_that_fits_into_no_address_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_SERVE_TOKEN", "a b/c")
    assert "PANBENCH_SERVE_TOKEN must be 8 to 200 letters" in refused(tmp_path)
