"""The models that can be named: one short config file each, read without running it.

A config file has a name `panbench`: a literal dict of weights, published numbers, family, and where needed the adapter
that runs it. Only that dict is read here, with `ast`. The rest of the file is for the adapter; for mmdet's models it is
an ordinary mmdet config (`_base_ = 'mmdet::…'`).
"""

import ast
import copy
import dataclasses
import difflib
import fnmatch
import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel, Way
from panbench.base.extras import EXTRA_OF, require_models
from panbench.base.places import Register, is_place
from panbench.base.text import listed

if TYPE_CHECKING:
    from panbench.panoptic.types import Category

MMDET = "panbench.models.mmdet.adapter:MmdetAdapter"
TRANSFORMERS = "panbench.models.transformers.adapter:TransformersAdapter"


FAMILIES: Mapping[str, str] = {
    "panoptic-fpn": MMDET,
    "maskformer": MMDET,
    "mask2former": MMDET,
    "psf": "panbench.models.panoptic_segformer.adapter:PanopticSegFormerAdapter",
    "mask-dino": "panbench.models.mask_dino.adapter:MaskDINOAdapter",
    "oneformer": TRANSFORMERS,
    "eomt": TRANSFORMERS,
    "detr": TRANSFORMERS,
}
"""The families that panbench brings, in the order in which lists show them, and the adapter that runs each.

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
        "combine": "panbench.models.rules.combine:Combine",
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
"""The fusion rules by name. Importing one imports torch; their names and places do not."""

_OTHER_NAMES = {
    **dict.fromkeys(("hf", "huggingface", "hugging-face"), "transformers"),
    **dict.fromkeys(("default", "own", "original"), "paper"),
}
"""What people call rules otherwise."""

PAPER = "paper"
"""Stands for the default rule of a model, its paper's."""

RANDOM = "random"
"""What `--checkpoint` takes in place of a file: weights that are drawn, of an untrained model."""

WITHOUT_QUERIES = frozenset({"panoptic-fpn"})
"""The families whose networks have no queries."""


def rule_place(text: str) -> str | None:
    """The place that a rule's text begins with, `package.module:Class` or `module:Class`; None for a name of RULES.

    `mask2formr:score` is a misspelt name: only a class, which has a capital, is looked for in a module without a dot.
    """
    module, _, kind = text.strip().partition(":")
    kind = kind.partition(":")[0]
    place = f"{module}:{kind}"
    return place if is_place(place) and ("." in module or kind[0].isupper()) else None


