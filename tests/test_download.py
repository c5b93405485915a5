import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from coco_mimic import Fault, FaultServer

from panbench import download as download_module
from panbench.download import RangeReader, RangesUnsupported, download, mirrored
from panbench.errors import BadArgument, DownloadFailed, OutOfSpace

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"/file.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


def fetch(server: FaultServer, folder: Path, pauses: list[float], **arguments: object) -> Path:
    return download(server.url + "/file.bin", folder / "file.bin", sleep=pauses.append, **arguments)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_nothing_else_is_left(server, tmp_path, pauses):
    target = fetch(server, tmp_path / "new folder", pauses, sha256=SHA256, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_second_call_fetches_nothing(server, tmp_path, pauses):
    fetch(server, tmp_path, pauses, sha256=SHA256)
    fetch(server, tmp_path, pauses, sha256=SHA256)
    assert len(server.log) == 1
