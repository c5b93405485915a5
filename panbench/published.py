"""Published results, as their papers and repositories print them: claims to set measured runs against.

published.csv is typed from the sources that it names, a row a model; nothing in it was measured here.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from panbench.base.errors import BadArgument
from panbench.base.text import listed

__all__ = ["PublishedResult", "choose", "gflops_of", "published_results"]


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table. Fractions 0–1; what the source does not say is None.

    epochs, backbone: as the source writes them; fps: on the source's own machine, so never to compare with ours
    pretraining: what the weights saw before the dataset, where the source says it; queries: of the decoder
    AP_pan_th, AP_box_pan_th: AP of the masks, and of the boxes, of the things that the panoptic model predicts
    mIoU_pan: mIoU of its semantic inference
    params, gflops: of the whole model; tta: with test-time augmentation
    note: what a reader must know ("superseded by v4"); source: where it is printed
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
        """Model and backbone, as tables print them; with the pre-training where it is more than ImageNet's images.

        Trained on other detection data or photographs it is another system, with other weights.
        """
        beyond = self.pretraining if self.pretraining and not self.pretraining.startswith("ImageNet") else None
        return f"{self.model} {self.backbone}" + (f" ({beyond})" if beyond else "")

    @property
    def superseded(self) -> bool:
        """Whether the same authors printed a later number."""
        return "superseded" in (self.note or "")


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """All published results, in the order of the file."""
    text = resources.files("panbench").joinpath("published.csv").read_text("utf-8")
    return tuple(_result(row) for row in csv.DictReader(text.splitlines()))


def choose(
    words: Sequence[str],
    *,
    dataset: str | None = None,
    split: str | None = None,
    results: Iterable[PublishedResult] | None = None,
) -> list[PublishedResult]:
    """The results that any of some words name, in the order of the file.

    words: each a model, a backbone or both ("Mask DINO", "R50", "mask2former swin-l"), capitals and hyphens aside;
        "all" or no word for every result
    dataset, split: only of these
    Raises BadArgument for a word that names none of them, saying where it is published if it is elsewhere.
    """
    every = list(published_results() if results is None else results)
    within = [result for result in every if dataset in (None, result.dataset) and split in (None, result.split)]
    where = " ".join(part for part in (dataset, split) if part)
    chosen: set[PublishedResult] = set()
    for word in words or ["all"]:
        found = [result for result in within if _named(result, word)]
        if found:
            chosen.update(found)
            continue
        elsewhere = sorted({f"{result.dataset} {result.split}" for result in every if _named(result, word)})
        if elsewhere:
            raise BadArgument(f"What is published of {word!r} is on {listed(elsewhere)}, not on {where}.")
        models = sorted({result.model for result in every})
        raise BadArgument(
            f"Nothing is published here of {word!r}: the models are {listed(models, len(models))}. Name a model, a "
            "backbone or both; `panbench models --published` lists all."
        )
    return [result for result in within if result in chosen]


def filtered(words: str, data: str | None = None) -> list[PublishedResult]:
    """The results that words name, in the order of the file: of a model, a backbone, a dataset and a split.

    "Mask DINO val2017" are those of Mask DINO on val2017; commas part several models. data: only of this dataset.
    Raises BadArgument as `choose`, and for a dataset of which there is no result.
    """
    places: dict[str, set[str]] = {"dataset": set(), "split": set()}
    for result in published_results():
        places["dataset"].add(result.dataset)
        places["split"].add(result.split)
    if data is not None and data not in places["dataset"]:
        raise BadArgument(f"Nothing is published here on {data!r}, but on {listed(sorted(places['dataset']))}.")
    within: dict[str, str | None] = {} if data is None else {"dataset": data}
    names = []
    for part in words.split(","):
        left = []
        for word in part.split():
            kind = next((kind for kind, known in places.items() if word.lower() in known), None)
            if kind is None:
                left.append(word)
            else:
                within[kind] = word.lower()
        names.append(" ".join(left))
    return choose([name for name in names if name], dataset=within.get("dataset"), split=within.get("split"))


def gflops_of(title: str) -> float | None:
    """The GFLOPs that are published of a model on its backbone ("Mask2Former R50"); None where nobody says them.

    What the same authors printed anew counts, and what it superseded does not; val2017 before other images.
    """
    of_title = [
        result
        for result in published_results()
        if result.title == title and result.gflops is not None and not result.superseded
    ]
    found = {result.gflops for result in of_title if result.split == "val2017"} or {one.gflops for one in of_title}
    return found.pop() if len(found) == 1 else None


def _named(result: PublishedResult, words: str) -> bool:
    """Whether model and backbone hold all of the words, each as a word of its own."""
    own = f" {_plain(result.title)} "
    plain = _plain(words)
    if plain == "all":
        return True
    # The model's name as a whole ("mask dino"), then what is left word by word ("r50").
    model = _plain(result.model)
    if plain == model or plain.startswith(f"{model} "):
        plain = plain.removeprefix(model).strip()
    elif any(plain == _plain(other.model) for other in published_results()):
        return False
    return all(f" {word} " in own for word in plain.split())


@lru_cache(maxsize=1024)
def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9+.]+", " ", text.lower().replace("-", "")).split())


def _result(row: dict[str, str]) -> PublishedResult:
    def number(name: str, scale: float = 1) -> float | None:
        # Rounded, so that 57.7 % is 0.577 and not a bit beside it.
        return round(float(row[name]) / scale, 6) if row[name] else None

    pq = number("PQ", 100)
    assert pq is not None, row
    params = number("params_M")
    return PublishedResult(
        model=row["model"],
        backbone=row["backbone"],
        PQ=pq,
        dataset=row["dataset"],
        split=row["split"],
        source=row["source"],
        epochs=row["epochs"] or None,
        pretraining=row["pretraining"] or None,
        queries=int(row["queries"]) if row["queries"] else None,
        SQ=number("SQ", 100),
        RQ=number("RQ", 100),
        PQ_th=number("PQ_th", 100),
        PQ_st=number("PQ_st", 100),
        AP_pan_th=number("AP_pan_th", 100),
        AP_box_pan_th=number("AP_box_pan_th", 100),
        mIoU_pan=number("mIoU_pan", 100),
        params=None if params is None else round(params * 1e6),
        gflops=number("GFLOPs"),
        fps=number("fps"),
        tta=row["tta"] == "yes",
        note=row["note"] or None,
    )
