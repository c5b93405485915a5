"""A model that is any Python function: image in, id map and segments out. JAX, TensorFlow, another process, a folder.

`--model package.module:factory` calls `factory()`. It returns a `Model`, or a function

    def segment(image):                     # (H, W, 3) uint8: red, green, blue
        return ids, [{"id": 1, "category_id": 17, "score": 0.9}, …]

`ids` is (H, W) integers, 0 for void, with a segment for each other number; `score` may be left out. If the function
has an attribute `categories` (COCO's dicts: id, name, isthing), they are matched with the dataset's by name; otherwise
`category_id` is the dataset's own.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from panbench.base.errors import BadArgument, BadModel
from panbench.base.text import kind_of
from panbench.catalog import ModelSpec
from panbench.models.candidates import FinishedMap, Frame, LabelledSegment
from panbench.models.external import ExternalModel, checked_results_of, external_code
from panbench.models.model import REQUIRED, LoadedImage, Model, as_model
from panbench.models.preprocess import read_photograph
from panbench.models.rules import Rule
from panbench.models.rules.given import Given
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import MAX_ID, MAX_SCORE, Category, Scene
from panbench.runs import ModelRecord


def open_factory(spec: ModelSpec, factory: Any, *, precision: str, weights: str) -> Model:
    """Calls a user's factory; returns the model it made, or wraps the function it made as a model.

    Raises BadModel, BadArgument.
    """
    if not callable(factory):
        raise BadModel(f"{spec.adapter} is {kind_of(factory)}; it must be a function that returns a model.")
    if weights not in ("auto", "random") or (spec.weights is not None and spec.config is None):
        raise BadArgument(f"{spec.adapter} brings its own weights. Leave --checkpoint out.")
    with external_code(spec.adapter):
        made = factory()
    missing = [name for name in REQUIRED if not hasattr(made, name)]
    if not missing:
        return ExternalModel(spec, as_model(made))
    with checked_results_of(factory):
        if not callable(made):
            raise BadModel(
                f"{spec.adapter} returned {kind_of(made)} without {', '.join(missing)}. It must return a model "
                "(panbench.models.model.Model) or a function from an image to an id map and its segments."
            )
    if precision not in ("fp32", "ieee"):
        raise BadArgument(f"--precision {precision}: {spec.adapter} is a function and sets its own precision.")
    return FunctionModel(spec, made)


class FunctionModel(Model):
    """Makes a model of a Python function that takes an image and returns an id map and its segments."""

    def __init__(self, spec: ModelSpec, function: Callable[[Any], Any]) -> None:
        """Takes a user's function, and reads its attribute `categories`, if it has one.

        Raises ModelFailed if they are not in COCO's form.
        """
        self.spec = spec
        self.device = torch.device("cpu")
        self.rule: Rule = Given()
        self._function = function
        # The loop may run two batches at once on a CPU, and the function may not be thread-safe.
        self._lock = threading.Lock()
        with checked_results_of(function):
            categories = _declared_categories(spec, getattr(function, "categories", None))
        self.class_names = tuple(category.name for category in categories)
        self.isthing = tuple(category.isthing for category in categories)
        self._label_of = {category.id: label for label, category in enumerate(categories)} or None

    def describe(self) -> ModelRecord:
        """Returns the run.json entry of a model that is a user's Python function."""
        return ModelRecord(name=self.spec.name, title=self.spec.title, adapter=self.spec.adapter)

    def load(self, scene: Scene) -> LoadedImage:
        """Decodes one image; safe to call from several threads. Raises BadDataset naming the file."""
        rgb, facts = read_photograph(scene)
        return LoadedImage(scene, torch.from_numpy(rgb), None, facts)

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Makes a LoadedImage of the given pixels, which the function takes as they are."""
        return LoadedImage(scene, torch.from_numpy(rgb), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[FinishedMap]:
        """Calls the user's function on each image; returns id maps with segments, if valid. Raises ModelFailed."""
        return [self._run_function(image) for image in batch]

    def _run_function(self, image: LoadedImage) -> FinishedMap:
        """Calls the function for one image and checks its result. Raises ModelFailed."""
        rgb = image.inputs.numpy()
        where = f"{self.spec.title} on {image.scene.image.file_name} (image {image.scene.image.id})"
        with self._lock, external_code(self.spec.adapter, [image.scene]):
            answer = self._function(rgb)
            if isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[1], Iterator):
                answer = answer[0], list(answer[1])
        with checked_results_of(self._function):
            return self._checked_id_map(answer, rgb, where)

    def _checked_id_map(self, answer: Any, rgb: npt.NDArray[np.uint8], where: str) -> FinishedMap:
        """Converts the function's result to a FinishedMap. Raises BadModel if it is invalid."""
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise BadModel(f"{where} returned {kind_of(answer)}; it must return (id map, segments).")
        given = answer[0].detach().cpu() if isinstance(answer[0], torch.Tensor) else answer[0]
        try:
            ids = np.asarray(given)
        except (TypeError, ValueError) as error:
            raise BadModel(f"{where} returned an id map that is not an array ({error}).") from error
        if ids.shape != rgb.shape[:2] or ids.dtype.kind not in "iu":
            raise BadModel(
                f"{where} returned an id map of shape {ids.shape} and type {ids.dtype}; it must be whole numbers of "
                f"shape {rgb.shape[:2]}."
            )
        area_of = count_ids(ids)
        if outside := [segment_id for segment_id in area_of if not 0 <= segment_id <= MAX_ID]:
            raise BadModel(
                f"{where} returned the id {outside[0]}; ids lie in 1…{MAX_ID}, as PNGs can hold them, and 0 is void."
            )
        segments = tuple(self._labelled_segments(answer[1], area_of, where))
        if unnamed := sorted(set(area_of) - {0, *(segment.id for segment in segments)}):
            raise BadModel(f"{where} returned a map with the id {unnamed[0]} and no segment of that id.")
        size = (rgb.shape[0], rgb.shape[1])
        return FinishedMap(ids.astype(np.int32), segments, Frame(size, size, size))

    def _labelled_segments(
        self, given: Iterable[Any], area_of: Mapping[int, int], where: str
    ) -> Iterable[LabelledSegment]:
        """Yields the result's segments that have pixels, with labels. Raises BadModel if one is invalid."""
        seen: set[int] = set()
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            raise BadModel(f"{where} returned {kind_of(given)} for segments; it must be a list of them.")
        for each in given:
            try:
                segment_id, category = int(each["id"]), int(each["category_id"])
                score = each.get("score")
                complete = segment_id == each["id"] and category == each["category_id"]
            except (TypeError, KeyError, ValueError, OverflowError, AttributeError, IndexError) as error:
                raise BadModel(f"{where} returned the segment {each!r}; it needs `id` and `category_id`.") from error
            if not complete:
                raise BadModel(f"{where} returned the segment {each!r}; `id` and `category_id` must be whole numbers.")
            if segment_id == 0 or segment_id in seen:
                how_many = "two segments" if segment_id else "a segment"
                raise BadModel(f"{where} returned {how_many} of the id {segment_id}.")
            seen.add(segment_id)
            if self._label_of is not None and category not in self._label_of:
                raise BadModel(f"{where} returned category {category}, which is not in its own `categories`.")
            label = category if self._label_of is None else self._label_of[category]
            if area_of.get(segment_id):
                yield LabelledSegment(segment_id, label, area_of[segment_id], _segment_score(score, where))


