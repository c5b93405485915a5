"""Determines the files that a command needs and this machine lacks, before PyTorch is loaded."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from panbench.base import hub
from panbench.base.errors import BadArgument, BadModel
from panbench.base.extras import install_line
from panbench.base.text import in_sentence, licence_in_words, size_in_words
from panbench.catalog import (
    TRANSFORMERS,
    ModelSpec,
    address_of,
    download_size,
    is_pattern,
    origin,
    repository_of,
    resolve_models,
    split_names,
    twins_of,
)
from panbench.datasets import CocoMissing, missing_files
from panbench.models.unopened import refuse_unopenable
from panbench.weights import weights_here

VARIABLE = "PANBENCH_DOWNLOAD"


_UNKNOWN = "an unknown amount"


def default_data(specs: Sequence[ModelSpec]) -> str:
    """Returns the dataset that all models were trained on. Raises BadArgument if it is unknown or models differ."""
    silent = [spec.name for spec in specs if spec.trained_on is None]
    if silent:
        raise BadArgument(
            f"{in_sentence(silent)} {'does' if len(silent) == 1 else 'do'} not say what the weights were trained on, "
            "so there is no default dataset. Name one with --data, or give --images and --gt."
        )
    by_data: dict[str, list[str]] = {}
    for spec in specs:
        by_data.setdefault(str(spec.trained_on), []).append(spec.name)
    if len(by_data) > 1:
        parts = [f"{in_sentence(names, 4)} on {data}" for data, names in by_data.items()]
        raise BadArgument(
            f"The models were trained on different data: {' and '.join(parts)}. Run them one dataset at a time, or "
            "name the one to evaluate on with --data."
        )
    return next(iter(by_data))


@dataclass(frozen=True)
class MissingFiles:
    """The files that a command needs and this machine lacks.

    weights: models whose weights are missing and can be downloaded; data: missing files of COCO, or None
    declared: the hub's facts on a model's repository, if it was queried
    """

    weights: tuple[ModelSpec, ...] = ()
    data: CocoMissing | None = None
    declared: Mapping[ModelSpec, hub.Listing] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Returns whether any file is missing."""
        return bool(self.weights) or self.data is not None

    @property
    def sizes_in_words(self) -> str:
        """The missing files in words: `176 MB of weights (Apache-2.0) and 0.9 GB of COCO val2017`."""
        parts = [f"{self._weights_size_in_words} of weights{self._licences_in_words}"] if self.weights else []
        parts += [f"{size_in_words(self.data.bytes)} of {self.data.title}"] if self.data is not None else []
        return " and ".join(parts)

    @property
    def message(self) -> str:
        """A message that says what is missing, how large it is, and how to download it."""
        # With COCO's files, the licence is part of the sizes.
        licences = self._licences_in_words if self.data is None else ""
        names = (
            [f"the weights of {in_sentence([spec.title for spec in self.weights], 4)}{licences}"]
            if self.weights
            else []
        )
        names += [f"{self.data.title} in {self.data.root} ({self.data.what})"] if self.data is not None else []
        listed = ",".join(address_of(spec) for spec in self.weights)
        commands = [f"`panbench models --download {listed}`"] if self.weights else []
        commands += [f"`{self.data.command}`"] if self.data is not None else []
        # The config.json of a repository describes its network and is downloaded with the weights.
        alone = self.weights and self.data is None and not any(map(repository_of, self.weights))
        ways_out = " Or run the model untrained with --checkpoint random." if alone else ""
        ways_out += f" {self.twins_hint.strip()}" if self.twins_hint else ""
        ways_out += " Without a network: --model mask2former-tiny needs no download."
        sizes = self.sizes_in_words if self.data is not None else self._weights_size_in_words
        amount = sizes if sizes.startswith(_UNKNOWN) else f"about {sizes}"
        return (
            f"Not on this machine: {' and '.join(names)}. Fetch them ({amount}) with {' and '.join(commands)} or "
            f"by adding --download ({VARIABLE}=1).{ways_out}"
        )

    @property
    def twins_hint(self) -> str:
        """A hint to run the same networks with weights of their own authors; empty if there are none."""
        found = [twins_of(spec)[:1] for spec in self.weights if origin(spec) == "mmdet"]
        names = ",".join(twin.name for twins in found for twin in twins)
        return f"With the authors' weights of the same network: --model {names}. " if names else ""

    @property
    def _weights_size_in_words(self) -> str:
        known = [size for size in map(self._download_bytes, self.weights) if size is not None]
        if not known:
            return _UNKNOWN
        size = size_in_words(sum(known))
        return size if len(known) == len(self.weights) else f"{size} or more"

    def _download_bytes(self, spec: ModelSpec) -> int | None:
        """Returns the size of a model's weights in bytes; None if it is not known."""
        return self.declared[spec].size if spec in self.declared else download_size(spec)

    @property
    def _licences_in_words(self) -> str:
        """Licences as ` (Apache-2.0)`, with the models' names if they differ; empty if none is known."""
        by_licence: dict[str, list[str]] = {}
        for spec in self.weights:
            licence = spec.license or (self.declared[spec].license if spec in self.declared else None)
            repository = repository_of(spec)
            if licence is not None:
                by_licence.setdefault(licence_in_words(licence), []).append(spec.title)
            elif repository is not None:
                by_licence.setdefault(f"licence: see {repository.page}", []).append(spec.title)
            else:
                by_licence.setdefault("", []).append(spec.title)
        if len(by_licence) == 1:
            return f" ({next(iter(by_licence))})" if any(by_licence) else ""
        parts = [
            f"{in_sentence(titles, 4)}: {licence or 'licence not known'}" for licence, titles in by_licence.items()
        ]
        return f" ({'; '.join(parts)})"

    def with_hub_sizes(self) -> "MissingFiles":
        """Asks the model hub for the download sizes of models outside the catalog; returns a completed copy.

        Raises BadModel, DownloadFailed.
        """
        found = {
            spec: hub.list_files(repository)
            for spec in self.weights
            if spec.config is None and (repository := repository_of(spec)) is not None
        }
        return replace(self, declared=found) if found else self


