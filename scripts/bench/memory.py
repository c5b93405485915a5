"""Whether an evaluation's memory grows with the number of images: peak of few generated images against many.

    python scripts/bench/memory.py --model mask2former-tiny --images 100 2000

Each number of images runs in a process of its own, with the same model on images of the same size; printed is the most
memory that it ever held (resident set), and the difference to the first. Drawing the images is in the peak.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child
from scripts.bench.harness import arguments, finish


def evaluation(name: str, count: int, size: str, device: str, threads: int) -> Callable[[], None]:
    """Returns a function that evaluates generated images, which are drawn before."""
    import torch

    from panbench.catalog import find_model
    from panbench.datasets.generated import generated_dataset
    from panbench.evaluation.evaluate import evaluate
    from panbench.models.opening import open_model

    if threads:
        torch.set_num_threads(threads)
    model = open_model(find_model(name), device=device)
    height, _, width = size.partition("x")
    dataset = generated_dataset(model.class_names, model.isthing, size=(int(height), int(width)), count=count)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(model, dataset, Path(folder) / "run")

    return run


def main() -> None:
    """Prints a row for each number of images."""
    options = arguments(__doc__, model="mask2former-tiny", images=(50, 200), size="128x160", device="auto", threads=0)
    rows: list[dict[str, str]] = []
    first = 0.0
    for count in options.images:
        spent = in_child(evaluation, options.model, count, options.size, options.device, options.threads)
        first = first or spent.megabytes
        rows.append(
            {
                f"{options.model}, images of {options.size}": f"{count:,}",
                "peak MB": f"{spent.megabytes:.1f}",
                "more than the first": f"{spent.megabytes - first:+.1f}",
                "CPU ms an image": f"{1e3 * spent.cpu / count:.1f}",
            }
        )
    finish("memory", rows, options.write)


if __name__ == "__main__":
    main()
