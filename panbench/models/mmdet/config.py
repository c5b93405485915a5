"""Reads mmdet config files with mmengine, and builds their models without downloading anything."""

import contextlib
import copy
import json
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.registry import DefaultScope
from torch import nn
from torch.overrides import TorchFunctionMode

from panbench.base.errors import BadModel
from panbench.catalog import ModelSpec, spec_from_config
from panbench.models.external import exception_causes, raise_as_model_failure
from panbench.models.mmdet import lean, operators
from panbench.models.mmdet.families import FAMILIES, Family, family_of_class
from panbench.models.unopened import package_folder, unsupported_type

# mmengine keeps its default scope, and state of reading configs, per process.
_mmengine_lock = threading.RLock()
# Packages whose errors concern the config, or are ours.
_KNOWN_PACKAGES = frozenset({"mmdet", "mmengine", "mmcv", "torch", "torchvision", "panbench", "builtins", "importlib"})
_SWIN = {96: {6: "Swin-T", 18: "Swin-S"}, 128: {18: "Swin-B"}, 192: {18: "Swin-L"}}


def load_config(source: ModelSpec | str | Path) -> Config:
    """Reads an mmengine config file, which is Python and is run, merged with its bases.

    `_base_ = 'mmdet::…'` is looked up in the installed mmdet without pkg_resources. Raises BadModel for a file or base
    that is missing or unreadable, and for a model of none of mmdet's panoptic families.
    """
    spec = source if isinstance(source, ModelSpec) else spec_from_config(source)
    path = spec.config
    if path is None:
        raise BadModel(f"{spec.title} has no config file, so there is nothing for mmdet to build.")
    # Configs in mmengine's import style name classes of mmdet, whose modules import mmcv's operators.
    operators.install()
    lean.import_mmdet()
    with _mmengine_lock, _without_pkg_resources():
        try:
            config = Config.fromfile(path)
            model = config.get("model")
        except BadModel as error:
            raise BadModel(f"{path}: {error}") from error
        except FileNotFoundError as error:
            raise BadModel(f"{path}: a base of it is missing ({_error_text(error)}).") from error
        except Exception as error:
            raise_as_model_failure(error, failed_import_packages(error))
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            where = f"{path}, line {lines[-1]}," if lines else str(path)
            raise BadModel(f"{where} cannot be read as an mmdet config ({_error_text(error)}).") from error
    if not isinstance(model, dict) or "type" not in model:
        raise BadModel(f"{path} has no `model` with a `type`, so there is nothing to build.")
    if _family_of_type(model["type"], config) is None:
        raise unsupported_type(path, config_type_name(model["type"]))
    return config


def config_text(config: Config) -> str:
    """Returns the resolved config as JSON, of which runs record the SHA-256."""
    return json.dumps(config.to_dict(), default=lambda value: getattr(value, "__qualname__", str(value)))


def build_model(config: Config, device: str | torch.device = "cpu") -> nn.Module:
    """Builds the config's model in eval mode, with initial weights; does not change `config`.

    Pretrained backbones are not fetched, because a checkpoint replaces them. Instance results are off: PQ needs none.
    device: "meta" allocates no memory for parameters. Raises BadModel if mmdet cannot build the model.
    """
    operators.install()
    lean.import_mmdet()
    description = copy.deepcopy(config.model)
    _drop_pretrained(description)
    family = _family_of_type(description["type"], config)
    if family is not None:
        family.configure(description)
    with (
        _mmengine_lock,
        in_registry_scope_of(config),
        torch.device(device),
        _LinspaceOnCpu(),
        warnings.catch_warnings(),
    ):
        # Advice on losses, which are not computed here.
        warnings.filterwarnings("ignore", module=r"mmdet\.models\.losses")
        try:
            from mmdet.registry import MODELS

            model = MODELS.build(description)
        except Exception as error:
            raise_as_model_failure(error, custom_packages(config))
            raise BadModel(f"{config.filename}: mmdet cannot build this model ({_error_text(error)}).") from error
    return cast(nn.Module, model.eval())


def family_of(model: nn.Module) -> Family:
    """Returns the family (Panoptic FPN, MaskFormer or Mask2Former) of a built model. Raises BadModel if it has none."""
    family = family_of_class(type(model))
    if family is None:
        raise BadModel(f"A {type(model).__name__} is none of {', '.join(family.name for family in FAMILIES)}.")
    return family


def describe_backbone(config: Config) -> str:
    """Returns the backbone's usual short name (R50, Swin-T; R18/16 for 16 channels instead of 64), else its class."""
    backbone = config.model.get("backbone", {})
    name = config_type_name(backbone.get("type", "unknown"))
    if name == "ResNet":
        width = backbone.get("base_channels", 64)
        return f"R{backbone.get('depth', '?')}" + (f"/{width}" if width != 64 else "")
    if name == "SwinTransformer":
        depths = backbone.get("depths", (2, 2, 6, 2))
        return _SWIN.get(backbone.get("embed_dims", 96), {}).get(depths[2] if len(depths) > 2 else 0, "Swin")
    return name


