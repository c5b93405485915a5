"""CPU time of `panbench score` on local files, with addresses and before there were any: the ratio should be 1.

    python scripts/bench/local_files.py --before PATH_OF_ANOTHER_CHECKOUT --pairs 1000 --repeats 7

Both sides score the same generated pairs in turn; user and system time of the
processes, so a busy machine widens the range more than it moves the ratio. Prints the medians, their ratio, and the
range of the ratios of the rounds.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.make.coco_like import MODELS, write_set

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import sys; from panbench.scoring.folder import score_folder; "
    "score_folder(sys.argv[1] + '/gt.json', sys.argv[1] + '/' + sys.argv[2] + '.json', threads=2)"
)


def main() -> None:
    """Prints the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_set(folder, given.pairs, min(given.pairs, 20))
        rounds = [
            tuple(_cpu_seconds(checkout, folder) for checkout in (given.before, ROOT)) for _ in range(given.repeats)
        ]
    before, now = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratios = sorted(second / first for first, second in rounds)
    print(f"{given.pairs:,} pairs, {given.repeats} rounds: before {before:.3f} CPU s, now {now:.3f} CPU s")
    print(f"ratio {now / before:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f})")


def _cpu_seconds(checkout: Path, folder: Path) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    began = used()
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), next(iter(MODELS))], env=environment, check=True, cwd=folder
    )
    return used() - began


if __name__ == "__main__":
    main()
