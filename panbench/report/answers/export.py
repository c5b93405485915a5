"""Exports a run's tables, masks and numbers to the formats of other programs.

parquet: DataFrames for pandas, DuckDB, Polars; coco-results: thing segments for pycocotools; fiftyone: ground truth
    and predictions with the verdict of each segment; huggingface-card: the numbers as a model card's `model-index`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from panbench import __version__
from panbench.base.errors import BadArgument, BadRun
from panbench.base.files import atomic_write, write_json
from panbench.base.text import for_file, for_spreadsheet
from panbench.metrics.errors import explained_segments
from panbench.metrics.pq import pq_table, scores_of_images, summarise
from panbench.panoptic.coco import read_ids
from panbench.panoptic.image_ids import own_id, with_own_ids
from panbench.panoptic.types import GROUPS, PanopticSet
from panbench.report.answers.grid import percent
from panbench.report.answers.tables import comparison_row
from panbench.runs import Run, stored_predictions
from panbench.runs.sources import files_exist, read_ground_truth

NOTICE = b"panbench.notice"
"""Metadata key of a Parquet file that lists what the run lacks; absent if the run is complete."""


@dataclass(frozen=True)
class ExportFormat:
    """An export format. `write` puts its files into a folder and returns their paths."""

    description: str
    write: Callable[[Run, Path], list[Path]]


def export_run(run: Run, format: str, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes a run in a format of FORMATS into the folder `out` and returns the paths of its files.

    Raises BadArgument for an unknown format or files that exist (unless `overwrite`), BadRun when the run lacks what
    the format needs.
    """
    if format not in FORMATS:
        raise BadArgument(f"There is no format {format!r}. Choose one of {', '.join(FORMATS)}.")
    if out.exists() and not out.is_dir():
        raise BadArgument(f"{out} is a file. Give a folder.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise BadArgument(f"{out} is not empty. Give another folder, or --overwrite.")
    run.require_images("export")
    return FORMATS[format].write(run, out)


def segments_with_verdicts(run: Run) -> pd.DataFrame:
    """Returns a run's segments, each marked as TP, FP, FN or ignored, with IoU, matched segment and error cause.

    The columns are those of `run.segments()`, and verdict, iou, matched_id and cause.
    verdict: "TP", "FP", "FN" or "ignored"; iou: of the match, NaN without; matched_id: the matched segment, or 0
    cause: the error cause of a miss or false positive (docs/errors.md), missing for the others
    """
    found = explained_segments(run.matched, run.categories).drop(columns="partner_id")
    return found.astype({"matched_id": np.int64, "verdict": object})


def _export_tables(run: Run) -> dict[str, pd.DataFrame]:
    """Returns the tables that are exported as CSV and Parquet, by name."""
    return {
        "segments": with_own_ids(segments_with_verdicts(run)),
        "overlaps": with_own_ids(run.overlaps()),
        "images": with_own_ids(scores_of_images(run.matched)),
        "per_category": pq_table(run.matched, run.categories),
    }


def _export_csv(run: Run, out: Path) -> list[Path]:
    """Writes a CSV file per table; text that a spreadsheet would run as a formula gets an apostrophe."""
    paths = []
    for name, table in _export_tables(run).items():
        path = out / f"{name}.csv"
        with atomic_write(path, "w") as handle:
            safe = {column: table[column].map(for_spreadsheet) for column in table.select_dtypes(exclude="number")}
            table.assign(**safe).to_csv(handle, index=False, lineterminator="\n")
        paths.append(path)
    return paths


def _export_parquet(run: Run, out: Path) -> list[Path]:
    """Writes each exported table as a Parquet file; its metadata lists lost parts and missing images, if any."""
    lacks = shortcomings(run)
    notice = {NOTICE: for_file("\n".join(lacks)).encode()} if lacks else {}
    paths = []
    for name, table in _export_tables(run).items():
        path = out / f"{name}.parquet"
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **notice})
        with atomic_write(path) as handle:
            pyarrow.parquet.write_table(arrow, handle)
        paths.append(path)
    return paths


