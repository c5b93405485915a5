"""Checks a model's files before PyTorch is loaded: whether it can run, and the names of its categories."""

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from panbench.base import hub
from panbench.base.errors import BadModel, PanbenchError
from panbench.catalog import MMDET, RANDOM, ModelSpec, parse_config, refuse_folder_without_weights
from panbench.models.labels import is_placeholder_name, unnamed_labels_error
from panbench.models.transformers.families import family_of, read_json
from panbench.weights import refuse_missing_file

DETECTORS = ("PanopticFPN", "MaskFormer", "Mask2Former")
"""mmdet's detectors that panbench runs, as well as their subclasses."""


def refuse_unopenable(specs: Sequence[ModelSpec], weights: str) -> None:
    """Raises BadModel or BadCheckpoint if their files show that none of these models can run.

    weights: "auto", or "random" for weights that are not read
    """
    errors = []
    for spec in specs:
        try:
            _refuse_unopenable_spec(spec, weights)
        except PanbenchError as error:
            errors.append(error)
    if errors and len(errors) == len(specs):
        raise errors[0]


def _refuse_unopenable_spec(spec: ModelSpec, weights: str) -> None:
    """Raises BadModel or BadCheckpoint if a model's files are missing or show that it cannot run."""
    if weights != RANDOM:
        refuse_missing_file(spec)
    if "folder" in spec.settings:
        config = read_json(Path(spec.settings["folder"]) / hub.CONFIG, spec.title)
        family_of(config, spec.title)
        if weights != RANDOM:
            refuse_folder_without_weights(spec)
        names = config.get("id2label")
        names = list(map(str, names.values())) if isinstance(names, dict) else []
        if names and not spec.settings.get("labels") and all(map(is_placeholder_name, names)):
            raise unnamed_labels_error(spec.title, len(names))
    elif spec.adapter == MMDET and spec.config is not None:
        refuse_other_detector(spec.config)


def declared_names(spec: ModelSpec) -> tuple[str, ...] | None:
    """Returns the label names of a model's folder, in order (id2label of config.json); None if it gives none."""
    if "folder" not in spec.settings:
        return None
    labels = read_json(Path(spec.settings["folder"]) / hub.CONFIG, spec.title).get("id2label")
    if not isinstance(labels, dict) or not all(label.isdecimal() for label in labels):
        return None
    names = [str(labels[label]) for label in sorted(labels, key=int)]
    return tuple(name for name in names if not is_placeholder_name(name)) or None


def unsupported_type(path: Path, kind: str) -> BadModel:
    """Returns the error for a config whose model is of a type that panbench does not run."""
    *others, last = DETECTORS
    return BadModel(f"{path}: a model of type {kind} cannot be run; panbench runs {', '.join(others)} and {last}.")


def refuse_other_detector(path: Path) -> None:
    """Raises BadModel for a config whose model is a detector of mmdet without panoptic output.

    Configs that must be run to be resolved pass: user classes, computed values, formats other than Python, missing
    bases.
    """
    try:
        kind = _declared_model_type(path)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    if kind is not None and kind not in DETECTORS and kind in _mmdet_detectors():
        raise unsupported_type(path, kind)


def _declared_model_type(path: Path) -> str | None:
    """Reads the `type` of a config's `model`, its own or its base's; None if that needs running the config."""
    if path.suffix != ".py":
        return None
    values = dict(_top_level_assignments(parse_config(path.read_text("utf-8"))))
    if "custom_imports" in values:
        return None
    if "model" in values and (own := _literal_config_type(values["model"])) is not None:
        return own.removeprefix("mmdet.")
    bases = ast.literal_eval(values["_base_"]) if "_base_" in values else ()
    kinds = [
        _declared_model_type(_base_config_path(base, path)) for base in ([bases] if isinstance(bases, str) else bases)
    ]
    return next((kind for kind in kinds if kind is not None), None)


def _top_level_assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yields the names that a config, which is Python, assigns at its top level, and their values."""
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _literal_config_type(value: ast.expr) -> str | None:
    """Reads the `type` of `dict(type="…")` or `{"type": "…"}`; None if it is not a string literal."""
    found: ast.expr | None = None
    if isinstance(value, ast.Call):
        found = next((word.value for word in value.keywords if word.arg == "type"), None)
    if isinstance(value, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
        found = value.values[keys.index("type")] if "type" in keys else None
    return found.value if isinstance(found, ast.Constant) and isinstance(found.value, str) else None


def _base_config_path(base: str, path: Path) -> Path:
    """Returns the file that a config's `_base_` names. Raises OSError if its package is not installed."""
    package, colons, relative = base.partition("::")
    return package_folder(package) / ".mim" / "configs" / relative if colons else path.parent / base


def package_folder(package: str) -> Path:
    """Returns the folder of an installed package. Raises FileNotFoundError, or what importing its parent raises."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(package)
    return Path(found.origin).parent


def _mmdet_detectors() -> frozenset[str]:
    """Reads the names of all mmdet detectors from its source, without importing it."""
    try:
        text = (package_folder("mmdet") / "models" / "detectors" / "__init__.py").read_text("utf-8")
        return frozenset(ast.literal_eval(dict(_top_level_assignments(ast.parse(text)))["__all__"]))
    except (OSError, SyntaxError, ValueError, KeyError):
        return frozenset()
