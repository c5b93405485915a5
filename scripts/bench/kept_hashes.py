"""What it costs to record and check the hashes of predictions and candidates: python scripts/bench/kept_hashes.py.

Both sides in one process, by turns, as processor time (user and system), so that other work on the machine counts for
little: writing and reading id PNGs of COCO's size, reading kept candidates as `panbench fuse` does, and what `--resume`
checks: the photographs (160 kB each) and id PNGs that were read, then also predictions or candidates that were kept.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from panbench.base.files import atomic_write
from panbench.models.candidates import Candidates, Frame
from panbench.models.rules import parse_rule
from panbench.models.stored import StoredOutputs, block_of, encode
from panbench.panoptic.coco import read_id_png, write_id_png
from panbench.panoptic.idmap import encode_id_png
from panbench.runs import digest_of, write_recorded


def id_map(seed: int) -> np.ndarray:
    """(480, 640): cells around eleven random points, with waves on their borders."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:480, :640].astype(np.float32)
    waves = 12 * np.sin(columns / 23) + 9 * np.cos(rows / 17)
    points = rng.uniform(0, 1, (11, 2)) * (480, 640)
    return (
        np.argmin([(rows - y) ** 2 + (columns - x) ** 2 + 60 * waves * np.sin(x) for y, x in points], 0) + 1
    ).astype(np.int32)


def candidates(seed: int) -> Candidates:
    """A hundred smooth masks of 120×160, of an image of 480×640."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.nn.functional.interpolate(
        3 * torch.randn((1, 100, 6, 8), generator=random), size=(120, 160), mode="bicubic"
    )[0]
    gate = torch.rand(100, generator=random)
    size = (480, 640)
    return Candidates(
        np.arange(100) % 133,
        gate.numpy(),
        gate,
        masks,
        Frame(size, size, size),
        tuple(label < 80 for label in range(133)),
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(name: str, count: int, plain: Callable[[], object], checked: Callable[[], object], rounds: int) -> str:
    """A line of the table: milliseconds an image of both sides, and the median of the ratios of each round."""
    plain(), checked()
    pairs = [(cpu_seconds(plain), cpu_seconds(checked)) for _ in range(rounds)]
    low, high = (1e3 * min(side) / count for side in zip(*pairs, strict=True))
    ratios = [after / before for before, after in pairs]
    return (
        f"| {name} | {low:.3f} | {high:.3f} | {statistics.median(ratios):.3f} | {min(ratios):.3f}–{max(ratios):.3f} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run, rule = Path(folder), parse_rule("mask2former")
        maps = [id_map(seed) for seed in range(options.images)]

        def write_plainly() -> None:
            for number, ids in enumerate(maps):
                with atomic_write(run / "plain" / f"{number}.png", durable=False) as handle:
                    handle.write(encode_id_png(ids))

        def write() -> list[bytes]:
            return [write_id_png(run / "predictions" / f"{number}.png", ids) for number, ids in enumerate(maps)]

        digests = write()
        paths = [run / "predictions" / f"{number}.png" for number in range(len(maps))]
        kept = [(number, encode(candidates(number), rule)) for number in range(min(20, options.images))]
        write_recorded(run, "candidates/0000-000000.arrow", block_of(kept, {"run": "a"}))
        write_recorded(run / "unrecorded", "candidates/0000-000000.arrow", block_of(kept, {"run": "a"}))
        (run / "unrecorded" / "hashes" / "0000.sha256").unlink()

        def read_all(place: Path) -> None:
            outputs = StoredOutputs(place / "candidates")
            for number, _ in kept:
                outputs.read(number)

        photographs = [run / "photographs" / f"{number}.jpg" for number in range(len(maps))]
        (run / "photographs").mkdir()
        for path in photographs:
            path.write_bytes(np.random.default_rng(len(path.name)).bytes(160_000))
        block = run / "candidates" / "0000-000000.arrow"

        def resume(*kept_files: Path) -> None:
            for path in (*photographs, *paths, *kept_files):
                digest_of(path)

        lines = [
            ratio("write an id PNG", len(maps), write_plainly, write, options.rounds),
            ratio(
                "read an id PNG",
                len(maps),
                lambda: [read_id_png(path) for path in paths],
                lambda: [read_id_png(path, digest=digest) for path, digest in zip(paths, digests, strict=True)],
                options.rounds,
            ),
            ratio(
                "read an image's candidates",
                len(kept),
                lambda: read_all(run / "unrecorded"),
                lambda: read_all(run),
                options.rounds,
            ),
            ratio("resume: also predictions", len(maps), resume, lambda: resume(*paths), options.rounds),
            ratio(
                "resume: also candidates",
                len(maps),
                resume,
                lambda: resume(*[block] * (len(maps) // len(kept))),
                options.rounds,
            ),
        ]
        size = sum(path.stat().st_size for path in paths) / len(paths)
        held = sum(encoded.size for _, encoded in kept) / len(kept)
    print(
        f"{platform.machine()}, Python {platform.python_version()}; id PNGs of {size / 1e3:.1f} kB, candidates of ",
        end="",
    )
    print(
        f"{held / 1e3:.0f} kB an image; CPU time, the smallest of {options.rounds} rounds, and ratios of each round.\n"
    )
    print("| | without, ms | with, ms | ratio | from–to |\n| --- | ---: | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
