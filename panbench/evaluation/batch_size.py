"""How many images go through a model at a time: as asked for, by default, or by trial."""

import time
from collections.abc import Sequence

import torch

from panbench.base.errors import BadArgument
from panbench.base.reporter import Reporter
from panbench.datasets import Dataset
from panbench.evaluation.memory import free_memory
from panbench.evaluation.options import SHARD_BATCH_SIZE, EvaluateOptions
from panbench.evaluation.plan import plan_batches
from panbench.models.candidates import NonFiniteOutput
from panbench.models.devices import memory_errors
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import fuse

__all__ = ["best_batch_size", "check_batch_size", "chosen_batch_size"]

_TRIED_IMAGES = 8
_TIMINGS = 3


def check_batch_size(options: EvaluateOptions) -> None:
    """Raises BadArgument for a size below 1, and for one that shards would time each for itself."""
    size = options.batch_size
    if size is not None and size != "auto" and size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {size}.")
    if size == "auto" and options.shard is not None:
        raise BadArgument("--batch-size auto could differ from shard to shard. Give all shards one number.")


def chosen_batch_size(
    asked: int | str | None, model: Model, dataset: Dataset, options: EvaluateOptions, reporter: Reporter
) -> int:
    """The size that is asked for; None is 1 on a CPU, and elsewhere the best, or of shards a fixed one."""
    if asked is None:
        elsewhere: int | str = "auto" if options.shard is None else SHARD_BATCH_SIZE
        asked = 1 if model.device.type == "cpu" else elsewhere
    return best_batch_size(model, dataset, reporter) if asked == "auto" else int(asked)


def best_batch_size(model: Model, dataset: Dataset, reporter: Reporter) -> int:
    """The batch size of highest throughput among 1, 2, 4, …, tried on the first images, as long as it fits and pays.

    Each size is timed several times after it was warm, and its best time counts: what disturbs only makes it longer.
    """
    # The images of the batches that most images will be in.
    fullest = max(plan_batches(dataset.scenes, 64, model), key=len)
    loaded = [model.load(scene) for scene in fullest[:_TRIED_IMAGES]]
    best, best_rate, size = 1, 0.0, 1
    while size <= len(fullest):
        batch = [loaded[place % len(loaded)] for place in range(size)]
        try:
            with memory_errors():
                seconds = _best_seconds(model, batch)
        except torch.OutOfMemoryError:
            seconds = None
        except NonFiniteOutput:
            return 1  # the run itself will say which image
        if seconds is None:
            # Here, as the error's traceback held what was on the device.
            free_memory()
            break
        rate = size / seconds
        if rate < 1.05 * best_rate:
            break
        best, best_rate, size = size, rate, size * 2
    reporter.notice(f"Batch size {best} ({best_rate:.1f} images/s in a trial).")
    return best


def _best_seconds(model: Model, batch: Sequence[LoadedImage]) -> float:
    seconds = []
    for number in range(1 + _TIMINGS):
        began = time.perf_counter()
        fuse(model.candidates(batch), model.rule)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        if number:
            seconds.append(time.perf_counter() - began)
    return min(seconds)