def rule_name(text: str) -> str:
    """The name in RULES that a text such as `mask2former:score=0.7` begins with, or `paper`.

    Raises BadArgument for an unknown name, with the nearest.
    """
    name = text.strip().partition(":")[0]
    key = name.strip().lower().replace("_", "-")
    if key != PAPER and key not in RULES:
        near = difflib.get_close_matches(_OTHER_NAMES.get(key, key), [*RULES, PAPER], n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Rules are {listed(RULES, most=len(RULES))}."
        raise BadArgument(f"There is no fusion rule {name!r}. {hint}")
    return key


def split_rules(text: str) -> list[str]:
    """The single rules of `--rule`; what has a value and names no rule is one more threshold of the rule before it.

    Raises BadArgument for unknown names; thresholds are checked with the rules, which need PyTorch.
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
        if rule_place(rule) is None:
            rule_name(rule)
    return list(dict.fromkeys(rules))


def no_queries(title: str) -> BadModel:
    """The error for a model that has no attention to show."""
    return BadModel(
        f"{title} has no queries, so no attention to show. Models with queries have: MaskFormer, Mask2Former, "
        "OneFormer, EoMT, DETR and others."
    )


_PACKAGE = Path(__file__).resolve().parent
_CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".json")


@dataclasses.dataclass(frozen=True)
class Published:
    """What a publication reports for these weights. Fractions 0–1; None where it does not say."""

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
    """Everything that a config file says of a model.

    weights: a URL, an absolute path, or None. family, backbone, params, input_size and trained_on are None for a user's
    config that does not say; building the model tells the first three.
    config: None for a model that is a function of a Python module
    adapter: `package.module:name`, the class that runs the model's family, or the function that returns the model
    settings: what the config says to its adapter alone
    license: of the weights, as license_source states it; None where no source was read
    system: model and backbone as published.csv names them; None where it has no row of this model
    """

    name: str
    title: str
    family: str | None
    backbone: str | None
    config: Path | None
    weights: str | None
    published: Published | None
    params: int | None
    input_size: str | None
    aliases: tuple[str, ...]
    trained_on: str | None
    adapter: str = MMDET
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    license: str | None = None
    license_source: str | None = None
    system: str | None = None


def load_catalog(folder: str | os.PathLike[str] | None = None) -> dict[str, ModelSpec]:
    """The models of a folder of config files by name, in order of family and size.

    folder: by default that of panbench and then the user's own (`user_configs_folder`), whose config files need no
        `panbench` dict; and what installed packages bring (entry points of the group `panbench.models`)
    A model's name is its file's; files whose name begins with `_` are bases for others. Raises BadModel for a file that
    lacks a key, has an unknown one, or claims a name or alias that another has.
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
            spec = _spec(path, _read_entry(path) if path.suffix == ".py" else None, required=required)
            for name in (spec.name, *spec.aliases):
                if owner := owners.get(_normalized(name)):
                    raise BadModel(
                        f"{path}: {name!r} already names {owner.name}. Give each model its own name and aliases "
                        f"({owner.name} is {owner.config})."
                    )
                owners[_normalized(name)] = spec
            catalog[spec.name] = spec
    if folder is None:
        for spec in _of_installed_packages():
            # A package cannot take a name away from a model that is here; `package.module:name` still reaches its own.
            if _normalized(spec.name) not in owners:
                catalog[spec.name] = spec
    return dict(sorted(catalog.items(), key=lambda item: _reading_order(item[1])))


def _of_installed_packages() -> Iterator[ModelSpec]:
    """The models that packages declare in their metadata; nothing of theirs is imported."""
    for entry in importlib.metadata.entry_points(group="panbench.models"):
        if is_place(entry.value) and re.fullmatch(r"[\w.-]+", entry.name):
            yield dataclasses.replace(spec_from_factory(entry.value), name=entry.name, title=entry.name)


def user_configs_folder() -> Path | None:
    """The folder of the user's own config files: $PANBENCH_CONFIGS, else panbench/configs in the user's settings.

    None where the latter does not exist. Raises BadModel when PANBENCH_CONFIGS is not a folder.
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
    """The folder of the config files that come with panbench, in an installed package or a checkout."""
    # The package's own folder first: beside an installed package, `configs` may be anybody's.
    for folder in (_PACKAGE / "_configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise BadModel(f"No config files beside {_PACKAGE}: the installation is incomplete. Install panbench again.")


def is_shipped(spec: ModelSpec) -> bool:
    """Whether a model comes with panbench, by the place of its config."""
    return spec.config is not None and spec.config.parent.resolve() == configs_folder().resolve()


# The page of a model: the address that people copy.
_PAGE_OF_HUB = re.compile(r"(?:https?://)?huggingface\.co/([\w.-]+/[\w.-]+)/?(?:tree/[\w.-]+/?)?")


def find_model(name: str, catalog: Mapping[str, ModelSpec] | None = None) -> ModelSpec:
    """The model of this name or alias; capitals and `_` for `-` do not matter. Raises BadModel naming the nearest.

    `package.module:factory` is the model that this function returns, when it is opened; `hf:owner/name[@revision]` is
    one of the Hugging Face hub, `./folder` one that transformers saved.
    """
    if page := _PAGE_OF_HUB.fullmatch(name.strip()):
        name = f"hf:{page[1]}"
    if name.strip().startswith("hf:"):
        _refuse_as_repository(name.strip().removeprefix("hf:"))
        return _as_in_catalog(spec_from_repository(name), load_catalog() if catalog is None else catalog)
    if _names_a_folder(name.strip()):
        return spec_from_folder(name.strip())
    if is_place(name.strip()):
        return spec_from_factory(name.strip())
    catalog = load_catalog() if catalog is None else catalog
    by_name = {_normalized(key): spec for spec in catalog.values() for key in (spec.name, *spec.aliases)}
    wanted = _normalized(name)
    if wanted in by_name:
        return by_name[wanted]
    if wanted.endswith(_CONFIG_SUFFIXES):
        raise BadModel(f"{name!r} is a config file, not the name of a model. Pass it as --config {name}.")
    owner, dashes, rest = name.strip().partition("--")
    if dashes and hub.is_known(hub.Repository(f"{owner}/{rest}")):
        # The name that its runs have.
        return spec_from_repository(f"hf:{owner}/{rest}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name.strip()):
        raise BadModel(_of_the_hub(name.strip(), catalog))
    if (Path(name.strip()) / hub.CONFIG).is_file():
        raise BadModel(f"There is no model {name!r}. The folder of this name is meant by --model ./{name.strip()}.")
    near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BadModel(f"There is no model {name!r}.{hint} `panbench models` lists all {len(catalog)}.")


def _refuse_as_repository(address: str) -> None:
    """Raises BadModel for a folder behind `hf:`, and for EoMT's repositories that hold no whole weights.

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
            f"hf: stands before a repository of the Hugging Face hub; a folder needs no hf:. Write --model {folder}."
        )


