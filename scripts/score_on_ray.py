"""Scores id PNGs that lie in a bucket, on a Ray cluster: each task takes the PNGs of a share of the images.

    pip install ray            # and s3fs or gcsfs for buckets; fsspec comes with torch
    python scripts/score_on_ray.py --gt gt.json --pred pred.json --gt-dir s3://bucket/gt --pred-dir s3://bucket/pred \
        --out /shared/results/mine --tasks 64

The two JSONs and `--out` are on a file system that all workers see; the PNGs may be anywhere that fsspec reads. A task
holds the PNGs of its share while it runs. Shares are those of `panbench score --shard`, joined by `panbench runs
merge`, so the run is that of one go, to the last bit; a share whose run is there already is not scored again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import fsspec
import ray

from panbench.panoptic.coco import read_panoptic_json, read_predictions_json
from panbench.runs import load_run
from panbench.runs.merge import merge_runs
from panbench.scoring.folder import score_folder


@ray.remote(num_cpus=1, max_retries=3)
def score_share(number: int, tasks: int, gt: str, pred: str, gt_dir: str, pred_dir: str, out: str) -> str:
    """Scores the share `number` of `tasks`; the run's folder."""
    run = Path(out).with_name(f"{Path(out).name}-shares") / f"{number:06d}"
    if (run / "run.json").exists() and load_run(run).info.status == "done":
        return str(run)
    truths, answers = read_panoptic_json(gt, "."), read_predictions_json(pred)
    share = share_of(sorted(truths.images), number, tasks)
    with tempfile.TemporaryDirectory() as scratch:
        places = []
        for name, source, annotations in (("gt", gt_dir, truths.annotations), ("pred", pred_dir, answers.annotations)):
            place = Path(scratch) / name
            fetch(source, [annotations[image].file_name for image in share if image in annotations], place)
            places.append(place)
        score_folder(gt, pred, places[0], places[1], run, shard=(number, tasks), resume=True, threads=1, index=False)
    return str(run)


def share_of(image_ids: list[int], number: int, tasks: int) -> list[int]:
    """The images of a share: runs of ids, as even as can be, the longer ones first, as `score --shard` cuts them."""
    size, longer = divmod(len(image_ids), tasks)
    start = (number - 1) * size + min(number - 1, longer)
    return image_ids[start : start + size + (number <= longer)]


def fetch(source: str, names: list[str], place: Path) -> None:
    """Brings files of a bucket or folder into a folder."""
    system, root = fsspec.core.url_to_fs(source)
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        system.get_file(f"{root.rstrip('/')}/{name}", str(place / name))


def main() -> None:
    """Scores all shares, joins them and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gt", "pred", "gt-dir", "pred-dir", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--address", help="of the cluster; without it Ray starts on this machine")
    given = parser.parse_args()
    ray.init(address=given.address, include_dashboard=False, log_to_driver=False)
    paths = [str(Path(path).resolve()) for path in (given.gt, given.pred)]
    waiting = [
        score_share.remote(number, given.tasks, *paths, given.gt_dir, given.pred_dir, str(Path(given.out).resolve()))
        for number in range(1, given.tasks + 1)
    ]
    shares = []
    while waiting:
        done, waiting = ray.wait(waiting)
        shares += ray.get(done)
        sys.stderr.write(f"\r{len(shares)} of {given.tasks} shares")
    sys.stderr.write("\n")
    run = merge_runs(sorted(map(Path, shares)), Path(given.out))
    for group, row in run.summary().items():
        print(group, *(f"{name} {row[name]:.17g}" for name in ("PQ", "SQ", "RQ")), f"n {row['n']}")


if __name__ == "__main__":
    main()
