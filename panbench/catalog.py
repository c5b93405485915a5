"""Reads the catalog of models: a short config file for each, which is parsed and not run.

A config file defines `panbench`, a literal dict of weights, published numbers, family, and if needed the adapter that
runs it. Only that dict is read here, with `ast`. The rest of the file is for the adapter; for mmdet's models it is an
ordinary mmdet config (`_base_ = 'mmdet::…'`).
"""

import ast
import copy
import dataclasses
import difflib
import fnmatch
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel, Way
from panbench.base.extras import EXTRA_OF, require_models
from panbench.base.references import Register, is_reference
from panbench.base.text import in_sentence, listed

if TYPE_CHECKING:
    from panbench.panoptic.types import Category

MMDET = "panbench.models.mmdet.adapter:MmdetAdapter"
TRANSFORMERS = "panbench.models.transformers.adapter:TransformersAdapter"


FAMILIES: Mapping[str, str] = {
    "panoptic-fpn": MMDET,
    "maskformer": MMDET,
    "mask2former": MMDET,
    "psf": "panbench.models.panoptic_segformer:PanopticSegFormerAdapter",
    "mask-dino": "panbench.models.mask_dino:MaskDINOAdapter",
    "oneformer": TRANSFORMERS,
    "eomt": TRANSFORMERS,
    "detr": TRANSFORMERS,
}
"""The adapter of each built-in family, in the order of lists.

A config may name an adapter of its own (`"adapter": "package.module:Class"`), and then any family.
"""

YEARS: Mapping[str, int] = {
    "panoptic-fpn": 2019,
    "maskformer": 2021,
    "mask2former": 2022,
    "psf": 2022,
    "mask-dino": 2023,
    "oneformer": 2023,
    "eomt": 2025,
    "detr": 2020,
}
"""The year of each family's paper."""

RULES = Register(
    "panbench.rules",
    {
        "panoptic-fpn": "panbench.models.rules.panoptic_fpn:PanopticFPN",
        "combine": "panbench.models.rules.panoptic_fpn:Combine",
        "detr": "panbench.models.rules.detr:DETR",
        "maskformer": "panbench.models.rules.compete:MaskFormer",
        "mask2former": "panbench.models.rules.compete:Mask2Former",
        "mask-wise": "panbench.models.rules.mask_wise:MaskWise",
        "kmax": "panbench.models.rules.kmax:KMaX",
        "oneformer": "panbench.models.rules.compete:OneFormer",
        "maskdino": "panbench.models.rules.compete:MaskDINO",
        "eomt": "panbench.models.rules.compete:EoMT",
        "argmax": "panbench.models.rules.compete:PixelArgmax",
        "transformers": "panbench.models.rules.transformers:Transformers",
        "given": "panbench.models.rules.given:Given",
    },
)
"""The fusion rules by name. Importing one imports torch; reading names and `module:attr` does not."""

_MASKS = {"score": True, "overlap": True, "mask": True}
_BOXES = {**_MASKS, "stuff_area": False}
_TAKE_BOXES = ("panoptic-fpn", "combine")
MASKS_IN_WORDS, BOXES_IN_WORDS = "masks that compete (queries)", "boxes with masks and a semantic map"
THRESHOLDS: Mapping[str, Mapping[str, bool]] = {
    **dict.fromkeys(_TAKE_BOXES, _BOXES),
    **dict.fromkeys(("maskformer", "mask2former", "oneformer", "maskdino", "eomt"), _MASKS),
    "detr": {"score": True, "small": False},
    "mask-wise": {"quality": True, "overlap_things": True, "overlap_stuff": True, "mask": True},
    "kmax": {"things": True, "stuff": True, "pixel": True, "free": True},
    "argmax": {"score": True, "weighted": False},
    "transformers": {**_MASKS, "processor": False, "fuse_stuff": False},
    "given": {},
}
"""The thresholds of each rule, True for fractions; checked before PyTorch is loaded."""

_OTHER_NAMES = {
    **dict.fromkeys(("hf", "huggingface", "hugging-face"), "transformers"),
    **dict.fromkeys(("default", "own", "original"), "paper"),
}
"""Other common names of rules."""

PAPER = "paper"
"""The name of a model's default rule, that of its paper."""

RANDOM = "random"
"""The value of `--checkpoint` for random weights, those of an untrained model."""

WITHOUT_QUERIES = frozenset({"panoptic-fpn"})
"""The families whose networks have no queries."""


