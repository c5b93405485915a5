"""Classes of a user in an mmdet config: those of `custom_imports`, or of a file that registers them with mmdet."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from mmengine.config import Config

# Whose errors are about the config, or ours.
_KNOWN = frozenset({"mmdet", "mmengine", "mmcv", "torch", "torchvision", "panbench", "builtins", "importlib"})


def custom_packages(config: Config) -> frozenset[str]:
    """The packages of a config's own classes: neither mmdet's, nor its dependencies', nor panbench's."""
    from mmdet import registry

    modules = set(_stated_modules(config.get("custom_imports")))
    for ours in (registry.MODELS, registry.TASK_UTILS, registry.TRANSFORMS, registry.DATASETS):
        for each in (ours, ours.parent):
            modules |= {found.__module__ for found in (each.module_dict if each else {}).values()}
    modules |= {type_.__module__ for type_ in _classes(config.get("model"))}
    return frozenset(module.partition(".")[0] for module in modules) - _KNOWN


def imported_packages(error: BaseException) -> frozenset[str]:
    """The packages of modules that `custom_imports` was importing when the error arose."""
    found = set()
    for each in _chain(error):
        names = list(_modules(each.__traceback__))
        if ("mmengine.utils.misc", "import_modules_from_strings") in names:
            after = names[names.index(("mmengine.utils.misc", "import_modules_from_strings")) :]
            found |= {module.partition(".")[0] for module, _ in after}
    return frozenset(found) - _KNOWN


def _stated_modules(custom_imports: Any) -> list[str]:
    stated = custom_imports.get("imports", []) if isinstance(custom_imports, dict) else []
    return [stated] if isinstance(stated, str) else [each for each in stated if isinstance(each, str)]


def _classes(description: Any) -> Iterator[type]:
    """The classes that a config in mmengine's import style names directly."""
    if isinstance(description, type):
        yield description
    elif isinstance(description, dict):
        for value in description.values():
            yield from _classes(value)
    elif isinstance(description, list | tuple):
        for value in description:
            yield from _classes(value)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _modules(traced: TracebackType | None) -> Iterator[tuple[str, str]]:
    """Module and function of each frame, the innermost last; those of Python's import system left out."""
    while traced is not None:
        frame = traced.tb_frame
        if not frame.f_code.co_filename.startswith("<frozen importlib"):
            yield str(frame.f_globals.get("__name__", "")), frame.f_code.co_name
        traced = traced.tb_next