def find_missing_files(
    specs: Sequence[ModelSpec],
    *,
    weights: str = "auto",
    data: str | None = None,
    split: str = "val",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
) -> MissingFiles:
    """Finds the missing files that a command could download.

    data: for `open_dataset`; None if COCO is not needed
    Raises BadModel if a model lacks a package, as its weights would be useless, and if no model can run.
    """
    refuse_unopenable(specs, weights)
    absent = [
        spec for spec in specs if weights == "auto" and _has_download_address(spec) and weights_here(spec) is None
    ]
    for spec in absent:
        if spec.adapter == TRANSFORMERS and importlib.util.find_spec("transformers") is None:
            raise BadModel(
                f"{spec.title} needs the package transformers. Install it with: {install_line('transformers')}"
            )
    coco = None if data is None else missing_files(data, split=split, limit=limit, image_ids=image_ids)
    return MissingFiles(tuple(absent), coco)


def _has_download_address(spec: ModelSpec) -> bool:
    """True if a model's weights have a URL or a hub repository."""
    if spec.weights is not None:
        return "://" in spec.weights
    return repository_of(spec) is not None


def ask_once(missing: MissingFiles, download: bool, ask: Callable[[str], str] | None) -> bool:
    """Returns whether to download missing files: as --download says, else by the user's answer.

    download: --download was given; ask: asks on a terminal and returns the answer, None without a terminal
    Raises BadArgument if something is missing and may not be downloaded, and for an answer other than y or n; for a hub
    URL also what `hub.list_files` raises.
    """
    if download or not missing:
        return download
    if ask is None:
        raise BadArgument(missing.message)
    missing = missing.with_hub_sizes()
    answer = ask(f"{missing.twins_hint}Fetch {missing.sizes_in_words}? [Y/n] ").strip().lower()
    if answer in ("", "y", "yes"):
        return True
    if answer in ("n", "no"):
        raise BadArgument(f"Nothing was fetched. {missing.message}")
    raise BadArgument(f"{answer!r} is neither y nor n; nothing was fetched. {missing.message}")


def leave_out_others(
    specs: Sequence[ModelSpec], names: Sequence[str], data: str
) -> tuple[list[ModelSpec], list[ModelSpec]]:
    """Splits models into those to run, and those left out because they were trained on other data.

    Left out are only models that matched a name pattern.
    names: values of `--model`; a model named without a pattern is never left out
    data: value of `--data`, a name or a folder of that name
    """
    data = Path(data).name
    requested = split_names(names)
    if not any(map(is_pattern, requested)) or not any(spec.trained_on == data for spec in specs):
        return list(specs), []
    by_name = [name for name in requested if not is_pattern(name)]
    named = set(resolve_models(by_name)) if by_name else set()
    chosen = [spec for spec in specs if spec.trained_on == data or spec in named]
    return chosen, [spec for spec in specs if spec not in chosen]
