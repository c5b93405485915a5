"""What a model's files say before PyTorch is loaded: whether the model can run, and the names of its categories."""

from collections.abc import Sequence
from pathlib import Path

from panbench.base import hub
from panbench.base.errors import PanbenchError
from panbench.catalog import MMDET, RANDOM, ModelSpec, refuse_folder_without_weights
from panbench.models.labels import is_unnamed
from panbench.models.mmdet.stated import refuse_other_detector
from panbench.models.transformers.families import family_of
from panbench.models.transformers.settings import read_json
from panbench.weights import refuse_missing_file

__all__ = ["refuse_unopenable", "stated_names"]


def refuse_unopenable(specs: Sequence[ModelSpec], weights: str) -> None:
    """Raises BadModel or BadCheckpoint where the files of all these models already say that none of them can run.

    weights: "auto", or "random" for weights that are not read. Of several models those that can run do so.
    """
    errors = []
    for spec in specs:
        try:
            _refuse(spec, weights)
        except PanbenchError as error:
            errors.append(error)
    if errors and len(errors) == len(specs):
        raise errors[0]


def _refuse(spec: ModelSpec, weights: str) -> None:
    if weights != RANDOM:
        refuse_missing_file(spec)
    if "folder" in spec.settings:
        family_of(read_json(Path(spec.settings["folder"]) / hub.CONFIG, spec.title), spec.title)
        if weights != RANDOM:
            refuse_folder_without_weights(spec)
    elif spec.adapter == MMDET and spec.config is not None:
        refuse_other_detector(spec.config)


def stated_names(spec: ModelSpec) -> tuple[str, ...] | None:
    """The names of a folder's labels, in their order (id2label of config.json); None where it does not give them."""
    if "folder" not in spec.settings:
        return None
    labels = read_json(Path(spec.settings["folder"]) / hub.CONFIG, spec.title).get("id2label")
    if not isinstance(labels, dict) or not all(label.isdecimal() for label in labels):
        return None
    names = [str(labels[label]) for label in sorted(labels, key=int)]
    return tuple(name for name in names if not is_unnamed(name)) or None
