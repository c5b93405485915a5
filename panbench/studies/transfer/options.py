"""`panbench eval --category-map`: a model is evaluated on data of other categories than its own."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.studies import Option
from panbench.datasets.category_map import CategoryMap, read_category_map, recorded_map
from panbench.evaluation.options import Evaluation, Joined, StudyOptions
from panbench.runs import CategoryMapRecord, RunInfo

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.models.model import Model

__all__ = ["MapOptions", "RecordedMap"]


class _Mapping(StudyOptions):
    """A map from the model's categories to the dataset's, wherever it is from."""

    def of(self, model: "Model", dataset: "Dataset") -> CategoryMap | None:
        """The map; None where none is asked for. Raises BadArgument for one that does not fit."""
        raise NotImplementedError

    def in_words(self, mapping: CategoryMap, model: "Model") -> CategoryMapRecord:
        """The map for run.json."""
        named = {category.id: category.name for category in mapping.target}
        return CategoryMapRecord(
            name=mapping.name,
            categories={model.class_names[label]: named[target] for label, target in mapping.ids.items()},
            unmapped_model=(*mapping.dropped, *mapping.unmapped_source),
            unmapped_dataset=tuple(mapping.unmapped_target),
        )

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
        pairs = json.dumps(sorted(mapping.ids.items())).encode()
        settings = {"category_map": mapping.name, "category_map_sha256": hashlib.sha256(pairs).hexdigest()}
        return Joined(settings, record={"category_map": self.in_words(mapping, model)})


@dataclass(frozen=True)
class MapOptions(_Mapping):
    """The map that `--category-map` names."""

    panel: ClassVar[str] = "Data of other categories"

    category_map: Annotated[
        str | None, Option("Which category is which: a JSON, or a name such as coco_to_cityscapes.", "FILE|NAME")
    ] = None

    @property
    def maps_categories(self) -> bool:
        """Whether a map is given."""
        return self.category_map is not None

    def of(self, model: "Model", dataset: "Dataset") -> CategoryMap | None:
        """The map in that file."""
        if self.category_map is None:
            return None
        from panbench.models.predict import labels_as_categories

        return read_category_map(self.category_map, labels_as_categories(model), dataset.categories)

    @classmethod
    def of_run(cls, info: RunInfo) -> StudyOptions | None:
        """The map that the run went through."""
        return None if info.category_map is None else RecordedMap(info.category_map)


@dataclass(frozen=True)
class RecordedMap(_Mapping):
    """The map that a run recorded."""

    record: CategoryMapRecord

    def of(self, model: "Model", dataset: "Dataset") -> CategoryMap:
        """The same map."""
        from panbench.models.predict import labels_as_categories

        labels = labels_as_categories(model)
        return recorded_map(self.record.name, self.record.categories, labels, dataset.categories)

    def in_words(self, mapping: CategoryMap, model: "Model") -> CategoryMapRecord:
        """As the run has it."""
        return self.record
