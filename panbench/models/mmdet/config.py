"""mmdet config files → models: read with mmengine, built without downloading anything."""

import contextlib
import copy
import hashlib
import importlib.util
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mmengine
import torch
import yapf
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.registry import DefaultScope
from torch import nn
from torch.overrides import TorchFunctionMode

from panbench.base.errors import BadArgument, BadModel
from panbench.base.files import atomic_write, cache_dir
from panbench.catalog import ModelSpec, spec_from_config
from panbench.models.external import raise_as_theirs
from panbench.models.mmdet import lean, operators
from panbench.models.mmdet.custom import custom_packages, imported_packages
from panbench.models.mmdet.families import FAMILIES, Family, family_of_class, family_of_detector
from panbench.models.mmdet.stated import cannot_run

# mmengine's reading of configs and its default scope are global to the process.
_lock = threading.RLock()
_texts: dict[str, str] = {}
_SWIN = {96: {6: "Swin-T", 18: "Swin-S"}, 128: {18: "Swin-B"}, 192: {18: "Swin-L"}}


def load_config(source: ModelSpec | str | Path) -> Config:
    """The mmengine config of a model, its bases merged in. The file is Python and is run.

    `_base_ = 'mmdet::…'` is looked up in the installed mmdet without pkg_resources. Raises BadModel for a file that is
    missing, not readable as a config, whose base is missing, or whose model is of none of mmdet's panoptic families.
    """
    spec = source if isinstance(source, ModelSpec) else spec_from_config(source)
    path = spec.config
    if path is None:
        raise BadModel(f"{spec.title} has no config file, so there is nothing for mmdet to build.")
    # Configs in mmengine's import style name classes of mmdet, whose modules import mmcv's operators.
    operators.install()
    lean.import_mmdet()
    with _lock, _without_pkg_resources():
        try:
            config = Config.fromfile(path)
            model = config.get("model")
        except BadModel as error:
            raise BadModel(f"{path}: {error}") from error
        except FileNotFoundError as error:
            raise BadModel(f"{path}: a base of it is missing ({_sentence(error)}).") from error
        except Exception as error:
            raise_as_theirs(error, imported_packages(error))
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            where = f"{path}, line {lines[-1]}," if lines else str(path)
            raise BadModel(f"{where} cannot be read as an mmdet config ({_sentence(error)}).") from error
    if not isinstance(model, dict) or "type" not in model:
        raise BadModel(f"{path} has no `model` with a `type`, so there is nothing to build.")
    if _family_of_type(model["type"], config) is None:
        raise cannot_run(path, _type_name(model["type"]))
    return config


def config_text(config: Config) -> str:
    """The resolved config as Python, as mmengine formats it: runs record its SHA-256.

    Formatting takes up to a second, half of the time of opening a tiny model. So each config is formatted once a
    process, and its text is kept in the cache folder for the next.
    """
    settings = repr(config._cfg_dict)
    if settings not in _texts:
        place = _place_of_text(settings)
        text = _kept_text(place)
        if text is None:
            text = _formatted(config)
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(place) as file:
                        file.write(_signed(text))
        _texts[settings] = text
    return _texts[settings]


def _formatted(config: Config) -> str:
    try:
        return str(config.pretty_text)
    except SyntaxError as error:
        # mmengine and its formatter take whatever stops them for bad syntax, Ctrl-C too.
        stopped: BaseException | None = error
        while stopped is not None and not isinstance(stopped, KeyboardInterrupt):
            stopped = stopped.__context__
        raise stopped or error from None


def _place_of_text(settings: str) -> Path | None:
    """Where the text of a config is kept, as these versions of mmengine and its formatter write it."""
    made_by = f"{mmengine.__version__} {yapf.__version__} {sys.version_info[:2]}"
    with contextlib.suppress(BadArgument):  # there is no folder for a cache
        return cache_dir() / "configs" / f"{hashlib.sha256(f'{made_by} {settings}'.encode()).hexdigest()}.txt"
    return None


def _kept_text(place: Path | None) -> str | None:
    """A text that was kept; None where there is none, or it is not what was written."""
    if place is None:
        return None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        content = place.read_bytes()
        text = content.partition(b"\n")[2].decode("utf-8")
        return text if content == _signed(text) else None
    return None


