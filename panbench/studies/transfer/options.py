"""`--category-map` of `panbench eval` and `score`: a model, or predictions, on data of other categories."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.reporter import Reporter
from panbench.base.studies import Option
from panbench.evaluation.options import Evaluation, Joined, StudyOptions
from panbench.report.answers.options import Remade, ScoreOptions, Scoring

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.datasets.category_map import CategoryMap
    from panbench.models.model import Model
    from panbench.runs import CategoryMapRecord, RunInfo

__all__ = ["MapOptions", "MapScores", "RecordedMap"]


MapFile = Annotated[
    str | None, Option("Which category is which: a JSON, or a name such as coco_to_cityscapes.", "FILE|NAME")
]
"""The option --category-map."""


def _settings(mapping: "CategoryMap") -> dict[str, str]:
    """The map's name, and a hash of its pairs."""
    pairs = json.dumps(sorted(mapping.ids.items())).encode()
    return {"category_map": mapping.name, "category_map_sha256": hashlib.sha256(pairs).hexdigest()}


def _in_words(mapping: "CategoryMap", own: Mapping[int, str]) -> "CategoryMapRecord":
    """The map for run.json. own: the name of each source category"""
    from panbench.runs import CategoryMapRecord

    named = {category.id: category.name for category in mapping.target}
    return CategoryMapRecord(
        name=mapping.name,
        categories={own[source]: named[target] for source, target in mapping.ids.items()},
        unmapped_model=(*mapping.dropped, *mapping.unmapped_source),
        unmapped_dataset=tuple(mapping.unmapped_target),
    )


class _Mapping(StudyOptions):
    """A map from the model's categories to the dataset's, wherever it is from."""

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap | None":
        """The map; None where none is asked for. Raises BadArgument for one that does not fit."""
        raise NotImplementedError

    def in_words(self, mapping: "CategoryMap", model: "Model") -> "CategoryMapRecord":
        """The map for run.json."""
        return _in_words(mapping, dict(enumerate(model.class_names)))

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """The model in front of the map."""
        if (mapping := self.of(model, dataset)) is None:
            return model
        from panbench.studies.transfer.mapped_model import Mapped

        return Mapped(model, mapping)

    def join(self, evaluation: Evaluation) -> Joined:
        """The map in words, for run.json and the user."""
        model = evaluation.model
        if (mapping := self.of(model, evaluation.dataset)) is None:
            return Joined({"category_map": None, "category_map_sha256": None})
        for sentence in mapping.sentences:
            evaluation.reporter.notice(sentence)
        return Joined(_settings(mapping), record={"category_map": self.in_words(mapping, model)})


@dataclass(frozen=True)
class MapOptions(_Mapping):
    """The map that `--category-map` names."""

    panel: ClassVar[str] = "Data of other categories"

    category_map: MapFile = None

    @property
    def maps_categories(self) -> bool:
        """Whether a map is given."""
        return self.category_map is not None

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap | None":
        """The map in that file."""
        if self.category_map is None:
            return None
        from panbench.datasets.category_map import read_category_map
        from panbench.models.predict import labels_as_categories

        return read_category_map(self.category_map, labels_as_categories(model), dataset.categories)

    @classmethod
    def of_run(cls, info: "RunInfo") -> StudyOptions | None:
        """The map that the run went through."""
        return None if info.category_map is None else RecordedMap(info.category_map)


@dataclass(frozen=True)
class RecordedMap(_Mapping):
    """The map that a run recorded."""

    record: "CategoryMapRecord"

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap":
        """The same map."""
        from panbench.datasets.category_map import recorded_map
        from panbench.models.predict import labels_as_categories

        labels = labels_as_categories(model)
        return recorded_map(self.record.name, self.record.categories, labels, dataset.categories)

    def in_words(self, mapping: "CategoryMap", model: "Model") -> "CategoryMapRecord":
        """As the run has it."""
        return self.record


@dataclass(frozen=True)
class MapScores(ScoreOptions):
    """The map through which predictions are scored."""

    panel: ClassVar[str] = "Predictions of other categories"

    category_map: MapFile = None

    def remade(self, scoring: Scoring, folder: Callable[[], Path], reporter: Reporter) -> Remade | None:
        """The predictions in the ground truth's categories."""
        if self.category_map is None:
            return None
        from panbench.studies.transfer.mapped_predictions import write_mapped

        path, mapping, own = write_mapped(self.category_map, scoring, folder(), reporter)
        for sentence in mapping.sentences:
            reporter.notice(sentence)
        return Remade(path, {"category_map": _in_words(mapping, own)})