def rule_reference(text: str) -> str | None:
    """Returns the import path (`module:Class`) that a rule's text begins with; None for a name of RULES.

    `mask2formr:score` is a misspelt name: after a module without a dot, only a capitalised name counts as a class.
    """
    module, _, kind = text.strip().partition(":")
    kind = kind.partition(":")[0]
    reference = f"{module}:{kind}"
    return reference if is_reference(reference) and ("." in module or kind[0].isupper()) else None


def rule_name(text: str) -> str:
    """Returns the fusion rule's name in a value of `--rule`: `mask2former` for `mask2former:score=0.7`.

    It is a name in RULES, or `paper`. Raises BadArgument for an unknown name and suggests the nearest.
    """
    name = text.strip().partition(":")[0]
    key = name.strip().lower().replace("_", "-")
    if key != PAPER and key not in RULES:
        near = difflib.get_close_matches(_OTHER_NAMES.get(key, key), [*RULES, PAPER], n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Rules are {listed(RULES, most=len(RULES))}."
        raise BadArgument(f"There is no fusion rule {name!r}. {hint}")
    return key


def split_rules(text: str) -> list[str]:
    """Splits `--rule a,b` into rules; a part `name=value` alone is a threshold of the rule before it.

    Raises BadArgument for unknown names, and for wrong thresholds if that is known without loading rules and PyTorch.
    """
    rules: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if rules and "=" in part and ":" not in part:
            rules[-1] += f",{part}"
        else:
            rules.append(part)
    if not rules:
        raise BadArgument("--rule names no rule. Write for example --rule paper,argmax.")
    for rule in rules:
        if rule_reference(rule) is None:
            _check_rule_thresholds(rule_name(rule), rule.partition(":")[2])
    return list(dict.fromkeys(rules))


def _check_rule_thresholds(rule: str, assignments: str) -> None:
    """Raises BadArgument for thresholds that a built-in rule does not have, and for fractions outside their range."""
    known = THRESHOLDS.get(rule)
    for part in filter(str.strip, assignments.split(",") if known is not None else ()):
        name, _, value = (text.strip() for text in part.partition("="))
        is_fraction = (known or {}).get(name.replace("-", "_"))
        if is_fraction is None:
            raise unknown_threshold(rule, name, known or ())
        if is_fraction and value and not _is_fraction(value):
            raise BadArgument(f"The rule {rule}: {name} is {value!r} but must be a number from 0 to 1.")


def _is_fraction(value: str) -> bool:
    """True if a text is a number from 0 to 1."""
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False


def unknown_threshold(rule: str, name: str, known: Iterable[str]) -> BadArgument:
    """Returns the error for a threshold that a rule does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    names = listed(known, 9)
    hint = f"Did you mean {near[0]}?" if near else f"It has {names}." if names else "It has none."
    return BadArgument(f"The rule {rule} has no threshold {name!r}. {hint}")


def unfit_rule(rule: str, takes: str, title: str, gives: str, fitting: Iterable[str]) -> BadArgument:
    """Returns the error for a rule that cannot take what a model predicts, with the rules that can."""
    return BadArgument(
        f"The rule {rule} takes {takes}, and {title} gives {gives}. Rules that fit it: {', '.join(fitting)}."
    )


def no_queries(title: str) -> BadModel:
    """Returns the error for a model without queries, which has no attention to display."""
    return BadModel(
        f"{title} has no queries, so no attention to show. Models with queries have: MaskFormer, Mask2Former, "
        "OneFormer, EoMT, DETR and others."
    )


_PACKAGE = Path(__file__).resolve().parent
_CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".json")


@dataclasses.dataclass(frozen=True)
class Published:
    """The scores that a publication reports for a model's weights. Fractions 0–1; None where it reports none."""

    PQ: float
    dataset: str
    split: str
    source: str
    SQ: float | None = None
    RQ: float | None = None
    PQ_th: float | None = None
    SQ_th: float | None = None
    RQ_th: float | None = None
    PQ_st: float | None = None
    SQ_st: float | None = None
    RQ_st: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that a config file declares about a model.

    weights: a URL, an absolute path, or None. family, backbone, params, input_size and trained_on are None for a user's
    config that does not declare them; the first three are known once the model is built.
    config: None for a model that is a function of a Python module
    adapter: `package.module:name`, the class that runs the model's family, or the function that returns the model
    settings: values of the config that only its adapter reads
    license: the weights' licence according to license_source; None if no source was read
    system: model and backbone as published.csv names them; None if it has no row for this model
    """

    name: str
    title: str
    family: str | None = None
    backbone: str | None = None
    config: Path | None = None
    weights: str | None = None
    published: Published | None = None
    params: int | None = None
    input_size: str | None = None
    aliases: tuple[str, ...] = ()
    trained_on: str | None = None
    adapter: str = MMDET
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    license: str | None = None
    license_source: str | None = None
    system: str | None = None


def load_catalog(folder: str | os.PathLike[str] | None = None) -> dict[str, ModelSpec]:
    """Reads the config files in a folder to models by name, in order of family and size.

    folder: by default panbench's own, then the user's (`user_configs_folder`), whose config files need no `panbench`
        dict, then the models of installed packages (entry points of the group `panbench.models`)
    A model is named after its file; files whose name begins with `_` are bases for others. Raises BadModel for a file
    that lacks a key, has an unknown one, or uses a name or alias of another.
    """
    own = None if folder is not None else user_configs_folder()
    roots = [(Path(folder).resolve() if folder is not None else configs_folder(), True)]
    roots += [(own, False)] if own is not None else []
    catalog: dict[str, ModelSpec] = {}
    owners: dict[str, ModelSpec] = {}
    for root, required in roots:
        if not root.is_dir():
            raise BadModel(f"{root} is not a folder of config files.")
        suffixes = (".py",) if required else _CONFIG_SUFFIXES
        for path in sorted(path for path in root.iterdir() if path.suffix in suffixes):
            if path.name.startswith("_"):
                continue
            spec = _spec_of_entry(path, _read_config_entry(path) if path.suffix == ".py" else None, required=required)
            for name in (spec.name, *spec.aliases):
                if owner := owners.get(_normalized_model_name(name)):
                    raise BadModel(
                        f"{path}: {name!r} already names {owner.name}. Give each model its own name and aliases "
                        f"({owner.name} is {owner.config})."
                    )
                owners[_normalized_model_name(name)] = spec
            catalog[spec.name] = spec
    if folder is None:
        for spec in _specs_of_packages():
            # A package cannot replace a model that exists; `package.module:name` still reaches the package's own.
            if _normalized_model_name(spec.name) not in owners:
                catalog[spec.name] = spec
    return dict(sorted(catalog.items(), key=lambda item: _model_sort_key(item[1])))


def _specs_of_packages() -> Iterator[ModelSpec]:
    """Yields the models that installed packages declare in their metadata, without importing them."""
    for entry in importlib.metadata.entry_points(group="panbench.models"):
        if is_reference(entry.value) and re.fullmatch(r"[\w.-]+", entry.name):
            yield dataclasses.replace(spec_from_factory(entry.value), name=entry.name, title=entry.name)


def user_configs_folder() -> Path | None:
    """Returns the user's folder of config files: $PANBENCH_CONFIGS, else panbench/configs in the user's settings.

    None if the latter does not exist. Raises BadModel if PANBENCH_CONFIGS is not a folder.
    """
    if chosen := os.environ.get("PANBENCH_CONFIGS"):
        folder = Path(chosen).expanduser().resolve()
        if not folder.is_dir():
            raise BadModel(f"PANBENCH_CONFIGS is {folder}, which is not a folder of config files.")
        return folder
    home = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folder = Path(home) / "panbench" / "configs"
    return folder.resolve() if folder.is_dir() else None


def configs_folder() -> Path:
    """Returns the folder of config files that ships with panbench, in an installed package or a checkout."""
    # The package's own folder first: next to an installed package, `configs` may belong to any other.
    for folder in (_PACKAGE / "_configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise BadModel(f"No config files next to {_PACKAGE}: the installation is incomplete. Install panbench again.")


@functools.cache
def multiply_adds() -> Mapping[str, int]:
    """Returns the multiply-adds for a photograph of 480×640 pixels, by name of the models that ship with panbench.

    Counted by scripts/make/multiply_adds.py; Panoptic FPN's depend on the number of detections.
    """
    found: dict[str, int] = json.loads((configs_folder() / "_multiply_adds.json").read_text("utf-8"))
    return found


def refuse_unfit_rules(rules: Iterable[str], specs: Iterable[ModelSpec]) -> None:
    """Raises BadArgument if a built-in rule cannot take what a built-in family predicts, before PyTorch is loaded."""
    named = {name for rule in rules if rule_reference(rule) is None and (name := rule_name(rule)) in THRESHOLDS}
    for spec in specs:
        boxes = spec.family in WITHOUT_QUERIES
        fitting = [name for name in RULES if name in THRESHOLDS and name != "given" and (name in _TAKE_BOXES) == boxes]
        if spec.adapter == FAMILIES.get(spec.family or "") and (unfit := sorted(named.difference(fitting, ["given"]))):
            takes, gives = (MASKS_IN_WORDS, BOXES_IN_WORDS) if boxes else (BOXES_IN_WORDS, MASKS_IN_WORDS)
            raise unfit_rule(unfit[0], takes, spec.title, gives, fitting)


def is_shipped(spec: ModelSpec) -> bool:
    """True if a model ships with panbench, judged by the folder of its config."""
    return spec.config is not None and spec.config.parent.resolve() == configs_folder().resolve()


# A model's page on the hub: the URL that people copy.
_PAGE_OF_HUB = re.compile(r"(?:https?://)?huggingface\.co/([\w.-]+/[\w.-]+)/?(?:tree/[\w.-]+/?)?")


def find_model(name: str, catalog: Mapping[str, ModelSpec] | None = None) -> ModelSpec:
    """Finds a model by name or alias, ignoring capitals and `_` for `-`. Raises BadModel naming the nearest.

    `package.module:factory` names the function that returns the model when it is opened; `hf:owner/name[@revision]` a
    model of the Hugging Face hub; `./folder` a model saved by transformers.
    """
    if page := _PAGE_OF_HUB.fullmatch(name.strip()):
        name = f"hf:{page[1]}"
    if name.strip().startswith("hf:"):
        _refuse_unusable_repository(name.strip().removeprefix("hf:"))
        return _add_catalog_entry(spec_from_repository(name), load_catalog() if catalog is None else catalog)
    if _is_model_folder(name.strip()):
        return spec_from_folder(name.strip())
    if is_reference(name.strip()):
        return spec_from_factory(name.strip())
    catalog = load_catalog() if catalog is None else catalog
    by_name = {_normalized_model_name(key): spec for spec in catalog.values() for key in (spec.name, *spec.aliases)}
    normalized = _normalized_model_name(name)
    if normalized in by_name:
        return by_name[normalized]
    if normalized.endswith(_CONFIG_SUFFIXES):
        raise BadModel(f"{name!r} is a config file, not the name of a model. Pass it as --config {name}.")
    owner, dashes, rest = name.strip().partition("--")
    if dashes and hub.is_in_cache(hub.Repository(f"{owner}/{rest}")):
        # The name under which its runs are stored.
        return spec_from_repository(f"hf:{owner}/{rest}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name.strip()):
        raise BadModel(_hub_prefix_hint(name.strip(), catalog))
    if (Path(name.strip()) / hub.CONFIG).is_file():
        raise BadModel(f"There is no model {name!r}. The folder of this name is meant by --model ./{name.strip()}.")
    near = difflib.get_close_matches(normalized, by_name, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BadModel(f"There is no model {name!r}.{hint} `panbench models` lists all {len(catalog)}.")


def _refuse_unusable_repository(address: str) -> None:
    """Raises BadModel if `hf:` precedes a folder, or a repository of EoMT without complete weights.

    `owner/name` is a repository, even if such a folder exists.
    """
    if re.match(r"tue-mps/\w*eomt_\w+_dinov3\b", address):
        raise BadModel(
            f"{address} holds only differences to the gated weights of DINOv3. The whole models are "
            "tue-mps/eomt-dinov3-coco-panoptic-…: --model eomt-dinov3-l-640, for example."
        )
    is_path = address.startswith(("./", "../", "/", "~")) or address in (".", "..")
    if is_path or (address.count("/") != 1 and Path(address).is_dir()):
        folder = address if is_path else f"./{address}"
        raise BadModel(
            f"hf: is for repositories of the Hugging Face hub; a folder needs no prefix. Write --model {folder}."
        )


def _add_catalog_entry(spec: ModelSpec, catalog: Mapping[str, ModelSpec]) -> ModelSpec:
    """Returns a hub model, completed by the settings of the catalog's model from the same repository."""
    name = spec.settings["repository"]
    for other in catalog.values():
        if (found := repository_of(other)) and found.name == name:
            settings = {**other.settings, **spec.settings}
            return dataclasses.replace(spec, trained_on=other.trained_on, settings=settings)
    return spec


def _hub_prefix_hint(name: str, catalog: Mapping[str, ModelSpec]) -> str:
    """Explains that `owner/name` needs the prefix `hf:` to name a repository of the hub."""
    known = [spec.name for spec in catalog.values() if (found := repository_of(spec)) and found.name == name]
    ways = [*(f"--model {spec}" for spec in known), f"--model hf:{name}"]
    return f"{name!r} is not a folder here; a repository of the Hugging Face hub is named {' or '.join(ways)}."


def resolve_models(names: Sequence[str]) -> list[ModelSpec]:
    """Finds the models of some names, each perhaps a comma-separated list; in order, without repeats.

    `all` stands for the complete catalog, and a name with `*`, `?` or `[` for the models that match it.
    """
    catalog, single_names = load_catalog(), split_names(names)
    if not single_names:
        raise BadArgument("No model is named. `panbench models` lists all models.")
    found: list[ModelSpec] = []
    for name in single_names:
        if not is_pattern(name):
            found.append(find_model(name, catalog))
            continue
        pattern = "*" if name == "all" else _normalized_model_name(name)
        fitting = [spec for spec in catalog.values() if fnmatch.fnmatchcase(_normalized_model_name(spec.name), pattern)]
        if not fitting:
            raise BadModel(f"No model is named like {name!r}. `panbench models` lists all {len(catalog)}.")
        found.extend(fitting)
    return list(dict.fromkeys(found))


def split_names(names: Sequence[str]) -> list[str]:
    """Splits `--model a,b --model c` into single names."""
    return [name.strip() for several in names for name in several.split(",") if name.strip()]


def is_pattern(name: str) -> bool:
    """True if a name of `--model` may match several models."""
    return name == "all" or any(sign in name for sign in "*?[")


def choose_models(
    names: Sequence[str],
    config: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    labels: str | None = None,
) -> list[ModelSpec]:
    """Finds the models that a command's `--model`, `--config` and `--checkpoint` name.

    checkpoint: the weights for `config` or for the one named model, or random (`random_seed`)
    labels: as in `with_labels`
    Raises BadArgument if nothing is named, or a checkpoint and several models; BadModel for unknown names.
    """
    require_models()
    # pathlib.Path shortens "https://" to one slash.
    if checkpoint is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(checkpoint)):
        raise BadArgument(
            "--checkpoint takes a file on this machine, not a URL. Download the weights and give their path, or name "
            "the URL as `weights` in a config."
        )
    if not split_names(names) and config is None:
        raise BadArgument("Name a --model (`panbench models` lists them), or your own --config with its --checkpoint.")
    specs = resolve_models(names) if split_names(names) else []
    file = None if random_seed(checkpoint) is not None else checkpoint
    if config is not None:
        specs.append(spec_from_config(config, file))
    elif file is not None:
        if len(specs) > 1:
            raise BadArgument("--checkpoint fits one model. Name one --model, or use --config.")
        specs = [with_weights(specs[0], file)]
    return specs if labels is None else [with_labels(spec, labels) for spec in specs]