def _as_in_catalog(spec: ModelSpec, catalog: Mapping[str, ModelSpec]) -> ModelSpec:
    """A repository's model with the training data, labels, sizes and rule of the catalog's model of that repository."""
    name = spec.settings["repository"]
    for other in catalog.values():
        if (found := repository_of(other)) and found.name == name:
            settings = {**other.settings, **spec.settings}
            return dataclasses.replace(spec, trained_on=other.trained_on, settings=settings)
    return spec


def _of_the_hub(name: str, catalog: Mapping[str, ModelSpec]) -> str:
    """The sentences on `owner/name`, which lacks the hf: of a repository of the hub."""
    known = [spec.name for spec in catalog.values() if (found := repository_of(spec)) and found.name == name]
    ways = [*(f"--model {spec}" for spec in known), f"--model hf:{name}"]
    return f"{name!r} is no folder here; a repository of the Hugging Face hub is named {' or '.join(ways)}."


def resolve_models(names: Sequence[str], catalog: Mapping[str, ModelSpec] | None = None) -> list[ModelSpec]:
    """The models of these names, each of which may be several, comma-separated; in order, each once.

    `all` stands for the whole catalog, and a name with `*`, `?` or `[` for the models that it fits.
    """
    catalog = load_catalog() if catalog is None else catalog
    wanted = split_names(names)
    if not wanted:
        raise BadArgument("No model is named. `panbench models` lists those there are.")
    found: list[ModelSpec] = []
    for name in wanted:
        if not is_pattern(name):
            found.append(find_model(name, catalog))
            continue
        pattern = "*" if name == "all" else _normalized(name)
        fitting = [spec for spec in catalog.values() if fnmatch.fnmatchcase(_normalized(spec.name), pattern)]
        if not fitting:
            raise BadModel(f"No model is named like {name!r}. `panbench models` lists all {len(catalog)}.")
        found.extend(fitting)
    return list(dict.fromkeys(found))


def split_names(names: Sequence[str]) -> list[str]:
    """The single names of `--model a,b --model c`."""
    return [name.strip() for several in names for name in several.split(",") if name.strip()]


def is_pattern(name: str) -> bool:
    """Whether a name of `--model` stands for several models."""
    return name == "all" or any(sign in name for sign in "*?[")


def choose_models(
    names: Sequence[str],
    config: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    things: str | os.PathLike[str] | None = None,
) -> list[ModelSpec]:
    """The models that `--model`, `--config` and `--checkpoint` name, in every command that takes them.

    checkpoint: the weights of `config`, or of the one model that is named, or random (`random_seed`)
    things: as of `with_things`
    Raises BadArgument when nothing is named, or a checkpoint and several models; BadModel for unknown names.
    """
    require_models()
    # As a Path, "https://" has one slash left.
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
    return specs if things is None else [with_things(spec, things) for spec in specs]


def choose_model(
    name: str | None,
    config: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    things: str | os.PathLike[str] | None = None,
) -> ModelSpec:
    """The one model of a command that takes one; arguments and errors as of `choose_models`."""
    specs = choose_models([name] if name else [], config, checkpoint, things)
    if len(specs) > 1:
        raise BadArgument(f"This command takes one model, not {len(specs)}: {_listed(spec.name for spec in specs)}.")
    return specs[0]


def download_size(spec: ModelSpec) -> int | None:
    """About how many bytes a model's weights have; None where the config does not tell."""
    # The model zoos' checkpoints hold float32 weights and little else.
    return None if spec.params is None else 4 * spec.params