@contextlib.contextmanager
def _without_pkg_resources() -> Iterator[None]:
    """Replaces mmengine's search for packages within the block: it needs pkg_resources, which new setuptools lack."""
    find_base, find_package = Config._get_cfg_path, mmengine_config.get_installed_path

    def find_base_config(base: str, filename: str) -> tuple[str, str | None]:
        """Replaces mmengine's search for the file of a `_base_`, such as `mmdet::…`."""
        if "::" not in base:
            return cast("tuple[str, str | None]", find_base(base, filename))
        package, _, relative = base.partition("::")
        folder = Path(_package_folder(package))
        # `.mim/configs` is how packages ship their configs; a checkout has them next to the package.
        for configs in (folder / ".mim" / "configs", folder.parent / "configs"):
            if (configs / relative).is_file():
                return str(configs / relative), package
        raise BadModel(f"{package} has no config {relative} (looked for below {folder / '.mim' / 'configs'}).")

    Config._get_cfg_path = staticmethod(find_base_config)
    mmengine_config.get_installed_path = _package_folder
    try:
        yield
    finally:
        Config._get_cfg_path = staticmethod(find_base)
        mmengine_config.get_installed_path = find_package


def _package_folder(package: str) -> str:
    """Returns the folder of an installed package. Raises BadModel."""
    try:
        return str(package_folder(package))
    except (ImportError, ValueError, FileNotFoundError):
        raise BadModel(f"its base is in the package {package!r}, which is not installed.") from None


def _family_of_type(type_: Any, config: Config) -> Family | None:
    """Returns the family of a model's `type`, a name or a class, by its bases; None if it has none."""
    if isinstance(type_, str):
        with _mmengine_lock, in_registry_scope_of(config), contextlib.suppress(Exception):
            from mmdet.registry import MODELS

            type_ = MODELS.get(type_)
    return family_of_class(type_) if isinstance(type_, type) else None


@contextlib.contextmanager
def in_registry_scope_of(config: Config) -> Iterator[None]:
    """Resolves class names in mmdet's registry, or in that of the config's `default_scope`, within the block."""
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        yield


class _LinspaceOnCpu(TorchFunctionMode):
    """Runs torch.linspace on the CPU while a model is built: layers read its values, which a meta tensor lacks."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch for each function: runs torch.linspace on the CPU, and all others unchanged."""
        if function is torch.linspace:
            kwargs = {"device": "cpu", **(kwargs or {})}
        return function(*args, **(kwargs or {}))


def _drop_pretrained(description: Any) -> None:
    """Removes every reference to pretrained weights from a model's description, in place."""
    for part in _nested_config_values(description):
        for key in ("init_cfg", "pretrained") if isinstance(part, dict) else ():
            entries = part.get(key)
            for entry in entries if isinstance(entries, list | tuple) else [entries]:
                if isinstance(entry, str) or (isinstance(entry, dict) and "checkpoint" in entry):
                    part[key] = None


def _nested_config_values(value: Any) -> Iterator[Any]:
    """Yields a value of a config, and all values in its dicts and lists."""
    yield value
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _nested_config_values(each)


def config_type_name(type_: Any) -> str:
    """Returns the class name of a config's `type`, which is a class or a name, with or without its scope."""
    return type_.__name__ if isinstance(type_, type) else str(type_).rpartition(".")[2]


def _error_text(error: Exception) -> str:
    """Describes an exception in one line: its type and message."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def custom_packages(config: Config) -> frozenset[str]:
    """Returns the packages of a config's own classes, without mmdet, its dependencies and panbench.

    They come from `custom_imports`, from classes in the config, and from mmdet's registries.
    """
    from mmdet import registry

    declared = (config.get("custom_imports") or {}).get("imports") or []
    modules = {declared} if isinstance(declared, str) else set(declared)
    for ours in (registry.MODELS, registry.TASK_UTILS, registry.TRANSFORMS, registry.DATASETS):
        for each in (ours, ours.parent):
            modules |= {found.__module__ for found in (each.module_dict if each else {}).values()}
    modules |= {value.__module__ for value in _nested_config_values(config.get("model")) if isinstance(value, type)}
    return frozenset(module.partition(".")[0] for module in modules) - _KNOWN_PACKAGES


def failed_import_packages(error: BaseException) -> frozenset[str]:
    """Returns the packages in an exception's traceback that a config's `custom_imports` was importing."""
    found: set[str] = set()
    for cause in exception_causes(error):
        packages = [module.partition(".")[0] for module in cause.modules]
        if "mmengine.utils.misc" in cause.modules:
            found |= set(packages[cause.modules.index("mmengine.utils.misc") :])
    return frozenset(found) - _KNOWN_PACKAGES
