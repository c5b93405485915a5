"""Reads the detector's type in an mmdet config without running it, to refuse others before PyTorch is loaded."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from panbench.base.errors import BadModel
from panbench.catalog import parse_config

__all__ = ["DETECTORS", "cannot_run", "refuse_other_detector"]

DETECTORS = ("PanopticFPN", "MaskFormer", "Mask2Former")
"""mmdet's detectors that panbench runs; subclasses of them run, too."""


def cannot_run(path: Path, kind: str) -> BadModel:
    """The error for a config whose model is of another kind."""
    *others, last = DETECTORS
    return BadModel(f"{path}: a model of type {kind} cannot be run; panbench runs {', '.join(others)} and {last}.")


def refuse_other_detector(path: Path) -> None:
    """Raises BadModel for a config whose model is a detector of mmdet that gives no panoptic map.

    A config that only running could resolve passes: classes of the user's own, values that are computed, other formats
    than Python, bases that are not found.
    """
    try:
        kind = _stated_type(path)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    if kind is not None and kind not in DETECTORS and kind in _mmdet_detectors():
        raise cannot_run(path, kind)


def _stated_type(path: Path) -> str | None:
    """The `type` of a config's `model`, its own or that of its bases; None where it is not plain."""
    if path.suffix != ".py":
        return None
    values = dict(_assigned(parse_config(path.read_text("utf-8"))))
    if "custom_imports" in values:
        return None
    if "model" in values and (own := _type_in(values["model"])) is not None:
        return own.removeprefix("mmdet.")
    bases = ast.literal_eval(values["_base_"]) if "_base_" in values else ()
    kinds = [_stated_type(_base_path(base, path)) for base in ([bases] if isinstance(bases, str) else bases)]
    return next((kind for kind in kinds if kind is not None), None)


def _assigned(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that a config assigns at its top level, and what to."""
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _type_in(value: ast.expr) -> str | None:
    """The `type` of `dict(type="…")` or `{"type": "…"}`, where it is a plain string."""
    found: ast.expr | None = None
    if isinstance(value, ast.Call):
        found = next((word.value for word in value.keywords if word.arg == "type"), None)
    if isinstance(value, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
        found = value.values[keys.index("type")] if "type" in keys else None
    return found.value if isinstance(found, ast.Constant) and isinstance(found.value, str) else None


def _base_path(base: str, path: Path) -> Path:
    """The file of a `_base_`. Raises OSError where its package is not installed."""
    package, colons, relative = base.partition("::")
    return _package_folder(package) / ".mim" / "configs" / relative if colons else path.parent / base


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(package)
    return Path(found.origin).parent


def _mmdet_detectors() -> frozenset[str]:
    """The names of all of mmdet's detectors, from the text of its package."""
    try:
        text = (_package_folder("mmdet") / "models" / "detectors" / "__init__.py").read_text("utf-8")
        return frozenset(ast.literal_eval(dict(_assigned(ast.parse(text)))["__all__"]))
    except (OSError, SyntaxError, ValueError, KeyError):
        return frozenset()
