"""Published results as tables, and as rows below measured runs, marked as claims."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from panbench.base.errors import BadArgument
from panbench.published import PublishedResult, choose
from panbench.report.answers.comparison import Standing, ranked_comparison_grid
from panbench.report.answers.grid import ABSENT, Grid, count, percent
from panbench.report.answers.tables import ComparisonRow


def with_published(standing: Standing, words: Sequence[str]) -> Standing:
    """Adds published results of the models or backbones named in `words` as rows below a comparison of runs.

    See `published.choose`. Takes only results on the dataset and split of the runs, and none that were superseded.
    Raises BadArgument if the runs use several datasets, or if nothing that matches is published on theirs.
    """
    rows = (*standing.rows, *map(published_row, published_claims(standing.rows, words)))
    grid = ranked_comparison_grid(rows, standing.comparison, standing.digits, standing.notes)
    return dataclasses.replace(standing, rows=rows, grids=(grid, *standing.grids[1:]))


def published_claims(rows: Sequence[ComparisonRow], words: Sequence[str]) -> list[PublishedResult]:
    """Returns the published results of models or backbones named in `words`, on the same dataset as the rows.

    Superseded ones are left out. Raises BadArgument if the rows use several datasets, or if nothing matches on theirs.
    """
    held = sorted({(row.dataset or "", row.split or "") for row in rows if row.status != "published"})
    if len(held) != 1:
        raise BadArgument("--published needs runs of one dataset and split: there is no single one to take claims of.")
    dataset, split = held[0]
    # COCO's splits are written with or without the year.
    split = f"{split}2017" if dataset == "coco" and split in ("val", "train") else split
    return [result for result in choose(words, dataset=dataset, split=split) if not result.superseded]


def published_row(result: PublishedResult) -> ComparisonRow:
    """Returns a published result as a row of a comparison, never marked as best, with its source as a note."""
    details = [
        f"{result.epochs} epochs" if result.epochs else None,
        f"{result.queries} queries" if result.queries else None,
        f"pre-training {result.pretraining}" if result.pretraining else None,
        result.note,
    ]
    remarks = ", ".join(detail for detail in details if detail)
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
        notes=(f"a claim, not measured here: {result.source}{f' ({remarks})' if remarks else ''}",),
    )


def _claimed_score(result: PublishedResult, field: str) -> str:
    """Formats a published score as percent."""
    return percent(getattr(result, field), 1)


def published_grid(results: Sequence[PublishedResult]) -> Grid:
    """Returns published results as a table: numbered sources, and a column per value that any result has."""
    remarks = [f"{result.source}; {result.note}" if result.note else result.source for result in results]
    sources = list(dict.fromkeys(remarks))
    scores = {
        **{name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")},
        "AP_th": "AP_pan_th",
        "box AP_th": "AP_box_pan_th",
        "mIoU": "mIoU_pan",
    }
    columns: dict[str, Callable[[PublishedResult], str]] = {
        **{name: partial(_claimed_score, field=field) for name, field in scores.items()},
        "params": lambda result: count(result.params),
        "GFLOPs": lambda result: ABSENT if result.gflops is None else f"{result.gflops:.0f}",
        "fps": lambda result: ABSENT if result.fps is None else f"{result.fps:g}",
        "epochs": lambda result: result.epochs or ABSENT,
        "queries": lambda result: ABSENT if result.queries is None else str(result.queries),
        "pre-training": lambda result: result.pretraining or ABSENT,
    }
    indices = sorted({f"{result.dataset} {result.split}" for result in results})
    if len(indices) > 1:
        columns["on"] = lambda result: f"{result.dataset} {result.split}"
    filled = [name for name, cell in columns.items() if any(cell(result) != ABSENT for result in results)]
    on = f" All on {indices[0]}." if len(indices) == 1 else ""
    on += " fps: on the authors' own machines." if "fps" in filled else ""
    return Grid(
        columns=("Model", *filled),
        rows=tuple(
            (f"{result.title} [{sources.index(words) + 1}]", *(columns[name](result) for name in filled))
            for result, words in zip(results, remarks, strict=True)
        ),
        notes=(
            f"As published, in percent: nothing here was measured by panbench.{on}",
            *(f"[{number}] {source}" for number, source in enumerate(sources, start=1)),
        ),
    )


def published_records(results: Sequence[PublishedResult]) -> list[dict[str, Any]]:
    """Returns the results for `panbench models --published --json`: fractions, None if the source lacks the value."""
    return [{"title": result.title, **dataclasses.asdict(result)} for result in results]