def _signed(text: str) -> bytes:
    """The SHA-256 of a text, a line end, and the text: no run may record the hash of a damaged one."""
    content = text.encode("utf-8")
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def build_model(config: Config, device: str | torch.device = "cpu") -> nn.Module:
    """The config's model in eval mode, its parameters as their layers initialize them; `config` is left as it is.

    Pretrained backbones are not fetched: a checkpoint replaces them. Instance results, of no use to PQ, are off.
    device: "meta" builds the structure alone, without memory for parameters.
    Raises BadModel when mmdet cannot build it.
    """
    operators.install()
    lean.import_mmdet()
    description = copy.deepcopy(config.model)
    lean.bring_language_models(description)
    _drop_pretrained(description)
    family = _family_of_type(description["type"], config)
    if family is not None:
        family.configure(description)
    with _lock, in_scope_of(config), torch.device(device), _LinspaceOnCpu(), warnings.catch_warnings():
        # Advice on losses, which are not computed here.
        warnings.filterwarnings("ignore", module=r"mmdet\.models\.losses")
        try:
            from mmdet.registry import MODELS

            model = MODELS.build(description)
        except Exception as error:
            raise_as_theirs(error, custom_packages(config))
            raise BadModel(f"{config.filename}: mmdet cannot build this model ({_sentence(error)}).") from error
    return cast(nn.Module, model.eval())


def family_of(model: nn.Module) -> Family:
    """The family of a built model. Raises BadModel for a model of none of them."""
    family = family_of_class(type(model))
    if family is None:
        raise BadModel(f"A {type(model).__name__} is none of {', '.join(family.name for family in FAMILIES)}.")
    return family


def describe_backbone(config: Config) -> str:
    """The backbone in the field's short form (R50, Swin-T; R18/16 has 16 channels in place of 64), else its class."""
    backbone = config.model.get("backbone", {})
    name = _type_name(backbone.get("type", "unknown"))
    if name == "ResNet":
        width = backbone.get("base_channels", 64)
        return f"R{backbone.get('depth', '?')}" + (f"/{width}" if width != 64 else "")
    if name == "SwinTransformer":
        depths = backbone.get("depths", (2, 2, 6, 2))
        return _SWIN.get(backbone.get("embed_dims", 96), {}).get(depths[2] if len(depths) > 2 else 0, "Swin")
    return name


@contextlib.contextmanager
def _without_pkg_resources() -> Iterator[None]:
    """mmengine finds packages through pkg_resources, which new versions of setuptools no longer have."""
    find_base, find_package = Config._get_cfg_path, mmengine_config.get_installed_path

    def base_path(base: str, filename: str) -> tuple[str, str | None]:
        if "::" not in base:
            return cast("tuple[str, str | None]", find_base(base, filename))
        package, _, relative = base.partition("::")
        folder = Path(_package_folder(package))
        # `.mim/configs` is how packages ship their configs; a checkout has them beside the package.
        for configs in (folder / ".mim" / "configs", folder.parent / "configs"):
            if (configs / relative).is_file():
                return str(configs / relative), package
        raise BadModel(f"{package} has no config {relative} (looked for below {folder / '.mim' / 'configs'}).")

    Config._get_cfg_path = staticmethod(base_path)
    mmengine_config.get_installed_path = _package_folder
    try:
        yield
    finally:
        Config._get_cfg_path = staticmethod(find_base)
        mmengine_config.get_installed_path = find_package


def _package_folder(package: str) -> str:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise BadModel(f"its base is in the package {package!r}, which is not installed.")
    return str(Path(found.origin).parent)


def _family_of_type(type_: Any, config: Config) -> Family | None:
    """The family of a model's `type`, a name or a class; of a user's own class, by what it inherits."""
    if isinstance(type_, str) and (family := family_of_detector(type_)) is not None:
        return family
    if isinstance(type_, str):
        with _lock, in_scope_of(config), contextlib.suppress(Exception):
            from mmdet.registry import MODELS

            type_ = MODELS.get(type_)
    return family_of_class(type_) if isinstance(type_, type) else None


@contextlib.contextmanager
def in_scope_of(config: Config) -> Iterator[None]:
    """Names in the config mean mmdet's classes, or those of the config's own `default_scope`, while this lasts."""
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        yield


class _LinspaceOnCpu(TorchFunctionMode):
    """Layers read values back from `linspace` while they are built, which has none on the meta device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.linspace:
            kwargs = {"device": "cpu", **(kwargs or {})}
        return function(*args, **(kwargs or {}))


def _drop_pretrained(description: Any) -> None:
    """Removes every wish for pretrained weights from a model's description, in place."""
    if isinstance(description, dict):
        for key in ("init_cfg", "pretrained"):
            wishes = description.get(key)
            for wish in wishes if isinstance(wishes, list | tuple) else [wishes]:
                if isinstance(wish, str) or (isinstance(wish, dict) and "checkpoint" in wish):
                    description[key] = None
        for value in description.values():
            _drop_pretrained(value)
    elif isinstance(description, list | tuple):
        for value in description:
            _drop_pretrained(value)


def _type_name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
