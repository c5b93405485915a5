"""DETR's rule: a softmax over the queries at every pixel, until no segment is tiny. [Carion et al. 2020, sec. 4.4]"""

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import Candidates
from panbench.models.feeding import to_host, upload
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SettledMap,
    check_finite,
    code_type,
    fraction,
    nothing_of,
    number,
    stuff_together,
    whole,
)
from panbench.models.rules.compete import above, count_codes, take
from panbench.models.rules.resize import resized_blocks


@dataclass(frozen=True)
class DETR(Rule):
    """Each pixel to the query of highest mask logit; tiny segments give their pixels to others; no void."""

    name: ClassVar[str] = "detr"
    summary: ClassVar[str] = (
        "Mask logits compete as they are, at the resized image's size; queries left with at most `small` pixels are "
        "dropped and their pixels go to others, again and again; the map is then resized by nearest neighbour, and "
        "nothing is void."
    )
    source: ClassVar[str] = "Carion et al. 2020; facebookresearch/detr"

    knows_padding: ClassVar[bool] = False

    score: float = fraction(0.85)
    """Candidates whose gate is not above this are dropped."""
    small: int = whole(4)
    """A query that wins no more pixels of the final map than this is dropped."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Repeats the competition without the losers; waits for the device once per round (there are few)."""
        (fused,) = self.fuse_batch([output])
        return fused

    def fuse_batch(self, outputs: Sequence[Candidates]) -> list[FusedMap]:
        """Like `fuse` for several images at once: each round synchronises once for all."""
        competitions = [self._compete(output) for output in outputs]
        fused: dict[int, FusedMap] = {}
        answers: dict[int, list[int] | None] = dict.fromkeys(range(len(outputs)))
        while answers:
            asked: dict[int, Tensor] = {}
            for image, answer in answers.items():
                try:
                    asked[image] = competitions[image].send(answer)
                except StopIteration as end:
                    fused[image] = end.value
            areas = iter(to_host(torch.cat(list(asked.values()))).tolist() if asked else [])
            answers = {image: list(itertools.islice(areas, len(counted))) for image, counted in asked.items()}
        return [fused[image] for image in range(len(outputs))]

    def _compete(self, output: Candidates) -> Generator[Tensor, list[int] | None, FusedMap]:
        """Gives, each round, the pixels of each query on the device, and goes on when it is sent them on the host."""
        frame, rows = output.frame, above(output, self.score)
        masks, count = take(output.masks, rows), len(rows)
        labels = tuple(int(label) for label in output.labels[rows])
        things = tuple(output.isthing[label] for label in labels)
        codes = torch.full(frame.original, nothing_of(count), dtype=code_type(count), device=masks.device)
        where = nearest_index(frame.resized, frame.original, masks.device)
        alive = list(range(count))
        # In the first round the pixels of a stuff class count for its first query, and the others, left with none, are
        # dropped as tiny. In the rounds after it their pixels are competed for anew: so it is in the original.
        first_of = {label: index for index, label in reversed(list(enumerate(labels))) if not things[index]}
        stands_for = [index if things[index] else first_of[labels[index]] for index in range(count)]
        while alive:
            winner = _argmax_among(masks, alive, output)
            table = upload(torch.tensor([stands_for[index] for index in alive]), masks.device)
            codes = table[winner][where].to(codes.dtype)
            areas = yield count_codes(codes, count)
            assert areas is not None
            stands_for = list(range(count))
            left = [index for index in alive if areas[index] > self.small]
            if len(left) == len(alive):
                break
            alive = left
            codes = torch.full_like(codes, nothing_of(count))
        return FusedMap(
            codes=codes,
            labels=labels,
            scores=tuple(output.gate[rows].tolist()),
            things=things,
            finite=torch.isfinite(masks).all(),
        )

    def settle(self, fused: FusedMap) -> SettledMap:
        """A segment of every query that is left; stuff of one class is one segment."""
        check_finite(fused, "mask logits")
        return number(fused, stuff_together(fused, range(len(fused.labels))))


def _argmax_among(masks: Tensor, alive: list[int], output: Candidates) -> Tensor:
    """(H, W) int64 at the resized size: the place in `alive` of the query of highest logit, the first of equals."""
    rows = upload(torch.tensor(alive), masks.device)
    best: Tensor | None = None
    winner = torch.zeros(output.frame.resized, dtype=torch.int64, device=masks.device)
    for start, logits in resized_blocks(masks[rows], output.frame):
        for offset in range(len(logits)):
            if best is None:
                best = logits[0].clone()
                continue
            winner.masked_fill_(logits[offset] > best, start + offset)
            best = torch.maximum(best, logits[offset])
    return winner


def nearest_index(source: tuple[int, int], target: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """What indexes an image (h, w) so that it is resized to (H, W) by nearest neighbour, as Pillow does it."""
    rows, columns = (_nearest(*sides) for sides in zip(source, target, strict=True))
    return upload(torch.from_numpy(rows), device)[:, None], upload(torch.from_numpy(columns), device)[None, :]


def _nearest(source: int, target: int) -> npt.NDArray[np.int64]:
    # Pillow adds the step again and again, in doubles; where a centre falls on a border its rounding decides.
    step = source / target
    centres = np.cumsum(np.concatenate([[step * 0.5], np.full(target - 1, step)]))
    return np.minimum(centres.astype(np.int64), source - 1)
