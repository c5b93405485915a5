"""Whether an evaluation's memory grows with the number of images: peak of 100 generated images against 2,000.

    python scripts/bench/memory.py --model mask2former-tiny --images 100,2000

Each number of images runs in a process of its own, with the same model on images of the same size; printed is the most
memory that it ever held (resident set), and the difference to the first.
"""

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

import torch

from panbench.base import provenance
from panbench.base.errors import PanbenchError
from panbench.base.files import write_json
from panbench.catalog import find_model
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.models.opening import open_model


def main() -> None:
    """Prints a line for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mask2former-tiny")
    parser.add_argument("--images", default="100,2000", help="numbers of images, comma-separated")
    parser.add_argument("--size", default="128x160", help="HEIGHTxWIDTH of the generated images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves torch's default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    height, _, width = arguments.size.partition("x")
    counts = [int(count) for count in arguments.images.split(",")]
    context = multiprocessing.get_context("spawn")
    peaks: dict[int, int] = {}
    for count in counts:
        with context.Pool(1) as pool:
            task = (arguments.model, count, (int(height), int(width)), arguments.device, arguments.threads)
            try:
                peaks[count], rate = pool.apply(peak_of, task)
            except PanbenchError as error:
                sys.exit(f"Error: {error}")
        grown = (peaks[count] - peaks[counts[0]]) / 1e6
        print(f"{count:>7} images: peak {peaks[count] / 1e6:.1f} MB ({grown:+.1f} MB), {rate:.1f} images/s", flush=True)
    if arguments.json:
        write_json(
            arguments.json,
            {
                "model": arguments.model,
                "size": arguments.size,
                "peak_bytes": {str(count): peak for count, peak in peaks.items()},
                "versions": provenance.versions(),
                "git_commit": provenance.git_commit(),
                "command": sys.argv,
            },
        )


def peak_of(name: str, count: int, size: tuple[int, int], device: str, threads: int) -> tuple[int, float]:
    """The most memory in bytes of a process that drew the images and ran one evaluation, and its images a second."""
    if threads:
        torch.set_num_threads(threads)
    spec = find_model(name)
    model = open_model(spec, device=device)
    dataset = generated_dataset(model.class_names, model.isthing, size=size, count=count)
    with tempfile.TemporaryDirectory(prefix="bench_memory.") as folder:
        run = evaluate(model, dataset, Path(folder) / "run")
    peak = provenance.peak_host_memory()
    assert peak is not None, "this system does not tell the peak of a process"
    return peak, run.info.images_per_second or 0.0


if __name__ == "__main__":
    main()
