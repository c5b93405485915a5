"""Sinks: consumers of a model's outputs in one pass, such as scoring by a rule, storing or measuring them."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from panbench.base.computing import STAGES
from panbench.base.errors import BadRun
from panbench.base.files import require_space
from panbench.base.reporter import Reporter
from panbench.datasets import Dataset
from panbench.evaluation.measuring import DeviceTimestamp
from panbench.models.candidates import Output, best_score
from panbench.models.labels import CategoryIds
from panbench.models.model import LoadedImage, Model, running_settings
from panbench.models.predict import prediction_of
from panbench.models.rules import Fused, Rule, fuse
from panbench.models.stored import LOW_GATE, StoredOutputs, encode
from panbench.panoptic.coco import read_hashed_id_png, write_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import IdMap, Scene, Segment
from panbench.runs import (
    PREDICTIONS,
    FileHashes,
    RunWriter,
    candidate_files,
    candidate_name,
    photograph_code,
    write_recorded,
)
from panbench.runs.predictions import png_name

CHUNK_IMAGES = 200
CHUNK_SECONDS = 10.0
"""A part is written when a chunk has this many images, or has been open this long; a kill loses no more."""


def chunk_is_full(images: int, since: float) -> bool:
    """Returns whether scored images should be written now: there are many, or the first one waits too long.

    since: when the first was kept, by time.monotonic
    """
    return images >= CHUNK_IMAGES or time.monotonic() - since >= CHUNK_SECONDS


class SeenImage:
    """An image that the model has processed, for work on the host. Its ground truth is read when first needed."""

    def __init__(self, image: LoadedImage, sha256: bytes) -> None:
        """Takes an image that the model has processed, and the SHA-256 of its file."""
        self.scene: Scene = image.scene
        self.facts = image.facts
        self.sha256 = sha256
        self.truth_sha256 = b""
        """The SHA-256 of the ground truth's id PNG, once it is read; empty if there is none."""
        self._true_ids: IdMap | None = None

    def truth(self, shape: tuple[int, int]) -> tuple[IdMap, Sequence[Segment]]:
        """Returns the ground truth's id map and segments. Raises BadDataset if the map's shape is not `shape`."""
        if self.scene.annotation is None or self.scene.gt_path is None:
            # All void: the image is in the tables, and no category has a TP, FP or FN.
            return np.zeros(shape, np.int32), ()
        if self._true_ids is None:
            read = read_hashed_id_png(self.scene.gt_path, shape, image_id=self.scene.image.id)
            self._true_ids, self.truth_sha256 = read
        return self._true_ids, self.scene.annotation.segments


Later = Callable[[SeenImage], Any]
"""The host's work on one image, run in a host thread; its result is passed to `Sink.keep`."""


class Sink:
    """Processes the model's outputs for each image in a pass, such as by scoring them; inherit from it.

    The loop runs an image only if some sink lacks it, and passes a sink only images that are not in `done`; so a
    resumed evaluation catches up with whichever sink is behind.
    """

    done: Set[int] = frozenset()
    """The ids of images that this sink has from an earlier evaluation."""

    @property
    def notices(self) -> Sequence[str]:
        """Messages for the user, read once all images are done."""
        return ()

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Starts processing a network output on the GPU; returns a function to finish it in a CPU thread.

        Called from several threads; return quickly, as the device waits. An image may be passed again: a batch that
        does not fit into the device's memory is repeated in halves.
        """
        raise NotImplementedError

    def on_outputs(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> Sequence[Later]:
        """Calls `on_output` for each image of a batch; override it if handling them together is faster."""
        return [self.on_output(*pair) for pair in zip(batch, outputs, strict=True)]

    def keep(self, found: Sequence[Any]) -> None:
        """Stores the results of a batch's images; called from one thread, with the batches in their planned order.

        Each image comes once.
        Sinks that store chunks store complete batches, so that those of a resumed evaluation are the same.
        """

    def close(self) -> None:
        """Writes unwritten results. Called once, even if the evaluation ends with an error."""


_SINK_STAGES = STAGES[2:]


@dataclass(frozen=True)
class _ScoredImage:
    """The result for one image: overlap table, SHA-256 of its files, and seconds by stage.

    dropped: the best score among dropped candidates if the rule dropped all; else 0
    photograph: the image file's facts, packed by `photograph_code`
    prediction, png: the SHA-256 and the path of its id PNG; empty and None if none is stored
    """

    table: OverlapTable
    files: tuple[int, bytes, bytes]
    photograph: int
    prediction: bytes
    png: Path | None
    dropped: float
    seconds: dict[str, float]


class ScoreSink(Sink):
    """Fuses the outputs by one rule, and writes overlap tables, and maps if requested, into a run."""

    def __init__(self, writer: RunWriter, model: Model, rule: Rule, ids: CategoryIds, *, keep_maps: bool) -> None:
        """Prepares to score a model's outputs, fused by one rule, into an open run.

        ids: the dataset category for each model label
        """
        self.done = writer.done
        self.seconds = dict.fromkeys(_SINK_STAGES, 0.0)
        """Seconds by stage of this run alone."""
        self._writer, self._model, self._rule, self._ids = writer, model, rule, ids
        self._folder = writer.path / PREDICTIONS if keep_maps else None
        self._chunk: list[_ScoredImage] = []
        self._since = time.monotonic()

    def on_outputs(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> Sequence[Later]:
        """Fuses the outputs of a batch; returns for each image a function that scores its map.

        One call for the batch, so that a rule waits for the device once.
        """
        began = DeviceTimestamp(self._model.device)
        maps = fuse(outputs, self._rule)
        ended = DeviceTimestamp(self._model.device)

        def score_fused_map(fused: Fused, best: float, seen: SeenImage) -> _ScoredImage:
            """Scores the fused panoptic map of an image in a CPU thread."""
            return self._score_image(fused, best, seen, ended.seconds_since(began) / len(maps))

        return [functools.partial(score_fused_map, *pair) for pair in zip(maps, map(best_score, outputs), strict=True)]

    def _score_image(self, fused: Fused, best: float, seen: SeenImage, fusing: float) -> _ScoredImage:
        """Counts one image's overlap table, and writes its id PNG if requested, in a host thread."""
        began = time.perf_counter()
        scene = seen.scene
        prediction = prediction_of(scene.image.id, self._model.to_segments(fused, self._rule), self._ids)
        mapped = time.perf_counter()
        height, width = prediction.ids.shape
        truth = seen.truth((height, width))
        table = overlap_table(scene.image.id, *truth, prediction.ids, prediction.segments)
        counted = time.perf_counter()
        png = None if self._folder is None else self._folder / png_name(scene)
        digest = b"" if png is None else write_id_png(png, prediction.ids, durable=True)
        written = time.perf_counter()
        return _ScoredImage(
            table,
            (scene.image.id, seen.sha256, seen.truth_sha256),
            0 if seen.facts is None else photograph_code(seen.facts.orientation, seen.facts.extraneous),
            digest,
            png,
            0.0 if prediction.segments else best,
            {"fusion": fusing + mapped - began, "overlap": counted - mapped, "write": written - counted},
        )

    def keep(self, found: Sequence[_ScoredImage]) -> None:
        """Collects scored images in memory, and writes them as a Parquet part file once there are enough."""
        self._chunk.extend(found)
        for stage in self.seconds:
            self.seconds[stage] += sum(image.seconds[stage] for image in found)
        if chunk_is_full(len(self._chunk), self._since):
            self.close()

    def close(self) -> None:
        """Writes the scored images that are still in memory as the run's next Parquet part file."""
        began = time.perf_counter()
        if chunk := self._chunk:
            files = FileHashes.of(
                [image.files for image in chunk],
                [image.photograph for image in chunk],
                [image.prediction for image in chunk],
                [image.dropped for image in chunk],
            )
            pngs = [image.png for image in chunk if image.png is not None]
            self._writer.write_part(concat([image.table for image in chunk]), files, pngs)
            self._chunk = []
        self._since = time.monotonic()
        self.seconds["write"] += time.perf_counter() - began


