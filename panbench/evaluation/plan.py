"""Plans the batches of an evaluation, and chooses the batch size: as requested, by default, or by trial.

The plan covers all images and depends only on them, the batch size and the model. Shards take a share of its batches,
and finished images are removed within their batch; so a resumed run and the shards of a run have the same batches.
"""

import time
from collections.abc import Hashable, Sequence, Set

import numpy as np
import numpy.typing as npt
import torch

from panbench.base.errors import BadArgument
from panbench.base.reporter import Reporter
from panbench.datasets import Dataset
from panbench.evaluation.measuring import free_memory
from panbench.evaluation.options import SHARD_BATCH_SIZE, EvaluateOptions
from panbench.models.candidates import NonFiniteOutput
from panbench.models.devices import memory_errors
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import fuse
from panbench.panoptic.types import ImageInfo, Scene


def plan_batches(scenes: Sequence[Scene], batch_size: int, model: Model) -> list[list[Scene]]:
    """Returns all batches of at most `batch_size`, each of images that have the same padded size in the network."""
    sizes = np.array([(scene.image.height, scene.image.width) for scene in scenes], np.int64).reshape(-1, 2)
    batches = batches_of_sizes(sizes, batch_size, model)
    return [[scenes[index] for index in batch.tolist()] for batch in batches]


def without_finished_images(plan: Sequence[Sequence[Scene]], done: Set[int]) -> list[list[Scene]]:
    """Removes finished images from their batches, and drops empty batches."""
    left = ([scene for scene in batch if scene.image.id not in done] for batch in plan)
    return [batch for batch in left if batch]


def batches_of_sizes(sizes: npt.NDArray[np.int64], batch_size: int, model: Model) -> list[npt.NDArray[np.int64]]:
    """Groups images of these heights and widths to batches of one size, as indices; first size first."""
    unique, of_size = np.unique(sizes, axis=0, return_inverse=True)
    keys: list[Hashable] = [
        # With batch size 1, padding does not matter.
        model.batch_key(ImageInfo(0, "", height, width)) if batch_size > 1 else (height, width)
        for height, width in unique.tolist()
    ]
    groups: dict[Hashable, int] = {}
    group_of = np.array([groups.setdefault(key, len(groups)) for key in keys], np.int64)[of_size.reshape(-1)]
    batches = [np.flatnonzero(group_of == group) for group in range(len(groups))]
    return [
        group[start : start + batch_size]
        for group in sorted((group for group in batches if len(group)), key=lambda group: int(group[0]))
        for start in range(0, len(group), batch_size)
    ]


_TRIED_IMAGES = 8
_TIMINGS = 3


def check_batch_size(options: EvaluateOptions) -> None:
    """Raises BadArgument for a size below 1, and for "auto" with shards, where each would choose its own size."""
    size = options.batch_size
    if size is not None and size != "auto" and size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {size}.")
    if size == "auto" and options.shard is not None:
        raise BadArgument("--batch-size auto could differ from shard to shard. Give all shards one number.")


def chosen_batch_size(
    requested: int | str | None, model: Model, dataset: Dataset, options: EvaluateOptions, reporter: Reporter
) -> int:
    """Returns the requested batch size; by default 1 on a CPU, elsewhere the fastest, or a fixed one for shards."""
    if requested is None:
        elsewhere: int | str = "auto" if options.shard is None else SHARD_BATCH_SIZE
        requested = 1 if model.device.type == "cpu" else elsewhere
    return best_batch_size(model, dataset, reporter) if requested == "auto" else int(requested)


def best_batch_size(model: Model, dataset: Dataset, reporter: Reporter) -> int:
    """Times batch sizes 1, 2, 4, … on the first images, as long as the rate grows; returns the fastest size.

    Each size is timed several times after warm-up, and its shortest time counts: disturbances only make it longer.
    """
    # Images of the most common padded size, which most batches will have.
    fullest = max(plan_batches(dataset.scenes, 64, model), key=len)
    loaded = [model.load(scene) for scene in fullest[:_TRIED_IMAGES]]
    best, best_rate, size = 1, 0.0, 1
    while size <= len(fullest):
        batch = [loaded[index % len(loaded)] for index in range(size)]
        try:
            with memory_errors():
                seconds = _fastest_seconds(model, batch)
        except torch.OutOfMemoryError:
            seconds = None
        except NonFiniteOutput:
            return 1  # the run itself will report which image
        if seconds is None:
            # Outside of `except`: the error's traceback held what was on the device.
            free_memory()
            break
        rate = size / seconds
        if rate < 1.05 * best_rate:
            break
        best, best_rate, size = size, rate, size * 2
    reporter.notice(f"Batch size {best} ({best_rate:.1f} images/s in a trial).")
    return best


def _fastest_seconds(model: Model, batch: Sequence[LoadedImage]) -> float:
    """Times the forward pass and fusion of a batch several times; returns the shortest time."""
    seconds = []
    for number in range(1 + _TIMINGS):
        began = time.perf_counter()
        fuse(model.candidates(batch), model.rule)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        if number:
            seconds.append(time.perf_counter() - began)
    return min(seconds)
