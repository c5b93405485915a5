"""What a command is asked to run, and what this machine lacks for it: all that is known before PyTorch is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from panbench.base.errors import BadArgument
from panbench.base.text import in_sentence, size_in_words
from panbench.catalog import ModelSpec, download_size, is_pattern, resolve_models, split_names, weights_here
from panbench.datasets import CocoMissing, missing_files

__all__ = ["Missing", "ask_once", "default_data", "leave_out_others", "missing_for", "split_rules"]

VARIABLE = "PANBENCH_DOWNLOAD"


def default_data(specs: Sequence[ModelSpec]) -> str:
    """The dataset that all models were trained on. Raises BadArgument where they say none, or different ones."""
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
        parts = [f"{_some(names)} on {data}" for data, names in by_data.items()]
        raise BadArgument(
            f"The models were trained on different data: {' and '.join(parts)}. Run them one dataset at a time, or "
            "name the one to evaluate on with --data."
        )
    return next(iter(by_data))


@dataclass(frozen=True)
class Missing:
    """What a command needs and this machine lacks.

    weights: models whose weights can be downloaded and are not here; data: what COCO lacks, or None
    """

    weights: tuple[ModelSpec, ...] = ()
    data: CocoMissing | None = None

    def __bool__(self) -> bool:
        return bool(self.weights) or self.data is not None

    @property
    def sizes(self) -> str:
        """`176 MB of weights and 0.9 GB of COCO val2017`."""
        parts = [f"{self._weights_size} of weights"] if self.weights else []
        parts += [f"{size_in_words(self.data.bytes)} of {self.data.title}"] if self.data is not None else []
        return " and ".join(parts)

    @property
    def sentence(self) -> str:
        """What is missing, how much it is, and how to have it fetched."""
        names = [f"the weights of {_some([spec.title for spec in self.weights])}"] if self.weights else []
        names += [f"{self.data.title} in {self.data.root} ({self.data.what})"] if self.data is not None else []
        listed = ",".join(spec.name for spec in self.weights)
        commands = [f"`panbench models --download {listed}`"] if self.weights else []
        commands += [f"`{self.data.command}`"] if self.data is not None else []
        ways_out = " Or run the model untrained with --weights random." if self.weights and self.data is None else ""
        sizes = self.sizes if self.data is not None else self._weights_size
        return (
            f"Not on this machine: {' and '.join(names)}. Fetch them (about {sizes}) with {' and '.join(commands)} or "
            f"by adding --download ({VARIABLE}=1).{ways_out}"
        )

    @property
    def _weights_size(self) -> str:
        known = [size for size in map(download_size, self.weights) if size is not None]
        if not known:
            return "an unknown amount"
        size = size_in_words(sum(known))
        return size if len(known) == len(self.weights) else f"{size} or more"


def missing_for(
    specs: Sequence[ModelSpec],
    *,
    weights: str = "auto",
    data: str | None = None,
    split: str = "val",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
) -> Missing:
    """What a command needs and could download. data: the argument of `open_dataset`; None where COCO plays no part."""
    absent = [
        spec
        for spec in specs
        if weights == "auto" and spec.weights is not None and "://" in spec.weights and weights_here(spec) is None
    ]
    coco = None if data is None else missing_files(data, split=split, limit=limit, image_ids=image_ids)
    return Missing(tuple(absent), coco)


def ask_once(missing: Missing, download: bool, ask: Callable[[str], str] | None) -> bool:
    """Whether to download what is missing.

    download: --download was given; ask: puts a question to a terminal and returns the answer, None without a terminal
    Raises BadArgument when something is missing and may not be downloaded, and for an answer other than y or n.
    """
    if download or not missing:
        return download
    if ask is None:
        raise BadArgument(missing.sentence)
    answer = ask(f"Fetch {missing.sizes}? [Y/n] ").strip().lower()
    if answer in ("", "y", "yes"):
        return True
    if answer in ("n", "no"):
        raise BadArgument(f"Nothing was fetched. {missing.sentence}")
    raise BadArgument(f"{answer!r} is neither y nor n; nothing was fetched. {missing.sentence}")


def leave_out_others(
    specs: Sequence[ModelSpec], names: Sequence[str], data: str
) -> tuple[list[ModelSpec], list[ModelSpec]]:
    """The models to run and those to leave out, where `all` or a pattern chose models of other training data.

    names: of `--model`; data: of `--data`. A model that was named itself is never left out.
    """
    wanted = split_names(names)
    if not any(map(is_pattern, wanted)) or not any(spec.trained_on == data for spec in specs):
        return list(specs), []
    by_name = [name for name in wanted if not is_pattern(name)]
    named = set(resolve_models(by_name)) if by_name else set()
    kept = [spec for spec in specs if spec.trained_on == data or spec in named]
    return kept, [spec for spec in specs if spec not in kept]


def split_rules(text: str) -> list[str]:
    """The single rules of `--rule`; what has a value and names no rule is one more threshold of the rule before it."""
    rules: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if rules and "=" in part and ":" not in part:
            rules[-1] += f",{part}"
        else:
            rules.append(part)
    if not rules:
        raise BadArgument("--rule names no rule. Write for example --rule paper,argmax.")
    return list(dict.fromkeys(rules))


def _some(names: Sequence[str], most: int = 4) -> str:
    if len(names) <= most:
        return in_sentence(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
