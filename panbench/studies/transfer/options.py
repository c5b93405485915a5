"""`--category-map` of `panbench eval` and `score`: evaluates on data that have other categories than the model."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from panbench.base.reporter import Reporter
from panbench.base.studies import Option
from panbench.evaluation.options import Evaluation, Joined, StudyOptions
from panbench.report.answers.options import Remade, ScoreOptions, Scoring

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.datasets.category_map import CategoryMap
    from panbench.models.model import Model
    from panbench.runs import CategoryMapRecord, RunInfo

MapFile = Annotated[
    str | None, Option("Categories of the model to those of the data: a JSON, or coco_to_cityscapes.", "FILE|NAME")
]
"""The option --category-map."""


def _category_map_settings(mapping: "CategoryMap") -> dict[str, str]:
    """Returns the settings of a category map for run.json: its name and a hash of its pairs."""
    pairs = json.dumps(sorted(mapping.ids.items())).encode()
    return {"category_map": mapping.name, "category_map_sha256": hashlib.sha256(pairs).hexdigest()}


def _map_record(mapping: "CategoryMap", own: Mapping[int, str]) -> "CategoryMapRecord":
    """Returns a category map for run.json, by category names.

    own: the name of each source category
    """
    from panbench.runs import CategoryMapRecord

    named = {category.id: category.name for category in mapping.target}
    return CategoryMapRecord(
        name=mapping.name,
        categories={own[source]: named[target] for source, target in mapping.ids.items()},
        unmapped_model=(*mapping.dropped, *mapping.unmapped_source),
        unmapped_dataset=tuple(mapping.unmapped_target),
    )


class _CategoryMapping(StudyOptions):
    """Evaluates a model through a category map; subclasses provide the map."""

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap | None":
        """Returns the category map, or None without the option. Raises BadArgument for a map that does not fit."""
        raise NotImplementedError

    def category_map_record(self, mapping: "CategoryMap", model: "Model") -> "CategoryMapRecord":
        """Returns the category map for run.json, by category names."""
        return _map_record(mapping, dict(enumerate(model.class_names)))

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """Wraps the model so that it predicts the dataset's categories, if a category map is given."""
        if (mapping := self.of(model, dataset)) is None:
            return model
        from panbench.studies.transfer.mapped_model import MappedModel

        return MappedModel(model, mapping)

    def join(self, evaluation: Evaluation) -> Joined:
        """Called before a pass: records the category map in run.json and reports unmapped categories."""
        model = evaluation.model
        if (mapping := self.of(model, evaluation.dataset)) is None:
            return Joined({"category_map": None, "category_map_sha256": None})
        for message in mapping.messages:
            evaluation.reporter.notice(message)
        return Joined(
            _category_map_settings(mapping), record={"category_map": self.category_map_record(mapping, model)}
        )


@dataclass(frozen=True)
class CategoryMapOptions(_CategoryMapping):
    """The option `--category-map` of `eval`."""

    category_map: MapFile = None

    @property
    def maps_categories(self) -> bool:
        """True if a category map is given."""
        return self.category_map is not None

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap | None":
        """Reads the category map that `--category-map` names; None without the option."""
        if self.category_map is None:
            return None
        from panbench.datasets.category_map import read_category_map
        from panbench.models.predict import labels_as_categories

        return read_category_map(self.category_map, labels_as_categories(model), dataset.categories)

    @classmethod
    def of_run(cls, info: "RunInfo") -> StudyOptions | None:
        """Returns the options by which a stored run's category map is applied again; None if it has none."""
        return None if info.category_map is None else RecordedCategoryMap(info.category_map)


@dataclass(frozen=True)
class RecordedCategoryMap(_CategoryMapping):
    """Applies the category map that a run recorded."""

    record: "CategoryMapRecord"

    def of(self, model: "Model", dataset: "Dataset") -> "CategoryMap":
        """Rebuilds the recorded category map for the model's labels."""
        from panbench.datasets.category_map import recorded_map
        from panbench.models.predict import labels_as_categories

        labels = labels_as_categories(model)
        return recorded_map(self.record.name, self.record.categories, labels, dataset.categories)

    def category_map_record(self, mapping: "CategoryMap", model: "Model") -> "CategoryMapRecord":
        """Returns the record that the run already has of its category map."""
        return self.record


@dataclass(frozen=True)
class MappedScores(ScoreOptions):
    """The option `--category-map` of `score`."""

    category_map: MapFile = None

    def remade(self, scoring: Scoring, folder: Callable[[], Path], reporter: Reporter) -> Remade | None:
        """Called before scoring: writes predictions in the ground truth's categories; None without the option."""
        if self.category_map is None:
            return None
        from panbench.studies.transfer.mapped_predictions import write_mapped_predictions

        path, mapping, own = write_mapped_predictions(self.category_map, scoring, folder(), reporter)
        for message in mapping.messages:
            reporter.notice(message)
        return Remade(path, {"category_map": _map_record(mapping, own)})
