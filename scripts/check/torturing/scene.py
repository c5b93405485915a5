"""What the scenarios are done to: small images, predictions of two qualities, and what is right about them."""

import contextlib
import dataclasses
import hashlib
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panbench.base.errors import PanbenchError
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.report.answers.tables import comparison_rows
from panbench.runs import Run, RunWriter, load_run
from panbench.scoring.folder import score_folder

# Ids that COCO has, so that they can be submitted.
CATEGORIES = (Category(1, "ball", True), Category(2, "box", True), Category(92, "sky", False))


IMAGES = 12
KEPT = ("mask2former-tiny", "maskformer-tiny")


LITTLE_MODEL = """
    import numpy as np

    def make():
        def segment(rgb):
            # Six colours, one a segment, as the scenes are painted.
            ids = np.clip((rgb[..., 0].astype(int) + 20) // 40, 0, 6).astype(np.int32)
            found = [int(one) for one in np.unique(ids) if one]
            return ids, [{"id": one, "category_id": (1, 2, 92)[one % 3], "score": 0.5} for one in found]

        segment.categories = [
            {"id": 1, "name": "ball", "isthing": 1},
            {"id": 2, "name": "box", "isthing": 1},
            {"id": 92, "name": "sky", "isthing": 0},
        ]
        return segment
"""
"""A model of ten lines, for `eval` and `predict`: it reads the segments off the photographs' colours."""


class Broken(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Scene:
    """Ground truth, two sets of predictions of different quality, and the PQ of each."""

    root: Path
    gt: Path
    good: Path
    poor: Path
    PQ: dict[str, float]
    scored: dict[str, Run]
    seconds: float
    """How long it takes to write a run part by part."""
    url: str = ""
    """Where `data/` is served."""
    took: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    right: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each task: seconds, bytes written, and what it wrote, when nothing happened to it."""

    def inputs(self) -> str:
        """A hash of all input files: they must be the same after every round."""
        digest = hashlib.sha256()
        for path in sorted((self.root / "data").rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(self.root)}".encode() + path.read_bytes())
        return digest.hexdigest()


def make_scene(root: Path) -> Scene:
    """Twelve small images; `poor` misses a third of what `good` finds."""
    data = root / "data"
    rng = np.random.default_rng(0)
    maps = [np.kron(rng.integers(0, 6, (4, 6)), np.ones((8, 8), int)).astype(np.int32) for _ in range(IMAGES)]
    paths = {}
    for name, share in (("gt", 0), ("good", 7), ("poor", 3)):
        infos, annotations = {}, {}
        for number, ids in enumerate(maps, 1):
            found = ids if not share else np.where((ids + number) % share == 0, 0, ids).astype(np.int32)
            segments = tuple(
                Segment(int(one), CATEGORIES[int(one) % 3].id, int((found == one).sum()))
                for one in np.unique(found[found > 0])
            )
            write_id_png(data / name / f"{number}.png", found)
            infos[number] = ImageInfo(number, f"{number}.jpg", *found.shape)
            annotations[number] = Annotation(number, f"{number}.png", segments)
        paths[name] = data / f"{name}.json"
        write_panoptic_json(paths[name], PanopticSet(CATEGORIES, infos, annotations, data / name, paths[name]))
    for number, ids in enumerate(maps, 1):
        (data / "photographs").mkdir(exist_ok=True)
        grey = np.repeat((40 * ids).astype(np.uint8)[..., None], 3, axis=2)
        cv2.imwrite(str(data / "photographs" / f"{number}.jpg"), grey, [cv2.IMWRITE_JPEG_QUALITY, 98])
    (data / "weights.bin").write_bytes(rng.bytes(3_000_000))
    (root / "little_model.py").write_text(textwrap.dedent(LITTLE_MODEL))
    scored = {name: score_folder(paths["gt"], paths[name]) for name in ("good", "poor")}
    scores = {name: pq_of(run) for name, run in scored.items()}
    assert scores["good"] != scores["poor"]
    scene = Scene(root, paths["gt"], paths["good"], paths["poor"], scores, scored, 0.0)
    began = time.monotonic()
    score_by_parts(scene, "good", root / "timed")
    return dataclasses.replace(scene, seconds=time.monotonic() - began)


def pq_of(run: Any) -> float:
    """PQ of all categories."""
    return float(run.summary()["All"]["PQ"] or 0.0)


def score_by_parts(scene: Scene, name: str, out: Path, overwrite: bool = False) -> None:
    """Writes the run of `name` with a part for each image."""
    whole = scene.scored[name]
    writer = RunWriter.create(out, whole.info, overwrite)
    try:
        for image in whole.images.tolist():
            writer.write_part(only(whole.table, image))
        writer.finish("done")
    except BaseException as problem:
        ended = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish(ended, error=str(problem))
        raise


def only(table: Any, image: int) -> Any:
    """The rows of one image."""
    from panbench.panoptic.overlap import OverlapTable, take

    segments, pairs = table.segments, table.overlaps
    return OverlapTable(take(segments, segments.image_id == image), take(pairs, pairs.image_id == image))


def expect(condition: bool, sentence: str) -> None:
    """Raises Broken when a promise is not kept."""
    if not condition:
        raise Broken(sentence)


def with_kept(scene: Scene) -> Path:
    """The folder of two runs that kept predictions and candidates; made when it is first asked for."""
    from panbench.catalog import find_model
    from panbench.datasets import open_dataset, shapes
    from panbench.evaluation.evaluate import evaluate
    from panbench.evaluation.options import EvaluateOptions
    from panbench.models.opening import open_model

    folder = scene.root / "kept"
    if not folder.exists():
        shapes.generate(scene.root / "shapes", count=3, size=(64, 96))
        options = EvaluateOptions(keep_candidates=True, save_predictions=True)
        for name in KEPT:
            evaluate(open_model(find_model(name)), open_dataset(str(scene.root / "shapes")), folder / name, options)
    return folder


def is_right(scene: Scene, path: Path, names: tuple[str, ...]) -> str:
    """The state of a run, which must be whole with one of the right numbers, or say that it is not whole."""
    if not (path / "run.json").exists():
        return "absent"
    row = comparison_rows([load_run(path)])[0]
    if row.complete:
        expect(any(row.PQ == scene.PQ[name] for name in names), f"a complete run of PQ {row.PQ} is none of {names}")
    return "complete" if row.complete else "incomplete"
