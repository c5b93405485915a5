"""Computes PQ as a metric of torchmetrics, for Lightning and distributed loops, with `panbench.Evaluator`.

Needs the extra torchmetrics. Nothing else of panbench imports this file.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from panbench.base.extras import install_line
from panbench.panoptic.types import GROUPS, Category, Segment
from panbench.scoring.evaluator import Evaluator

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as problem:
    raise ImportError(
        f"panbench.scoring.torchmetrics needs torchmetrics ({problem}): {install_line('torchmetrics')}"
    ) from None

_NAMES = ("PQ", "SQ", "RQ")


class PanopticQuality(Metric):
    """A torchmetrics metric of PQ, SQ and RQ over all processes: panopticapi's numbers, crowds and void included.

        self.val_pq = PanopticQuality(categories)                                       # in __init__
        self.val_pq.update(pred_ids, pred_segments, gt_ids, gt_segments, image_id)      # in validation_step, an image
        self.log_dict(self.val_pq.compute()); self.val_pq.reset()                       # in on_validation_epoch_end

    The state is the rows of `Evaluator.to_rows`, some kilobytes an image; those of all processes are concatenated.
    Give image_id: then the result does not depend on how images were dealt out, and one that DistributedSampler repeats
    to fill up the last batch counts once.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rows: list[torch.Tensor]

    def __init__(self, categories: Iterable[Category | Mapping[str, Any]], **settings: Any) -> None:
        """categories: as `Evaluator`'s; settings: those of torchmetrics.Metric."""
        super().__init__(**settings)
        self._one = Evaluator(categories)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self,
        pred_ids: Any,
        pred_segments: Iterable[Mapping[str, Any] | Segment],
        gt_ids: Any,
        gt_segments: Iterable[Mapping[str, Any] | Segment],
        image_id: int | None = None,
    ) -> None:
        """Adds one image, with the arguments and errors of `Evaluator.update`."""
        self._one.reset()
        self._one.update(pred_ids, pred_segments, gt_ids, gt_segments, image_id)
        self.rows.append(torch.from_numpy(self._one.to_rows()).to(self.device))

    def compute(self) -> dict[str, torch.Tensor]:
        """Returns {"PQ", "SQ", "RQ", "PQ_th", …, "RQ_st"}: fractions as float64 on the CPU; NaN if undefined."""
        found = self.evaluator().compute()
        numbers = {f"{name}{suffix}": found[group][name] for group, suffix in GROUPS.items() for name in _NAMES}
        return {
            name: torch.tensor(math.nan if value is None else value, dtype=torch.float64)
            for name, value in numbers.items()
        }

    def evaluator(self) -> Evaluator:
        """Returns a `panbench.Evaluator` of the images of this process; within `sync_context()`, of all processes."""
        rows: Any = dim_zero_cat(self.rows) if len(self.rows) else []
        return Evaluator.from_rows(self._one.categories, rows)

    def sync(self, *arguments: Any, **settings: Any) -> None:
        """Gathers the images of all processes, when torchmetrics joins them. Raises what `Metric.sync` raises."""
        if isinstance(self.rows, list) and not self.rows:
            # torchmetrics would send an empty float vector, which all_gather cannot join with the others' integer rows.
            self.rows = [torch.zeros((0, 6), dtype=torch.int64, device=self.device)]
        super().sync(*arguments, **settings)