def spec_from_config(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> ModelSpec:
    """A user's own config file as a model named after the file; what it does not say is None.

    path: any mmdet config (.py, .yaml, .yml, .json); one with a `panbench` dict is taken at its word.
    weights: a URL or a path, relative to the current folder; it takes the place of the config's.
    """
    config = Path(path).expanduser().resolve()
    if not config.is_file():
        raise BadModel(f"There is no config file {config}.")
    if config.suffix not in _CONFIG_SUFFIXES:
        raise BadModel(f"{config} is not a config file: mmdet's are {', '.join(_CONFIG_SUFFIXES)}.")
    spec = _spec(config, _read_entry(config) if config.suffix == ".py" else None, required=False)
    return spec if weights is None else with_weights(spec, weights)


def spec_from_factory(factory: str) -> ModelSpec:
    """The model that a function of a Python module returns, `package.module:factory`; nothing is imported yet."""
    return ModelSpec(
        # A colon cannot be part of a folder's name everywhere, and runs lie in folders named after their model.
        name=factory.replace(":", "."),
        title=factory,
        family=None,
        backbone=None,
        config=None,
        weights=None,
        published=None,
        params=None,
        input_size=None,
        aliases=(),
        trained_on=None,
        adapter=factory,
    )


def spec_from_repository(address: str) -> ModelSpec:
    """The model of `hf:owner/name[@revision]`; nothing is looked up yet. Raises BadArgument."""
    repository = hub.parse(address)
    return dataclasses.replace(
        spec_from_factory(TRANSFORMERS),
        # A slash cannot be part of a folder's name.
        name=repository.name.replace("/", "--"),
        title=repository.name,
        settings={"repository": repository.name, "revision": repository.revision},
    )


def spec_from_folder(path: str | os.PathLike[str]) -> ModelSpec:
    """The model in a folder that transformers saved: config.json and weights. Raises BadModel."""
    folder = Path(path).expanduser().resolve()
    if not (folder / hub.CONFIG).is_file():
        raise BadModel(
            f"{folder} has no {hub.CONFIG}: a folder is a model when transformers saved one there (save_pretrained)."
            if folder.is_dir()
            else f"There is no folder {folder}."
        )
    weights = hub.weights_in(folder)
    return dataclasses.replace(
        spec_from_factory(TRANSFORMERS),
        name=folder.name,
        title=folder.name,
        weights=None if weights is None else str(weights),
        settings={"folder": str(folder)},
    )


def with_things(spec: ModelSpec, file: str | os.PathLike[str]) -> ModelSpec:
    """The same model, with the names of the things among its categories read from a file, one a line.

    For models of transformers, which do not say it themselves. Raises BadArgument.
    """
    if spec.adapter != TRANSFORMERS:
        raise BadArgument(f"--things: {spec.title} says itself which of its categories are things. Leave --things out.")
    try:
        lines = Path(file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"--things {os.fspath(file)}: the file cannot be read ({error}).") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise BadArgument(f"--things {os.fspath(file)} names nothing. Write the name of a thing in each line.")
    return dataclasses.replace(spec, settings={**spec.settings, "things": names})


def with_categories(spec: ModelSpec, categories: "Iterable[Category]") -> ModelSpec:
    """The same model with the things among its dataset's categories, which transformers' files do not state.

    The adapter uses it where neither --things nor the names themselves say which of the model's labels are things.
    """
    isthing = {category.name: category.isthing for category in categories}
    if spec.adapter != TRANSFORMERS or "things" in spec.settings or not isthing:
        return spec
    return dataclasses.replace(spec, settings={**spec.settings, "dataset_isthing": isthing})


def extra_missing(spec: ModelSpec) -> str | None:
    """The extra of panbench that this model needs and this Python lacks: "models" or "transformers"; else None."""
    needed = ("torch", "transformers", "huggingface_hub") if spec.adapter == TRANSFORMERS else ("torch", "mmdet", "cv2")
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    return None if not lacking else "transformers" if spec.adapter == TRANSFORMERS else EXTRA_OF[lacking[0]]


def repository_of(spec: ModelSpec) -> hub.Repository | None:
    """The repository of the hub that a model comes from, None for models from elsewhere."""
    name = spec.settings.get("repository")
    if name is None:
        return None
    return hub.Repository(str(name), str(spec.settings.get("revision") or hub.DEFAULT_REVISION))


def origin(spec: ModelSpec) -> str:
    """Where weights come from: mmdet, hub, fbai (their authors), git (a release on GitHub), ours, pip or own."""
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


def twins_of(spec: ModelSpec, catalog: Mapping[str, ModelSpec] | None = None) -> list[ModelSpec]:
    """The same network with weights from elsewhere: the authors' own, Hugging Face's or mmdet's, in this order.

    Their weights are trained apart, so their numbers differ; names and titles tell them apart.
    """
    own = _bare_name(spec.name)
    catalog = load_catalog() if catalog is None else catalog
    found = [other for other in catalog.values() if _bare_name(other.name) == own and other.name != spec.name]
    return sorted(found, key=lambda other: (not other.name.endswith("-authors"), "-hf-" not in other.name))


def _bare_name(name: str) -> str:
    return name.removesuffix("-authors").replace("-hf-", "-")


def address_of(spec: ModelSpec) -> str:
    """What `--model` takes for this model: its name, or `hf:owner/name` for one that has none in the catalog."""
    repository = repository_of(spec)
    return str(repository) if repository is not None and spec.config is None else spec.name


def with_weights(spec: ModelSpec, weights: str | os.PathLike[str]) -> ModelSpec:
    """The same model with other weights, a URL or a path relative to the current folder.

    The published numbers, the licence and `trained_on` stay only when the file has the name of the one it replaces:
    they are claims about those weights.
    """
    given = os.fspath(weights)
    resolved = given if _is_url(given) else str(Path(given).expanduser().resolve())
    if spec.weights is not None and file_name(spec.weights) == file_name(resolved):
        return dataclasses.replace(spec, weights=resolved)
    return dataclasses.replace(
        spec, weights=resolved, published=None, trained_on=None, license=None, license_source=None, system=None
    )


def random_seed(checkpoint: str | os.PathLike[str] | None) -> int | None:
    """The seed of `--checkpoint random` or `random:SEED`, which is 0 by default; None for a file.

    Raises BadArgument for a seed that is not a whole number.
    """
    kind, colon, seed = ("" if checkpoint is None else os.fspath(checkpoint)).partition(":")
    if kind != RANDOM:
        return None
    if colon and not (seed.isascii() and seed.isdigit()):
        raise BadArgument(f"--checkpoint {checkpoint}: the seed {seed!r} is not a whole number. Write random:0.")
    return int(seed or 0)


def check_checkpoint(checkpoint: str | os.PathLike[str] | None) -> None:
    """Raises BadArgument where `--checkpoint` is a file that does not exist, or random with a wrong seed."""
    if checkpoint is None or random_seed(checkpoint) is not None:
        return
    if not Path(checkpoint).expanduser().exists():
        raise BadArgument(f"--checkpoint {checkpoint}: no such file. Give a path, or random for untrained weights.")


OTHER_WEIGHTS = (
    Way("give a file with --checkpoint FILE", "--checkpoint"),
    Way("run the model untrained with --checkpoint random", "--checkpoint"),
)
"""What to do where a model's weights are not there."""


def refuse_folder_without_weights(spec: ModelSpec) -> None:
    """Raises BadCheckpoint for a folder of transformers' that has a config.json and no weights."""
    if "folder" in spec.settings and spec.weights is None:
        raise BadCheckpoint(
            f"{spec.settings['folder']} has no weights: neither {' nor '.join(hub.WEIGHTS_NAMES)}. Save them there "
            "(save_pretrained), or copy them from where config.json is from.",
            ways=OTHER_WEIGHTS,
        )


def weights_named(checkpoint: str | os.PathLike[str] | None) -> str:
    """The argument `weights` of `open_model` where `choose_models` was given this `--checkpoint`: auto or random."""
    return "auto" if random_seed(checkpoint) is None else RANDOM


def _names_a_folder(name: str) -> bool:
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return not name.endswith(_CONFIG_SUFFIXES)
    return ("/" in name or "\\" in name) and Path(name).is_dir()


def _read_entry(path: Path) -> dict[str, Any] | None:
    """The `panbench` dict of a config file, None when there is none. The file is parsed, never run."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"{path} cannot be read as a config file: {error}.") from error
    return copy.deepcopy(_entry_of(text, path))


@functools.lru_cache(maxsize=256)
def _entry_of(text: str, path: Path) -> dict[str, Any] | None:
    """The `panbench` dict of a config file that reads `text`; a program may read the catalog many times."""
    try:
        module = parse_config(text)
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise BadModel(f"{path} is not a Python config file ({where}).") from error
    for statement in module.body:
        if isinstance(statement, ast.Assign) and _assigns(statement, "panbench"):
            try:
                entry = ast.literal_eval(_DictCalls().visit(statement.value))
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
    """The syntax tree of a config file in Python. Raises SyntaxError or ValueError."""
    try:
        return ast.parse(text)
    except SyntaxError:
        # mmengine fills in {{…}} before it reads a file as Python; inside, anything goes.
        filled, count = re.subn(r"\{\{[^{}]*\}\}", "None", text)
        if not count:
            raise
        return ast.parse(filled)


def _assigns(statement: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)


class _DictCalls(ast.NodeTransformer):
    """Turns `dict(a=1)`, as mmdet's configs write it, into `{'a': 1}`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            keys: list[ast.expr | None] = [ast.Constant(word.arg) if word.arg else None for word in node.keywords]
            return ast.Dict(keys=keys, values=[word.value for word in node.keywords])
        return node


_NUMBER = (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
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
_REQUIRED = [key for key in _KINDS if key not in _OPTIONAL]
_PUBLISHED_KINDS: dict[str, tuple[type, ...]] = {
    field.name: (str,) if field.name in ("dataset", "split", "source") else _NUMBER
    for field in dataclasses.fields(Published)
}
_PUBLISHED_REQUIRED = ["PQ", "dataset", "split", "source"]


def _spec(path: Path, entry: dict[str, Any] | None, *, required: bool) -> ModelSpec:
    if entry is None and required:
        raise BadModel(f"{path} has no `panbench` dict, so it names no model. Its keys are {', '.join(_REQUIRED)}.")
    entry = entry or {}
    _check(entry, _KINDS, _REQUIRED if required else [], f"{path}: `panbench`")
    family, adapter = entry.get("family"), entry.get("adapter")
    if adapter is not None and not is_place(adapter):
        raise BadModel(f"{path}: the adapter is {adapter!r} but must be written package.module:Class.")
    if adapter is None and family is not None and family not in FAMILIES:
        raise BadModel(f"{path}: the family is {family!r} but panbench knows {_listed(FAMILIES)}.")
    weights = entry.get("weights")
    if weights is not None and not _is_url(weights):
        weights = str((path.parent / Path(weights).expanduser()).resolve())
    return ModelSpec(
        name=path.stem,
        title=entry.get("title", path.stem),
        family=family,
        backbone=entry.get("backbone"),
        config=path,
        weights=weights,
        published=_published(entry.get("published"), path),
        params=entry.get("params") or None,
        input_size=entry.get("input_size"),
        aliases=tuple(entry.get("aliases", ())),
        trained_on=entry.get("trained_on"),
        adapter=adapter or FAMILIES.get(family or "", MMDET),
        settings=entry.get("settings", {}),
        license=entry.get("license"),
        license_source=entry.get("license_source"),
        system=entry.get("system"),
    )


def _published(entry: dict[str, Any] | None, path: Path) -> Published | None:
    if entry is None:
        return None
    where = f"{path}: `published`"
    _check(entry, _PUBLISHED_KINDS, _PUBLISHED_REQUIRED, where)
    for key, value in entry.items():
        if isinstance(value, _NUMBER) and not 0 <= value <= 1:
            raise BadModel(f"{where}: {key} is {value} but fractions are meant. Write 0.52 for 52.0 %.")
    return Published(**entry)


def _check(entry: dict[Any, Any], kinds: Mapping[str, tuple[type, ...]], required: Iterable[str], where: str) -> None:
    for key, value in entry.items():
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys are {', '.join(kinds)}."
            raise BadModel(f"{where} has an unknown key {key!r}. {hint}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds[key])
            raise BadModel(f"{where}: {key} is {value!r} but must be {wanted}.")
    if missing := [key for key in required if key not in entry]:
        raise BadModel(f"{where} lacks {_listed(missing)}.")


def _is_url(text: str) -> bool:
    return "://" in text


def file_name(weights: str) -> str:
    """The name of the file at the end of a path or URL."""
    return re.split(r"[/\\]", weights.split("?")[0] if _is_url(weights) else weights)[-1]


def _reading_order(spec: ModelSpec) -> tuple[int, int, str]:
    order = list(FAMILIES)
    place = order.index(spec.family) if spec.family is not None and spec.family in FAMILIES else len(order)
    return place, spec.params or 0, spec.name


def _normalized(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