class CandidateSink(Sink):
    """Writes the network's output for each image into a file of a run, for `panbench fuse` and ensembles."""

    def __init__(self, run: Path, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> None:
        """Continues with the network outputs stored in a run folder; starts anew if there are none.

        about: what distinguishes these candidates from others, as {"weights_sha256": …}; half: store float16
        Raises BadRun if the folder holds candidates of another run, or a damaged file.
        """
        self.about = {**about, "rule": str(rule), "low_gate": LOW_GATE, "half": half}
        if files := candidate_files(run):
            stored = StoredOutputs(files[0].parent)
            if stored.about != self.about:
                raise BadRun(
                    f"{stored.folder} holds candidates that were made with other settings. Give another --out."
                )
            self.done = frozenset(stored.image_ids)
        self._run, self._rule, self._half = run, rule, half

    @classmethod
    def for_model(cls, model: Model, dataset: Dataset, run: Path, half: bool, reporter: Reporter) -> "CandidateSink":
        """Prepares to store a model's network outputs, and checks that the disk has space for them.

        Reports the expected disk space, measured on three images. Raises OutOfSpace if there is not enough.
        """
        about = {
            "weights_sha256": model.describe().weights_sha256,
            "class_names": list(model.class_names),
            "isthing": list(model.isthing),
            "precision": running_settings(model)["precision"],
        }
        sink = cls(run, model.rule, about, half=half)
        samples = dataset.scenes[:: max(1, len(dataset.scenes) // 3)][:3]
        sizes = [len(sink.encode_output(model.candidates([model.load(scene)])[0])) for scene in samples]
        size = sum(sizes) // len(samples)
        needed = size * len(dataset.scenes)
        require_space(run, needed, "Keeping the candidates")
        reporter.notice(
            f"Candidates take about {size / 1e6:.2f} MB per image (measured on {len(samples)}), {needed / 1e6:,.0f} MB "
            f"for {len(dataset.scenes):,} images."
            + (" In half precision, the maps that fuse makes of them may differ from this run's." if half else "")
        )
        return sink

    @torch.inference_mode()
    def encode_output(self, output: Output) -> bytes:
        """Encodes a network output as the content of its file."""
        return encode(output, self._rule, self.about, half=self._half)

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Returns a function that encodes the output as the bytes of its file; a CPU thread calls it."""

        def encode_image(seen: SeenImage) -> tuple[int, bytes]:
            """Returns the image's id and its network output, encoded as a file's bytes."""
            return seen.scene.image.id, self.encode_output(output)

        return encode_image

    def keep(self, found: Sequence[tuple[int, bytes]]) -> None:
        """Writes the encoded output of each image to its file."""
        for image_id, content in found:
            write_recorded(self._run, candidate_name(image_id), content)