def choose_model(
    name: str | None,
    config: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    labels: str | None = None,
) -> ModelSpec:
    """Finds the model of a command that takes only one. Arguments and errors as in `choose_models`."""
    specs = choose_models([name] if name else [], config, checkpoint, labels)
    if len(specs) > 1:
        raise BadArgument(
            f"This command takes one model, not {len(specs)}: {in_sentence(spec.name for spec in specs)}."
        )
    return specs[0]


def download_size(spec: ModelSpec) -> int | None:
    """Estimates the size of a model's weights in bytes; None where the config does not declare their parameters."""
    # The model zoos' checkpoints hold float32 weights and little else.
    return None if spec.params is None else 4 * spec.params


def spec_from_config(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> ModelSpec:
    """Describes the model of a user's config file, named after the file; what it does not declare is None.

    path: any mmdet config (.py, .yaml, .yml, .json); a `panbench` dict in it is used as it is
    weights: a URL or a path relative to the current folder; it replaces the config's
    """
    config = Path(path).expanduser().resolve()
    if not config.is_file():
        raise BadModel(f"There is no config file {config}.")
    if config.suffix not in _CONFIG_SUFFIXES:
        raise BadModel(f"{config} is not a config file: mmdet's are {', '.join(_CONFIG_SUFFIXES)}.")
    spec = _spec_of_entry(config, _read_config_entry(config) if config.suffix == ".py" else None, required=False)
    return spec if weights is None else with_weights(spec, weights)


def spec_from_factory(factory: str) -> ModelSpec:
    """Describes the model that the function `package.module:factory` returns, without importing it."""
    # Run folders are named after their model, and some systems allow no colon in a folder's name.
    return ModelSpec(factory.replace(":", "."), title=factory, adapter=factory)


def spec_from_repository(address: str) -> ModelSpec:
    """Describes the model of `hf:owner/name[@revision]`, without network access. Raises BadArgument."""
    repository = hub.parse_repository(address)
    # Run folders are named after their model, and a slash would make two folders.
    name = repository.name.replace("/", "--")
    settings = {"repository": repository.name, "revision": repository.revision}
    return ModelSpec(name, title=repository.name, adapter=TRANSFORMERS, settings=settings)


def spec_from_folder(path: str | os.PathLike[str]) -> ModelSpec:
    """Describes the model in a folder that transformers saved: config.json and weights. Raises BadModel."""
    folder = Path(path).expanduser().resolve()
    if not (folder / hub.CONFIG).is_file():
        raise BadModel(
            f"{folder} has no {hub.CONFIG}: a folder is a model when transformers saved one there (save_pretrained)."
            if folder.is_dir()
            else f"There is no folder {folder}."
        )
    file = hub.find_weights(folder)
    weights = None if file is None else str(file)
    settings = {"folder": str(folder)}
    return ModelSpec(folder.name, title=folder.name, weights=weights, adapter=TRANSFORMERS, settings=settings)


def with_labels(spec: ModelSpec, labels: str) -> ModelSpec:
    """Copies a model with `--labels`, the meaning of its labels: the name of a dataset, or a JSON file of categories.

    For models of transformers, whose files may not declare it. Raises BadArgument for others.
    """
    if spec.adapter != TRANSFORMERS:
        raise BadArgument(f"--labels: {spec.title} declares what its labels mean. Leave --labels out.")
    file = Path(labels).expanduser()
    return dataclasses.replace(
        spec, settings={**spec.settings, "labels": str(file.resolve()) if file.is_file() else labels}
    )


def with_categories(spec: ModelSpec, categories: "Iterable[Category]") -> ModelSpec:
    """Copies a model with its dataset's categories, as the files of transformers do not say which are things.

    The adapter uses them if neither --labels nor the names themselves determine which of the model's labels are things.
    """
    isthing = {category.name: category.isthing for category in categories}
    if spec.adapter != TRANSFORMERS or not isthing:
        return spec
    return dataclasses.replace(spec, settings={**spec.settings, "dataset_isthing": isthing})


def extra_missing(spec: ModelSpec) -> str | None:
    """Returns the extra that this model needs and that is not installed: "models" or "transformers"; else None."""
    needed = ("torch", "transformers", "huggingface_hub") if spec.adapter == TRANSFORMERS else ("torch", "mmdet", "cv2")
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    return None if not lacking else "transformers" if spec.adapter == TRANSFORMERS else EXTRA_OF[lacking[0]]


def repository_of(spec: ModelSpec) -> hub.Repository | None:
    """Returns the hub repository that a model comes from; None for models from elsewhere."""
    name = spec.settings.get("repository")
    if name is None:
        return None
    return hub.Repository(str(name), str(spec.settings.get("revision") or hub.DEFAULT_REVISION))


def origin(spec: ModelSpec) -> str:
    """Returns the source of the weights: mmdet, hub, fbai (their authors), git (a GitHub release), ours, pip or own."""
    if repository_of(spec) is not None:
        return "hub"
    if spec.config is None:
        return "own" if "folder" in spec.settings else "pip"
    if spec.config.parent != configs_folder():
        return "own"
    weights = spec.weights or ""
    if "openmmlab" in weights:
        return "mmdet"
    if "fbaipublicfiles" in weights:
        return "fbai"
    return "git" if "://github.com/" in weights else "ours"


def twins_of(spec: ModelSpec) -> list[ModelSpec]:
    """Lists the models with the same network and weights from other sources: first the authors', then Hugging Face's.

    The weights were trained separately, so their scores differ.
    """
    own = _bare_name(spec.name)
    found = [other for other in load_catalog().values() if _bare_name(other.name) == own and other.name != spec.name]
    return sorted(found, key=lambda other: (not other.name.endswith("-authors"), "-hf-" not in other.name))


def _bare_name(name: str) -> str:
    """Removes from a model's name what marks the source of its weights."""
    return name.removesuffix("-authors").replace("-hf-", "-")


def address_of(spec: ModelSpec) -> str:
    """Returns the value of `--model` for this model: its name, or `hf:owner/name` if it is not in the catalog."""
    repository = repository_of(spec)
    return str(repository) if repository is not None and spec.config is None else spec.name


def with_weights(spec: ModelSpec, weights: str | os.PathLike[str]) -> ModelSpec:
    """Copies a model with other weights: a URL, or a path relative to the current folder.

    The published numbers, the licence and `trained_on` are kept only if the new file has the name of the replaced one:
    they are claims about those weights.
    """
    given = os.fspath(weights)
    resolved = given if _is_weights_url(given) else str(Path(given).expanduser().resolve())
    if spec.weights is not None and file_name(spec.weights) == file_name(resolved):
        return dataclasses.replace(spec, weights=resolved)
    return dataclasses.replace(
        spec, weights=resolved, published=None, trained_on=None, license=None, license_source=None, system=None
    )


def random_seed(checkpoint: str | os.PathLike[str] | None) -> int | None:
    """Returns the seed of `--checkpoint random:SEED`, 0 for `random`; None for a file.

    Raises BadArgument for a seed that is not an integer.
    """
    kind, colon, seed = ("" if checkpoint is None else os.fspath(checkpoint)).partition(":")
    if kind != RANDOM:
        return None
    if colon and not (seed.isascii() and seed.isdigit()):
        raise BadArgument(f"--checkpoint {checkpoint}: the seed {seed!r} is not a whole number. Write random:0.")
    return int(seed or 0)


def check_checkpoint(checkpoint: str | os.PathLike[str] | None) -> None:
    """Raises BadArgument if `--checkpoint` names a file that does not exist, or a wrong seed of random weights."""
    if checkpoint is None or random_seed(checkpoint) is not None:
        return
    if not Path(checkpoint).expanduser().exists():
        raise BadArgument(f"--checkpoint {checkpoint}: no such file. Give a path, or random for untrained weights.")


OTHER_WEIGHTS = (
    Way("give a file with --checkpoint FILE", "--checkpoint"),
    Way("run the model untrained with --checkpoint random", "--checkpoint"),
)
"""Hints for errors about missing weights."""


def refuse_folder_without_weights(spec: ModelSpec) -> None:
    """Raises BadCheckpoint for a folder of transformers that has a config.json but no weights."""
    if "folder" in spec.settings and spec.weights is None:
        raise BadCheckpoint(
            f"{spec.settings['folder']} has no weights: neither {' nor '.join(hub.WEIGHTS_NAMES)}. Save them there "
            "(save_pretrained), or copy them from where config.json is from.",
            ways=OTHER_WEIGHTS,
        )


def weights_named(checkpoint: str | os.PathLike[str] | None) -> str:
    """Returns "random" if `--checkpoint` asks for random weights, else "auto".

    As `open_model` takes for `weights`.
    """
    return "auto" if random_seed(checkpoint) is None else RANDOM


def _is_model_folder(name: str) -> bool:
    """True if a name of `--model` means a folder."""
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return not name.endswith(_CONFIG_SUFFIXES)
    return ("/" in name or "\\" in name) and Path(name).is_dir()


def _read_config_entry(path: Path) -> dict[str, Any] | None:
    """Reads the `panbench` dict of a config file without running it; None if there is none."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"{path} cannot be read as a config file: {error}.") from error
    return copy.deepcopy(_parse_config_entry(text, path))


@functools.lru_cache(maxsize=256)
def _parse_config_entry(text: str, path: Path) -> dict[str, Any] | None:
    """Parses the `panbench` dict in the text of a config file; cached, as programs load the catalog often."""
    try:
        module = parse_config(text)
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise BadModel(f"{path} is not a Python config file ({where}).") from error
    for statement in module.body:
        if isinstance(statement, ast.Assign) and _assigns(statement, "panbench"):
            try:
                entry = ast.literal_eval(_ConfigDictCalls().visit(statement.value))
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise BadModel(
                    f"{path}, line {statement.lineno}: `panbench` must be a dict of plain values; it is read without "
                    "running the file."
                )
            return entry
    return None


def parse_config(text: str) -> ast.Module:
    """Parses a Python config file into its syntax tree. Raises SyntaxError or ValueError."""
    try:
        return ast.parse(text)
    except SyntaxError:
        # mmengine replaces {{…}} before it parses a file as Python, so the text inside need not be valid Python.
        filled, count = re.subn(r"\{\{[^{}]*\}\}", "None", text)
        if not count:
            raise
        return ast.parse(filled)


def _assigns(statement: ast.Assign, name: str) -> bool:
    """True if an assignment's target is the variable `name`."""
    return any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)


