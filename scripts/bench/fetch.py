"""What `panbench data coco` fetches, against the naive way, and how it takes faults: python scripts/bench/fetch.py.

COCO's host cannot be reached from everywhere, so a mimic of it is served on 127.0.0.1: a tenth of the validation and
training images that COCO has by default, with photographs of a tenth of COCO's sizes. Naive is what a notebook does:
both archives whole. Bytes are those of answers' bodies; no times are given, for no network is involved.
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base.errors import PanbenchError
from panbench.datasets.fetch import fetch_coco
from scripts.bench.harness import Row, arguments, finish
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


def traffic(mimic: Mimic) -> dict[str, tuple[int, int]]:
    """Bytes and requests of a few calls."""
    found = {"naive: both archives whole": (len(mimic.files[ANNOTATIONS]) + len(mimic.files[VAL]), 2)}
    with FaultServer(mimic.files) as server, tempfile.TemporaryDirectory() as folder:
        calls: tuple[tuple[str, int | None, str], ...] = (
            ("`--limit 50`", 50, "a"),
            ("then `--limit 100`", 100, "a"),
            ("then all of val", None, "a"),
            ("all of val, from nothing", None, "b"),
            ("the same call again", None, "b"),
        )
        for name, limit, root in calls:
            server.sent = 0
            server.log.clear()
            fetch_coco(Path(folder) / root, limit=limit, host=mimic.at(server.url))
            found[name] = server.sent, len(server.log)
    return found


def faults(mimic: Mimic) -> list[Row]:
    """What becomes of each fault, at the archive of images; nothing wrong may stand under its final name."""
    expected = {name: content for name, content in mimic.expected.items() if "val2017" in name}
    rows = []
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
        rows.append({"fault": name, "requests": str(requests), "outcome": re.sub("[0-9a-f]{16}", "…", outcome)})
    return rows


def main() -> None:
    """Prints both tables."""
    options = arguments(__doc__, images=500, train=11_828)
    found = {}
    for stored in (True, False):
        sizes = {"jpeg_bytes": 16_312, "png_bytes": 600}
        mimic = build_mimic(options.images, options.train, inner_stored=stored, size=(24, 32), **sizes)
        found["inner zip stored" if stored else "inner zip deflated"] = traffic(mimic)
    kinds = list(found)
    rows = []
    for name in found[kinds[0]]:
        row = {f"{options.images:,} + {options.train:,} images": name}
        for kind in kinds:
            (naive, _), (sent, requests) = next(iter(found[kind].values())), found[kind][name]
            row |= {kind: f"{100 * sent / naive:.1f} %" if sent else "0 bytes", f"requests, {kind[10:]}": str(requests)}
        rows.append(row)
    finish("fetch", rows, options.write)
    finish("fetch_faults", faults(build_mimic()), options.write)


if __name__ == "__main__":
    main()
