"""What `panbench data coco` fetches, against the naive way, and how it takes faults: python scripts/bench/fetch.py.

COCO's host cannot be reached from everywhere, so a mimic of it is served on 127.0.0.1: as many validation and training
images as COCO has, archives of a tenth of COCO's sizes. Naive is what a notebook does: both archives whole. Bytes are
those of answers' bodies; no times are given, for no network is involved.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base.errors import PanbenchError
from panbench.datasets.fetch import fetch_coco
from scripts.make.coco_mimic import Fault, FaultServer, Mimic, build_mimic

ANNOTATIONS = "/annotations/panoptic_annotations_trainval2017.zip"
VAL = "/zips/val2017.zip"

FAULTS: dict[str, tuple[list[Fault | None], Fault | None]] = {
    "connection drops at random bytes": ([Fault(drop_after=n) for n in (700, 11, 1900, 350)], None),
    "Range ignored": ([], Fault(ignore_range=True)),
    "Content-Length too large, once": ([Fault(length_off_by=60)], None),
    "Content-Length too small, once": ([Fault(length_off_by=-60)], None),
    "503 twice, then fine": ([Fault(status=503)] * 2, None),
    "503 for ever": ([], Fault(status=503)),
    "404": ([], Fault(status=404)),
    "redirect": ([], Fault(redirect="/elsewhere")),
    "redirect in a circle": ([], Fault(redirect=VAL)),
    "file changes between requests": ([None, None, Fault(etag='"another"')], None),
    "zip cut off": ([], Fault(cut_file_at=2500)),
    "byte flipped on its way, once": ([None, None, Fault(flip_at=1200)], None),
    "byte flipped for good": ([], Fault(flip_at=1200)),
    "slow drip": ([], Fault(block=16)),
}


def traffic(mimic: Mimic) -> None:
    """Prints bytes and requests for a few calls."""
    naive = len(mimic.files[ANNOTATIONS]) + len(mimic.files[VAL])
    print(f"| {'call':<28} | {'bytes':>12} | {'of naive':>8} | requests |")
    print(f"| {'-' * 28} | {'-' * 11}: | {'-' * 7}: | -------: |")
    print(f"| {'naive: both archives':<28} | {naive:>12,} | {1:>8.1%} | {2:>8} |")
    with FaultServer(mimic.files) as server, tempfile.TemporaryDirectory() as folder:
        calls: tuple[tuple[str, int | None, str], ...] = (
            ("--limit 50", 50, "a"),
            ("then --limit 100", 100, "a"),
            ("then all of val", None, "a"),
            ("all of val from nothing", None, "b"),
            ("again", None, "b"),
        )
        for name, limit, root in calls:
            server.sent = 0
            server.log.clear()
            fetch_coco(Path(folder) / root, limit=limit, host=mimic.at(server.url))
            print(f"| {name:<28} | {server.sent:>12,} | {server.sent / naive:>8.1%} | {len(server.log):>8} |")


def faults(mimic: Mimic) -> None:
    """Prints what becomes of each fault, at the archive of images."""
    expected = {name: content for name, content in mimic.expected.items() if "val2017" in name}
    print(f"| {'fault':<33} | requests | outcome |")
    print(f"| {'-' * 33} | -------: | ------- |")
    for name, (queue, always) in FAULTS.items():
        with FaultServer(mimic.files) as server, tempfile.TemporaryDirectory() as folder:
            server.files["/elsewhere"] = mimic.files[VAL]
            server.faults[VAL] = list(queue)
            if always is not None:
                server.always[VAL] = always
            try:
                fetch_coco(folder, host=mimic.at(server.url), sleep=lambda _: None)
                outcome = "all files whole"
            except PanbenchError as error:
                outcome = f"refused: {error}".replace(server.url, "http://…").replace(folder, "…")
            for path in Path(folder).rglob("*"):
                if path.is_file() and ".panbench" not in path.parts:
                    assert path.read_bytes() == expected[path.relative_to(folder).as_posix()], path
            requests = sum(path in (VAL, "/elsewhere") for path, _, _ in server.log)
        print(f"| {name:<33} | {requests:>8} | {outcome} |")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--train", type=int, default=118_287)
    arguments = parser.parse_args()
    for stored in (True, False):
        print(f"\nThe zip in the annotations' zip is {'stored' if stored else 'deflated'}:\n")
        traffic(
            build_mimic(
                arguments.images,
                arguments.train,
                inner_stored=stored,
                jpeg_bytes=16_312,
                png_bytes=600,
                size=(24, 32),
            )
        )
    print("\nFaults at val2017.zip; nothing wrong stood under its final name after any of them:\n")
    faults(build_mimic())


if __name__ == "__main__":
    main()