def _segment_score(given: Any, where: str) -> float | None:
    """Returns a segment's score, or None if none is given. Raises BadModel if it is not a finite number."""
    if given is None:
        return None
    try:
        score = float(given) if not isinstance(given, str | bytes) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):
        score = math.nan
    if not abs(score) <= MAX_SCORE:
        raise BadModel(f"{where} returned the score {given!r}; it must be a finite number of 32 bits, or left out.")
    return score


def _declared_categories(spec: ModelSpec, declared: Any) -> list[Category]:
    """Reads the function's attribute `categories`; empty without one. Raises BadModel if it is invalid."""
    if declared is not None and (isinstance(declared, str | bytes) or not isinstance(declared, Iterable)):
        raise BadModel(f"{spec.title}: `categories` is {kind_of(declared)}; it must be a list of categories.")
    return [_read_category(spec, each) for each in declared or ()]


def _read_category(spec: ModelSpec, given: Any) -> Category:
    """Reads a category in COCO's form (`id`, `name`, `isthing`). Raises BadModel."""
    if isinstance(given, Category):
        return given
    try:
        return Category(int(given["id"]), str(given["name"]), bool(given["isthing"]))
    except (TypeError, KeyError, ValueError) as error:
        raise BadModel(f"{spec.title}: the category {given!r} needs `id`, `name` and `isthing`.") from error
