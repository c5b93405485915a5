"""Published results as tables, and under the rows of measured runs, marked as claims."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from panbench.base.errors import BadArgument
from panbench.published import PublishedResult, choose
from panbench.report.answers.comparison import Standing, first_grid
from panbench.report.answers.grid import ABSENT, Grid, count, percent
from panbench.report.answers.tables import ComparisonRow

__all__ = ["claims_beside", "published_grid", "published_records", "published_row", "with_published"]


def with_published(standing: Standing, words: Sequence[str]) -> Standing:
    """A comparison with the published results that `words` name (as in `published.choose`) under its rows.

    Only results on the dataset and split of the runs are taken, and none that its authors superseded.
    Raises BadArgument when the runs are of several datasets, or nothing of these words is published on theirs.
    """
    rows = (*standing.rows, *map(published_row, claims_beside(standing.rows, words)))
    grid = first_grid(rows, standing.comparison, standing.digits, standing.notes)
    return dataclasses.replace(standing, rows=rows, grids=(grid, *standing.grids[1:]))


def claims_beside(rows: Sequence[ComparisonRow], words: Sequence[str]) -> list[PublishedResult]:
    """The published results that `words` name on the dataset and split of some rows, without superseded ones.

    Raises BadArgument when the rows are of several datasets, or nothing of these words is published on theirs.
    """
    held = sorted({(row.dataset or "", row.split or "") for row in rows if row.status != "published"})
    if len(held) != 1:
        raise BadArgument("--published needs runs of one dataset and split: there is no single one to take claims of.")
    dataset, split = held[0]
    # A split of COCO is named with or without its year.
    split = f"{split}2017" if dataset == "coco" and split in ("val", "train") else split
    return [result for result in choose(words, dataset=dataset, split=split) if not result.superseded]


def published_row(result: PublishedResult) -> ComparisonRow:
    """A published result as a row of a comparison: never the best of a column, with its source as its note."""
    details = [
        f"{result.epochs} epochs" if result.epochs else None,
        f"{result.queries} queries" if result.queries else None,
        f"pre-training {result.pretraining}" if result.pretraining else None,
        result.note,
    ]
    said = ", ".join(detail for detail in details if detail)
    return ComparisonRow(
        run=f"{result.title} (published)",
        title=f"{result.title} (published)",
        dataset=result.dataset,
        split=result.split,
        PQ=result.PQ,
        SQ=result.SQ,
        RQ=result.RQ,
        PQ_th=result.PQ_th,
        PQ_st=result.PQ_st,
        params=result.params,
        gflops=result.gflops,
        status="published",
        notes=(f"a claim, not measured here: {result.source}{f' ({said})' if said else ''}",),
    )


def published_grid(results: Sequence[PublishedResult]) -> Grid:
    """The results as a table with numbered sources and a column for each value that any of them has."""
    said = [f"{result.source}; {result.note}" if result.note else result.source for result in results]
    sources = list(dict.fromkeys(said))
    columns: dict[str, Callable[[PublishedResult], str]] = {
        "PQ": lambda result: percent(result.PQ, 1),
        "SQ": lambda result: percent(result.SQ, 1),
        "RQ": lambda result: percent(result.RQ, 1),
        "PQ_th": lambda result: percent(result.PQ_th, 1),
        "PQ_st": lambda result: percent(result.PQ_st, 1),
        "AP_th": lambda result: percent(result.AP_pan_th, 1),
        "box AP_th": lambda result: percent(result.AP_box_pan_th, 1),
        "mIoU": lambda result: percent(result.mIoU_pan, 1),
        "params": lambda result: count(result.params),
        "GFLOPs": lambda result: ABSENT if result.gflops is None else f"{result.gflops:.0f}",
        "fps": lambda result: ABSENT if result.fps is None else f"{result.fps:g}",
        "epochs": lambda result: result.epochs or ABSENT,
        "queries": lambda result: ABSENT if result.queries is None else str(result.queries),
        "pre-training": lambda result: result.pretraining or ABSENT,
    }
    places = sorted({f"{result.dataset} {result.split}" for result in results})
    if len(places) > 1:
        columns["on"] = lambda result: f"{result.dataset} {result.split}"
    filled = [name for name, cell in columns.items() if any(cell(result) != ABSENT for result in results)]
    on = f" All on {places[0]}." if len(places) == 1 else ""
    on += " fps: on the authors' own machines." if "fps" in filled else ""
    return Grid(
        columns=("Model", *filled),
        rows=tuple(
            (f"{result.title} [{sources.index(words) + 1}]", *(columns[name](result) for name in filled))
            for result, words in zip(results, said, strict=True)
        ),
        notes=(
            f"As published, in percent: nothing here was measured by panbench.{on}",
            *(f"[{number}] {source}" for number, source in enumerate(sources, start=1)),
        ),
    )


def published_records(results: Sequence[PublishedResult]) -> list[dict[str, Any]]:
    """The results for `panbench models --published --json`: fractions, None if the source has no value."""
    return [{"title": result.title, **dataclasses.asdict(result)} for result in results]