def shortcomings(run: Run) -> list[str]:
    """Explains why an export is incomplete: a sentence for each lost part, and one for missing images."""
    return [*run.faults, *([run.shortfall] if run.shortfall is not None else [])]


def _export_coco_results(run: Run, out: Path) -> list[Path]:
    """Writes the predicted things as COCO instance results, which pycocotools reads."""
    isthing = {category.id: category.isthing for category in run.categories}
    results = [
        {
            "image_id": own_id(image_id),
            "category_id": segment["category_id"],
            # No box: pycocotools would use its area instead of the mask's, and with it another size class.
            "segmentation": segment["segmentation"],
            # pycocotools ranks by score; without one all rank equally.
            "score": 1.0 if segment["score"] is None else segment["score"],
        }
        for image_id, segments in _segments_to_export(_predictions_to_export(run), run)
        for segment in segments
        if isthing[segment["category_id"]]
    ]
    path = out / "results.json"
    write_json(path, results, indent=None)
    return [path]


def _export_fiftyone(run: Run, out: Path) -> list[Path]:
    """Writes true and predicted segments, marked TP, FP or FN, as COCO JSON, and a script that opens FiftyOne."""
    dataset = run.info.dataset
    if not dataset.gt or not files_exist(dataset.gt):
        raise BadRun(f"{run.name}: its ground truth {dataset.gt} is not here, and an export to FiftyOne shows it.")
    truth = read_ground_truth(dataset.gt, dataset.gt_dir)
    rows = segments_with_verdicts(run)
    verdicts = {
        (row.side, row.image_id, row.id): {
            "verdict": row.verdict,
            "cause": None if pd.isna(row.cause) else row.cause,
            "iou": None if np.isnan(row.iou) else float(row.iou),
        }
        for row in rows.itertuples()
    }
    categories = [
        {"id": category.id, "name": category.name, "supercategory": category.supercategory}
        for category in run.categories
    ]
    held = set(run.image_ids())
    images = [
        {"id": own_id(image.id), "file_name": image.file_name, "height": image.height, "width": image.width}
        for image in truth.images.values()
        if image.id in held
    ]
    paths = []
    for name, panoptic, side in (("ground_truth", truth, "gt"), ("predictions", _predictions_to_export(run), "pred")):
        annotations: list[dict[str, Any]] = []
        for image_id, segments in _segments_to_export(panoptic, run):
            for segment in segments:
                known = verdicts.get((side, image_id, segment["id"]), {})
                own = {key: value for key, value in {**segment, **known}.items() if value is not None}
                annotations.append(
                    {**own, "id": len(annotations) + 1, "segment_id": segment["id"], "image_id": own_id(image_id)}
                )
        path = out / f"{name}.json"
        write_json(path, {"images": images, "categories": categories, "annotations": annotations}, indent=None)
        paths.append(path)
    path = out / "open_in_fiftyone.py"
    with atomic_write(path) as handle:
        handle.write(_OPEN.format(images=json.dumps(dataset.images or "PUT THE FOLDER OF IMAGES HERE")).encode())
    return [*paths, path]


_OPEN = '''"""pip install fiftyone; python open_in_fiftyone.py"""

from pathlib import Path

import fiftyone as fo
import fiftyone.utils.coco as fouc

here = Path(__file__).parent
dataset = fo.Dataset.from_dir(
    dataset_type=fo.types.COCODetectionDataset,
    data_path={images},
    labels_path=str(here / "ground_truth.json"),
    label_types="segmentations",
    label_field="ground_truth",
    extra_attrs=True,
    include_id=True,
)
predictions = fo.Dataset.from_dir(
    dataset_type=fo.types.COCODetectionDataset,
    data_path={images},
    labels_path=str(here / "predictions.json"),
    label_types="segmentations",
    label_field="predictions",
    extra_attrs=True,
)
dataset.merge_samples(predictions)
fo.launch_app(dataset).wait()
'''


