"""DETR's rule: a softmax over the queries at every pixel, until no segment is tiny. [Carion et al. 2020, sec. 4.4]"""

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.async_device import to_host, upload
from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, Rule, empty_codes, fraction, whole
from panbench.models.rules.compete import candidates_above, count_pixels_per_code, take_rows
from panbench.models.rules.resize import argmax, resized_blocks


@dataclass(frozen=True)
class DETR(Rule):
    """Gives each pixel to the query of highest mask logit, and reassigns tiny segments; no pixel is void."""

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
    """A query that wins at most this many pixels of the final map is dropped."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Lets queries compete again without tiny segments until none is tiny; synchronises once per round."""
        (fused,) = self.fuse_batch([output])
        return fused

    def fuse_batch(self, outputs: Sequence[Candidates]) -> list[FusedMap]:
        """Fuses several images together, and waits for the device once per round of dropping tiny segments."""
        competitions = [self._compete_in_rounds(output) for output in outputs]
        fused: dict[int, FusedMap] = {}
        answers: dict[int, list[int] | None] = dict.fromkeys(range(len(outputs)))
        while answers:
            requested: dict[int, Tensor] = {}
            for image, answer in answers.items():
                try:
                    requested[image] = competitions[image].send(answer)
                except StopIteration as end:
                    fused[image] = end.value
            areas = iter(to_host(torch.cat(list(requested.values()))).tolist() if requested else [])
            answers = {image: list(itertools.islice(areas, len(counted))) for image, counted in requested.items()}
        return [fused[image] for image in range(len(outputs))]

    def _compete_in_rounds(self, output: Candidates) -> Generator[Tensor, list[int] | None, FusedMap]:
        """Fuses one image in rounds, as a generator: yields a tensor of pixels per query, and is sent it as a list."""
        frame, rows = output.frame, candidates_above(output, self.score)
        masks, count = take_rows(output.masks, rows), len(rows)
        labels = output.labels[rows].tolist()
        things = [output.isthing[label] for label in labels]
        codes = empty_codes(output, count)
        where = nearest_index(frame.resized, frame.original, masks.device)
        alive = list(range(count))
        # As in the original: in the first round the pixels of a stuff class count for its first query, and its other
        # queries, left with none, are dropped as tiny. In later rounds their pixels are assigned anew.
        first_of = {label: index for index, label in reversed(list(enumerate(labels))) if not things[index]}
        stands_for = [index if things[index] else first_of[labels[index]] for index in range(count)]
        while alive:
            rows_left = upload(torch.tensor(alive), masks.device)
            winner = argmax(resized_blocks(masks[rows_left], frame), frame.resized, masks.device)
            table = upload(torch.tensor([stands_for[index] for index in alive]), masks.device)
            codes = table[winner][where].to(codes.dtype)
            areas = yield count_pixels_per_code(codes, count)
            assert areas is not None
            stands_for = list(range(count))
            left = [index for index in alive if areas[index] > self.small]
            if len(left) == len(alive):
                break
            alive = left
            codes = empty_codes(output, count)
        return FusedMap.of_candidates(output, rows, codes, masks)


def nearest_index(source: tuple[int, int], target: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns indices of rows and columns that resize (h, w) to (H, W) by nearest neighbour, as Pillow does."""
    rows, columns = (_nearest_sources(*sides) for sides in zip(source, target, strict=True))
    return upload(torch.from_numpy(rows), device)[:, None], upload(torch.from_numpy(columns), device)[None, :]


def _nearest_sources(source: int, target: int) -> npt.NDArray[np.int64]:
    """Returns the source row (or column) of each target row in nearest-neighbour resizing, as Pillow does it."""
    # Pillow adds the step repeatedly in float64; its rounding decides when a centre falls on a border.
    step = source / target
    centres = np.cumsum(np.concatenate([[step * 0.5], np.full(target - 1, step)]))
    return np.minimum(centres.astype(np.int64), source - 1)
