"""Scores the maps of one fusion rule into a run: fused on the device, then numbered, counted and stored on the host."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panbench.base.computing import STAGES
from panbench.evaluation.loop import block_is_full
from panbench.evaluation.marks import Mark
from panbench.evaluation.prediction_names import png_name
from panbench.evaluation.sinks import Later, SeenImage, Sink
from panbench.models.candidates import Output
from panbench.models.labels import CategoryIds
from panbench.models.model import LoadedImage, Model
from panbench.models.predict import prediction_of
from panbench.models.rules import Fused, Rule, fuse
from panbench.panoptic.coco import write_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.runs import PREDICTIONS, FileHashes, RunWriter, photograph_code

__all__ = ["ScoreSink"]

_OWN_STAGES = STAGES[2:]


@dataclass(frozen=True)
class _Scored:
    """One image: its table, the SHA-256 of its files, and the seconds that it took by stage.

    photograph: what the image's file says of it, as `photograph_code` writes it
    prediction, png: the SHA-256 and the path of its id PNG; empty and None where none is kept
    """

    table: OverlapTable
    files: tuple[int, bytes, bytes]
    photograph: int
    prediction: bytes
    png: Path | None
    seconds: dict[str, float]


class ScoreSink(Sink):
    """Writes the overlap tables of one rule's maps into a run, and the maps where they are kept."""

    def __init__(self, writer: RunWriter, model: Model, rule: Rule, ids: CategoryIds, *, keep_maps: bool) -> None:
        """ids: the dataset's category of each label"""
        self.done = writer.done
        self.seconds = dict.fromkeys(_OWN_STAGES, 0.0)
        """By stage, of this run alone."""
        self._writer, self._model, self._rule, self._ids = writer, model, rule, ids
        self._folder = writer.path / PREDICTIONS if keep_maps else None
        self._block: list[_Scored] = []
        self._since = time.monotonic()

    def on_outputs(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> Sequence[Later]:
        """Fuses a batch at once: a rule that has to wait for the device waits once."""
        began = Mark(self._model.device)
        maps = fuse(outputs, self._rule)
        ended = Mark(self._model.device)

        def score(fused: Fused, seen: SeenImage) -> _Scored:
            return self._score(fused, seen, ended.since(began) / len(maps))

        return [functools.partial(score, fused) for fused in maps]

    def _score(self, fused: Fused, seen: SeenImage, fusing: float) -> _Scored:
        began = time.perf_counter()
        scene = seen.scene
        prediction = prediction_of(scene.image.id, self._model.settle(fused, self._rule), self._ids)
        settled = time.perf_counter()
        height, width = prediction.ids.shape
        truth = seen.truth((height, width))
        table = overlap_table(scene.image.id, *truth, prediction.ids, prediction.segments)
        counted = time.perf_counter()
        png = None if self._folder is None else self._folder / png_name(scene)
        digest = b"" if png is None else write_id_png(png, prediction.ids, durable=True)
        written = time.perf_counter()
        return _Scored(
            table,
            (scene.image.id, seen.sha256, seen.truth_sha256),
            0 if seen.facts is None else photograph_code(seen.facts.orientation, seen.facts.extraneous),
            digest,
            png,
            {"fusion": fusing + settled - began, "overlap": counted - settled, "write": written - counted},
        )

    def keep(self, found: Sequence[_Scored]) -> None:
        """Adds a batch to the open block, which is written when it is full."""
        self._block.extend(found)
        for stage in self.seconds:
            self.seconds[stage] += sum(image.seconds[stage] for image in found)
        if block_is_full(len(self._block), self._since):
            self.close()

    def close(self) -> None:
        """Writes the open block as a part."""
        began = time.perf_counter()
        if block := self._block:
            files = FileHashes.of(
                [image.files for image in block],
                [image.photograph for image in block],
                [image.prediction for image in block],
            )
            pngs = [image.png for image in block if image.png is not None]
            self._writer.write_part(concat([image.table for image in block]), files, pngs)
            self._block = []
        self._since = time.monotonic()
        self.seconds["write"] += time.perf_counter() - began
