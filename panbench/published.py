"""Loads published results as papers and repositories print them, for comparison with measured runs.

published.csv is copied from the sources that it names, one row per model; nothing in it was measured by panbench.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from panbench.base.errors import BadArgument
from panbench.base.text import listed


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table. Fractions 0–1; None where the source does not report a value.

    epochs, backbone: as the source writes them; fps: on the source's own machine, so not comparable with measured ones
    pretraining: data used before the dataset, if the source reports it; queries: number of the decoder's queries
    AP_pan_th, AP_box_pan_th: AP of the masks and of the boxes of the things that the panoptic model predicts
    mIoU_pan: mIoU of its semantic inference
    params, gflops: of the complete model; tta: with test-time augmentation
    note: what a reader must know ("superseded by v4"); source: the paper or page that prints the numbers
    """

    model: str
    backbone: str
    PQ: float
    dataset: str
    split: str
    source: str
    pretraining: str | None = None
    epochs: str | None = None
    queries: int | None = None
    SQ: float | None = None
    RQ: float | None = None
    PQ_th: float | None = None
    PQ_st: float | None = None
    AP_pan_th: float | None = None
    AP_box_pan_th: float | None = None
    mIoU_pan: float | None = None
    params: int | None = None
    gflops: float | None = None
    fps: float | None = None
    tta: bool = False
    note: str | None = None

    @property
    def title(self) -> str:
        """Model and backbone as in tables, with the pre-training data if it is more than ImageNet's images.

        A model pre-trained on detection data or other photographs is another system, with other weights.
        """
        beyond = self.pretraining if self.pretraining and not self.pretraining.startswith("ImageNet") else None
        return f"{self.model} {self.backbone}" + (f" ({beyond})" if beyond else "")

    @property
    def superseded(self) -> bool:
        """True if the same authors printed a later number."""
        return "superseded" in (self.note or "")


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """Returns all published results, in the order of published.csv."""
    text = resources.files("panbench").joinpath("published.csv").read_text("utf-8")
    return tuple(_parse_csv_row(row) for row in csv.DictReader(text.splitlines()))


def choose(
    words: Sequence[str],
    *,
    dataset: str | None = None,
    split: str | None = None,
    results: Iterable[PublishedResult] | None = None,
) -> list[PublishedResult]:
    """Selects the results that match any of some words, in the order of published.csv.

    words: each a model, a backbone or both ("Mask DINO", "R50", "mask2former swin-l"), ignoring capitals and hyphens;
        "all" or no word for every result
    dataset, split: only results on these
    Raises BadArgument for a word that matches nothing, naming other datasets and splits on which it does.
    """
    every = list(published_results() if results is None else results)
    within = [result for result in every if dataset in (None, result.dataset) and split in (None, result.split)]
    where = " ".join(part for part in (dataset, split) if part)
    chosen: set[PublishedResult] = set()
    for word in words or ["all"]:
        found = [result for result in within if _title_has_words(result, word)]
        if found:
            chosen.update(found)
            continue
        elsewhere = sorted({f"{result.dataset} {result.split}" for result in every if _title_has_words(result, word)})
        if elsewhere:
            raise BadArgument(f"What is published of {word!r} is on {listed(elsewhere)}, not on {where}.")
        models = sorted({result.model for result in every})
        raise BadArgument(
            f"Nothing is published here of {word!r}: the models are {listed(models, len(models))}. Name a model, a "
            "backbone or both; `panbench models --published` lists all."
        )
    return [result for result in within if result in chosen]


def filtered(words: str, data: str | None = None) -> list[PublishedResult]:
    """Selects results by a text that names models, backbones, datasets and splits, in the order of published.csv.

    "Mask DINO val2017" selects Mask DINO on val2017; commas separate models. data: only results on this dataset.
    Raises BadArgument like `choose`, and for a dataset without results.
    """
    benchmarks: dict[str, set[str]] = {"dataset": set(), "split": set()}
    for result in published_results():
        benchmarks["dataset"].add(result.dataset)
        benchmarks["split"].add(result.split)
    if data is not None and data not in benchmarks["dataset"]:
        raise BadArgument(f"Nothing is published here on {data!r}, but on {listed(sorted(benchmarks['dataset']))}.")
    within: dict[str, str | None] = {} if data is None else {"dataset": data}
    names = []
    for part in words.split(","):
        left = []
        for word in part.split():
            kind = next((kind for kind, known in benchmarks.items() if word.lower() in known), None)
            if kind is None:
                left.append(word)
            else:
                within[kind] = word.lower()
        names.append(" ".join(left))
    return choose([name for name in names if name], dataset=within.get("dataset"), split=within.get("split"))


def gflops_of(title: str) -> float | None:
    """Returns the published GFLOPs of a model with its backbone ("Mask2Former R50"); None if there are none.

    Superseded numbers are ignored in favour of the same authors' later ones; val2017 is preferred to other images.
    """
    of_title = [
        result
        for result in published_results()
        if result.title == title and result.gflops is not None and not result.superseded
    ]
    found = {result.gflops for result in of_title if result.split == "val2017"} or {one.gflops for one in of_title}
    return found.pop() if len(found) == 1 else None


def _title_has_words(result: PublishedResult, words: str) -> bool:
    """True if the title of a result contains all words, each as a separate word."""
    own = f" {_words_to_compare(result.title)} "
    plain = _words_to_compare(words)
    if plain == "all":
        return True
    # Match the model's full name first ("mask dino"), then the remaining words one by one ("r50").
    model = _words_to_compare(result.model)
    if plain == model or plain.startswith(f"{model} "):
        plain = plain.removeprefix(model).strip()
    elif any(plain == _words_to_compare(other.model) for other in published_results()):
        return False
    return all(f" {word} " in own for word in plain.split())


@lru_cache(maxsize=1024)
def _words_to_compare(text: str) -> str:
    """Reduces a text to lower-case words for comparison."""
    return " ".join(re.sub(r"[^a-z0-9+.]+", " ", text.lower().replace("-", "")).split())


_PERCENT = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "AP_pan_th", "AP_box_pan_th", "mIoU_pan")
_TEXTS = ("model", "backbone", "dataset", "split", "source", "epochs", "pretraining", "note")


def _parse_csv_row(row: dict[str, str]) -> PublishedResult:
    """Converts a row of published.csv to the published result of a model."""
    given = {name: value for name, value in row.items() if value}
    # Rounded, so that 57.7 % is 0.577 to the last bit.
    scores: dict[str, Any] = {name: round(float(given[name]) / 100, 6) for name in _PERCENT if name in given}
    texts: dict[str, Any] = {name: given[name] for name in _TEXTS if name in given}
    return PublishedResult(
        **texts,
        **scores,
        queries=int(given["queries"]) if "queries" in given else None,
        params=round(float(given["params_M"]) * 1e6) if "params_M" in given else None,
        gflops=float(given["GFLOPs"]) if "GFLOPs" in given else None,
        fps=float(given["fps"]) if "fps" in given else None,
        tta=row["tta"] == "yes",
    )
