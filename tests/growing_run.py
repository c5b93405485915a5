"""A run that the real writer writes part by part while tests look on."""

import shlex
from dataclasses import replace
from pathlib import Path

from report_runs import answer, runs_in, scene

from panbench.panoptic.coco import write_id_png
from panbench.panoptic.overlap import concat, overlap_table
from panbench.runs import ImagesRecord, Run, RunInfo, RunWriter

COMMAND = "panbench eval --model second --data shapes --overwrite"


class Growing:
    """A folder `results` with the run `live` of `images` images (7, 8, …), of which none is scored yet.

    `finished`: a run of all of these images and the same answers, outside of the folder
    """

    def __init__(self, place: Path, images: int = 30) -> None:
        (place / "whole").mkdir()
        self.finished: Run = runs_in(place / "whole", images=images)[1]
        self.folder = place / "results"
        self.home = self.folder / "live"
        self.writer = RunWriter.create(self.home, self.info(images))

    def info(self, images: int) -> RunInfo:
        """What `eval` knows before the first image."""
        known = self.finished.info
        return replace(
            known, name=None, images=ImagesRecord(expected=images), command=tuple(shlex.split(COMMAND)), started=None,
            summary=None, finished=None,
        )  # fmt: skip

    def score(self, *image_ids: int, keep: bool = True) -> Path:
        """Writes a part of some images, with their predictions if those are to be kept; the part."""
        tables = []
        for image_id in image_ids:
            ids, segments = scene(image_id - 7)
            found = answer(ids, True, image_id - 7)
            tables.append(overlap_table(image_id, ids, segments, *found))
            if keep:
                write_id_png(self.writer.path / "predictions" / f"photo {image_id - 7} <i>.png", found[0])
        return self.writer.write_part(concat(tables))