class _ConfigDictCalls(ast.NodeTransformer):
    """Turns `dict(a=1)`, as mmdet's configs write it, into `{'a': 1}`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Called for each function call: replaces `dict(…)` by a literal."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            keys: list[ast.expr | None] = [ast.Constant(word.arg) if word.arg else None for word in node.keywords]
            return ast.Dict(keys=keys, values=[word.value for word in node.keywords])
        return node


_NUMBER = (int, float)
_KEY_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "family": (str,),
    "backbone": (str,),
    "weights": (str, type(None)),
    "published": (dict, type(None)),
    "params": (int, type(None)),
    "input_size": (str,),
    "trained_on": (str,),
    "aliases": (list, tuple),
    "adapter": (str,),
    "settings": (dict,),
    "license": (str,),
    "license_source": (str,),
    "system": (str,),
}
_OPTIONAL = ("aliases", "adapter", "settings", "license", "license_source", "system")
_REQUIRED = [key for key in _KEY_TYPES if key not in _OPTIONAL]
_PUBLISHED_TYPES: dict[str, tuple[type, ...]] = {
    field.name: (str,) if field.name in ("dataset", "split", "source") else _NUMBER
    for field in dataclasses.fields(Published)
}
_PUBLISHED_REQUIRED = ["PQ", "dataset", "split", "source"]


def _spec_of_entry(path: Path, entry: dict[str, Any] | None, *, required: bool) -> ModelSpec:
    """Makes the spec of a config file and its `panbench` dict. required: whether the dict must be complete"""
    if entry is None and required:
        raise BadModel(f"{path} has no `panbench` dict, so it names no model. Its keys are {', '.join(_REQUIRED)}.")
    entry = entry or {}
    _check_entry_keys(entry, _KEY_TYPES, _REQUIRED if required else [], f"{path}: `panbench`")
    family, adapter = entry.get("family"), entry.get("adapter")
    if adapter is not None and not is_reference(adapter):
        raise BadModel(f"{path}: the adapter is {adapter!r} but must be written package.module:Class.")
    if adapter is None and family is not None and family not in FAMILIES:
        raise BadModel(f"{path}: the family is {family!r} but panbench knows {in_sentence(FAMILIES)}.")
    weights = entry.get("weights")
    if weights is not None and not _is_weights_url(weights):
        weights = str((path.parent / Path(weights).expanduser()).resolve())
    declared = {
        "title": path.stem,
        **entry,
        "weights": weights,
        "published": _parse_published(entry.get("published"), path),
        "params": entry.get("params") or None,
        "aliases": tuple(entry.get("aliases", ())),
        "adapter": adapter or FAMILIES.get(family or "", MMDET),
    }
    return ModelSpec(name=path.stem, config=path, **declared)


def _parse_published(entry: dict[str, Any] | None, path: Path) -> Published | None:
    """Parses the entry `published` of a `panbench` dict. Raises BadModel for wrong keys or values."""
    if entry is None:
        return None
    where = f"{path}: `published`"
    _check_entry_keys(entry, _PUBLISHED_TYPES, _PUBLISHED_REQUIRED, where)
    for key, value in entry.items():
        if isinstance(value, _NUMBER) and not 0 <= value <= 1:
            raise BadModel(f"{where}: {key} is {value} but fractions are meant. Write 0.52 for 52.0 %.")
    return Published(**entry)


def _check_entry_keys(
    entry: dict[Any, Any], kinds: Mapping[str, tuple[type, ...]], required: Iterable[str], where: str
) -> None:
    """Raises BadModel for unknown keys, values of a wrong type, and missing keys."""
    for key, value in entry.items():
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys are {', '.join(kinds)}."
            raise BadModel(f"{where} has an unknown key {key!r}. {hint}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            normalized = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds[key])
            raise BadModel(f"{where}: {key} is {value!r} but must be {normalized}.")
    if missing := [key for key in required if key not in entry]:
        raise BadModel(f"{where} lacks {in_sentence(missing)}.")


def _is_weights_url(text: str) -> bool:
    return "://" in text


def file_name(weights: str) -> str:
    """Returns the file name at the end of a path or URL of weights."""
    return re.split(r"[/\\]", weights.split("?")[0] if _is_weights_url(weights) else weights)[-1]


def _model_sort_key(spec: ModelSpec) -> tuple[int, int, str]:
    """Returns the key that sorts models by family, size and name."""
    order = list(FAMILIES)
    reference = order.index(spec.family) if spec.family is not None and spec.family in FAMILIES else len(order)
    return reference, spec.params or 0, spec.name


def _normalized_model_name(name: str) -> str:
    """Spells a model's name in lower case and with hyphens, for look-ups."""
    return name.strip().lower().replace("_", "-")