def _export_model_card(run: Run, out: Path) -> list[Path]:
    """Writes a model card for the Hugging Face hub with the scores of the run."""
    info, row = run.info, comparison_row(run)
    summary = summarise(pq_table(run.matched, run.categories))
    metrics = [
        {"type": f"{name}{suffix}".lower(), "name": f"{name}{suffix}", "value": round(100 * float(value), 3)}
        for group, suffix in GROUPS.items()
        for name in ("PQ", "SQ", "RQ")
        if (value := summary[group][name]) is not None
    ]
    dataset = {"name": row.dataset or "unknown", "type": row.dataset or "unknown", "split": row.split or "unknown"}
    task = {"type": "image-segmentation", "name": "Panoptic segmentation"}
    index = [{"name": row.title, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    how = [f"panbench {__version__}", f"{row.images:,} images", *([info.precision] if info.precision else [])]
    if info.rule is not None:
        how.append(f"fusion rule {info.rule.name}")
    table = "\n".join(
        f"| {group} | " + " | ".join(percent(summary[group][name]) for name in ("PQ", "SQ", "RQ")) + " |"
        for group in GROUPS
    )
    notes = "".join(f"\n{note[:1].upper()}{note[1:]}.\n" for note in row.notes)
    # JSON is valid YAML, so every YAML parser reads the block between the dashes.
    head = json.dumps({"tags": ["panoptic-segmentation"], "model-index": index}, indent=2, ensure_ascii=False)
    text = (
        f"---\n{head}\n---\n\n# {row.title}\n\n| {dataset['name']} {dataset['split']} | PQ | SQ | RQ |\n"
        f"| --- | ---: | ---: | ---: |\n{table}\n\nMeasured with {', '.join(how)}.\n{notes}"
    )
    path = out / "README.md"
    with atomic_write(path) as handle:
        handle.write(for_file(text).encode())
    return [path]


FORMATS: Mapping[str, ExportFormat] = {
    "parquet": ExportFormat(
        "segments with their verdicts, overlaps, images and categories as Parquet tables", _export_parquet
    ),
    "csv": ExportFormat("the same tables as CSV", _export_csv),
    "coco-results": ExportFormat("the predicted things as COCO results for pycocotools", _export_coco_results),
    "fiftyone": ExportFormat(
        "truth and predictions with verdicts, as COCO JSON that FiftyOne imports", _export_fiftyone
    ),
    "huggingface-card": ExportFormat("a model card with the numbers as its model-index", _export_model_card),
}


def _predictions_to_export(run: Run) -> PanopticSet:
    """Returns a run's predictions in COCO's panoptic format. Raises BadRun if none were stored."""
    if (found := stored_predictions(run)) is not None:
        return found
    raise BadRun(
        f"{run.name} has no predictions here. `panbench eval … --out {run.path} --save-predictions --overwrite` makes "
        "the run again with them."
    )


def _segments_to_export(panoptic: PanopticSet, run: Run) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields for each image of the run its id and its segments, each with run-length mask, box and area."""
    from pycocotools import mask as rle_masks

    for image_id in run.image_ids():
        annotation = panoptic.annotations.get(image_id)
        if annotation is None:  # scored as empty
            continue
        ids = read_ids(panoptic, image_id)
        segments = []
        for segment in annotation.segments:
            code = rle_masks.encode(np.asfortranarray(ids == segment.id, np.uint8))
            segments.append(
                {
                    "id": segment.id,
                    "category_id": segment.category_id,
                    "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                    "bbox": [float(side) for side in rle_masks.toBbox(code)],
                    "area": int(rle_masks.area(code)),
                    "iscrowd": int(segment.iscrowd),
                    "score": segment.score,
                }
            )
        yield image_id, segments
