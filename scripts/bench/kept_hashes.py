"""What it costs to record and check the hashes of predictions and candidates.

    python scripts/bench/kept_hashes.py [--images 50] [--rounds 5] [--write]

Both sides in one process, by turns, as processor time (user and system), so that other work on the machine counts for
little: writing and reading id PNGs of COCO's size, reading kept candidates as `panbench fuse` does, and what `--resume`
checks: the photographs (160 kB each) and id PNGs that were read, then also predictions or candidates that were kept.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from panbench.base.files import atomic_write
from panbench.models.candidates import Candidates, Frame
from panbench.models.rules import parse_rule
from panbench.models.stored import StoredOutputs, encode
from panbench.panoptic.coco import read_id_png, write_id_png
from panbench.panoptic.idmap import encode_id_png
from panbench.runs import candidate_name, digest_of, write_recorded
from scripts.bench.harness import Row, arguments, compared, finish, in_turn


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


def row(name: str, count: int, plain: Callable[[], object], checked: Callable[[], object], rounds: int) -> Row:
    """Milliseconds an image of both sides, and the median of the ratios of each round."""
    spent = in_turn({"without": plain, "with": checked}, rounds)
    return {
        "work": name,
        "without, ms": f"{1e3 * min(spent['without']) / count:.3f}",
        "with, ms": f"{1e3 * min(spent['with']) / count:.3f}",
        **compared(spent["with"], spent["without"], digits=3),
    }


def main() -> None:
    """Prints the table."""
    options = arguments(__doc__, images=50, rounds=5)
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
        kept = range(min(20, options.images))
        for number in kept:
            content = encode(candidates(number), rule, {"run": "a"})
            for place in (run, run / "unrecorded"):
                write_recorded(place, candidate_name(number), content)
        (run / "unrecorded" / "hashes" / "0000.sha256").unlink()

        def read_all(place: Path) -> None:
            outputs = StoredOutputs(place / "candidates")
            for number in kept:
                outputs.read(number)

        photographs = [run / "photographs" / f"{number}.jpg" for number in range(len(maps))]
        (run / "photographs").mkdir()
        for path in photographs:
            path.write_bytes(np.random.default_rng(len(path.name)).bytes(160_000))

        def resume(*kept_files: Path) -> None:
            for path in (*photographs, *paths, *kept_files):
                digest_of(path)

        rows = [
            row("write an id PNG", len(maps), write_plainly, write, options.rounds),
            row(
                "read an id PNG",
                len(maps),
                lambda: [read_id_png(path) for path in paths],
                lambda: [read_id_png(path, digest=digest) for path, digest in zip(paths, digests, strict=True)],
                options.rounds,
            ),
            row(
                "read an image's candidates",
                len(kept),
                lambda: read_all(run / "unrecorded"),
                lambda: read_all(run),
                options.rounds,
            ),
            row("resume: also predictions", len(maps), resume, lambda: resume(*paths), options.rounds),
            row(
                "resume: also candidates",
                len(maps),
                resume,
                lambda: resume(*[run / candidate_name(number % len(kept)) for number in range(len(maps))]),
                options.rounds,
            ),
        ]
    finish("kept_hashes", rows, options.write)


if __name__ == "__main__":
    main()
