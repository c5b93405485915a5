"""`panbench relabel`: scores the same predictions on two ground truths of the same images.

It finds rank changes, how far the truths agree with each other (the ceiling of any model), and labels that are suspect
because several models agree on something else.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import for_spreadsheet, listed
from panbench.datasets.category_map import map_prediction, read_category_map
from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import FEWEST_IMAGES
from panbench.metrics.slices import image_statistics
from panbench.panoptic.coco import read_id_png, read_panoptic_json, read_predictions_json, write_id_png
from panbench.panoptic.image_ids import with_own_ids
from panbench.panoptic.types import GROUPS, Annotation, Category, PanopticPrediction, PanopticSet
from panbench.report.answers.answer import as_records
from panbench.report.answers.grid import ABSENT, Grid, interval_text, percent, signed
from panbench.report.answers.tables import find_runs
from panbench.runs import Run, stored_predictions
from panbench.studies.relabel.crossed import Crossed, cross
from panbench.studies.relabel.suspects import KINDS, suspect_labels
from panbench.studies.relabel.two_truths import RankChanges, rank_changes

TRUTH_NAMES = ("A", "B")
CEILINGS = ("B against A", "A against B")
"""For each truth, the name of the score of the other one."""


@dataclass(frozen=True)
class Predictions:
    """One model's predictions, which are scored on two ground truths.

    run: the run that stored them, if they come from one
    """

    name: str
    panoptic: PanopticSet
    run: Run | None = None

    @property
    def photos(self) -> Path | None:
        """The folder of photographs that the run names, if it exists."""
        named = None if self.run is None else self.run.info.dataset.images
        return Path(named) if named and Path(named).is_dir() else None


@dataclass(frozen=True)
class Relabelling:
    """The result of scoring on two truths, A (index 0) and B (index 1). Fractions 0–1.

    changes: ranks and PQ on both truths; ceiling: for each truth, PQ with intervals of the other truth's labels
    suspects: for each truth, the table of `suspect_labels`
    """

    truths: tuple[PanopticSet, PanopticSet]
    answers: tuple[Predictions, ...]
    images: int
    left_out: int
    changes: RankChanges
    ceiling: tuple[pd.DataFrame, pd.DataFrame]
    suspects: tuple[pd.DataFrame, pd.DataFrame]

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories, which both truths share."""
        return self.truths[0].categories

    @property
    def message(self) -> str:
        """One or two sentences: does the order of the runs depend on the truth?"""
        pairs = self.changes.pairs
        pairs = pairs[pairs["group"] == "All"] if len(pairs) else pairs
        flipped = pairs[pairs["flipped"]] if len(pairs) else pairs
        sure = pairs[(pairs["low"] > 0) | (pairs["high"] < 0)] if len(pairs) else pairs
        if len(self.answers) < 2:
            return "One run has no order that a truth could change."
        if len(flipped):
            named = listed([f"{row.run} and {row.other}" for row in flipped.itertuples()], 3)
            order = f"On B another run is ahead than on A: {named} change places."
        else:
            order = "The order of the runs is the same on both truths."
        if not len(sure):
            return f"{order} No difference between two runs changes by more than chance."
        row = max(sure.itertuples(), key=lambda row: abs(row.change))
        return (
            f"{order} The difference of {row.run} and {row.other} changes by {signed(row.change)} points (95 % "
            f"interval {signed(row.low)} to {signed(row.high)})."
        )

    def grids(self, suspects: int) -> list[Grid]:
        """Returns the tables to print, with the first `suspects` suspect labels of each truth."""
        return [
            self._ranks_grid(),
            *([self._pairs_grid()] if len(self.answers) > 1 else []),
            self._ceiling_grid(),
            *(self._suspects_grid(side, suspects) for side in (0, 1) if suspects),
        ]

    def record(self) -> dict[str, Any]:
        """Returns the output of `panbench relabel --json`: fractions, None for missing numbers."""
        return {
            "truths": {side: str(truth.path) for side, truth in zip(TRUTH_NAMES, self.truths, strict=True)},
            "images": self.images,
            "images_left_out": self.left_out,
            "level": self.changes.level,
            "runs": as_records(self.changes.runs),
            "pairs": as_records(self.changes.pairs),
            "ceiling": {name: as_records(self._ceiling_rows(side)) for side, name in enumerate(CEILINGS)},
            "kinds": {kind.name: kind.description for kind in KINDS},
            "suspects": {name: as_records(self._named_suspects(side)) for side, name in enumerate(TRUTH_NAMES)},
        }

    def csv(self, side: int) -> str:
        """Returns a truth's labels that models dispute, as CSV; `answers` names each model's segment as `name=id`."""
        table = self._named_suspects(side)
        named = [
            "; ".join(f"{answer.name}={segment}" for answer, segment in zip(self.answers, row, strict=False) if segment)
            for row in table["answers"]
        ]
        out = io.StringIO()
        table.assign(answers=named).map(for_spreadsheet).to_csv(out, index=False, lineterminator="\n")
        return out.getvalue()

    def name_of(self, category_id: int) -> str:
        """Returns the name of a category, by its id."""
        return self._category_names.get(category_id, ABSENT)

    @property
    def _category_names(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    def _named_suspects(self, side: int) -> pd.DataFrame:
        """Returns the suspect labels of a truth, with category names and the data set's own image ids."""
        table = self.suspects[side]
        named = table.assign(
            label=[self._category_names.get(int(value), "") for value in table["category_id"]],
            suggested=[self._category_names.get(int(value), "") for value in table["suggested_id"]],
            answers=[list(answers) for answers in table["answers"]],
        )
        columns = ["image_id", "kind", "score", "segment_id", "label", "suggested", "other"]
        return with_own_ids(named[[*columns, *(name for name in named if name not in columns)]])

    def _ranks_grid(self) -> Grid:
        """Tabulates PQ and rank of each run on both truths."""
        table = self.changes.runs
        table = table[table["group"] == "All"].sort_values("rank_a", kind="stable")
        return Grid(
            ("Model", "PQ on A", "rank", "PQ on B", "rank", "B − A", "95 % interval"),
            tuple(
                (
                    row.run,
                    percent(row.PQ_a),
                    _rank_text(row.rank_a, row.rank_low_a, row.rank_high_a),
                    percent(row.PQ_b),
                    _rank_text(row.rank_b, row.rank_low_b, row.rank_high_b),
                    signed(row.change),
                    self._interval_text(row.low, row.high),
                )
                for row in table.itertuples()
            ),
            notes=(
                f"A: {self.truths[0].path}; B: {self.truths[1].path}; {self.images:,} images. In brackets the ranks "
                "that other images would give (95 %).",
            ),
        )

    def _pairs_grid(self) -> Grid:
        """Tabulates the difference of each two runs on both truths, and how much it changes."""
        table = self.changes.pairs
        return Grid(
            ("Run", "minus", "in", "on A", "on B", "change", "95 % interval", "other order"),
            tuple(
                (
                    row.run,
                    row.other,
                    f"PQ{GROUPS[row.group]}",
                    signed(row.difference_a),
                    signed(row.difference_b),
                    signed(row.change),
                    self._interval_text(row.low, row.high),
                    f"{100 * row.flips:.0f} %{' *' if row.flipped else ''}" if row.flips == row.flips else ABSENT,
                )
                for row in table.itertuples()
            ),
            words=3,
            title="Differences between runs",
            notes=(
                "Change: how much of the difference is the labels'. Other order: how often other images would order "
                "the two the other way round on B; *: these images do.",
            ),
        )

    def _ceiling_grid(self) -> Grid:
        """Tabulates PQ, SQ and RQ of each truth as a prediction of the other truth."""
        lines = []
        for side in (0, 1):
            for row in self._ceiling_rows(side).itertuples():
                name = CEILINGS[side] if row.group == "All" else ""
                cells = (percent(value) for value in (row.PQ, row.SQ, row.RQ))
                lines.append(
                    (name, f"PQ{GROUPS[row.group]}", *cells, self._interval_text(row.low, row.high, plain=True))
                )
        return Grid(
            ("Truth as a prediction", "", "PQ", "SQ", "RQ", "95 % interval of PQ"),
            tuple(lines),
            words=2,
            title="The ceiling: how far the two truths agree",
            notes=("A model above it would agree with one labelling better than the other labelling does.",),
        )

    def _ceiling_rows(self, side: int) -> pd.DataFrame:
        """Returns PQ with interval, SQ and RQ of one ground truth scored on the other, for All, Things and Stuff."""
        table = self.ceiling[side]
        table = table[table["group"].notna()]
        wide = table.pivot_table(index="group", columns="metric", values="value", sort=False, dropna=False)
        ends = table[table["metric"] == "PQ"].set_index("group")[["low", "high"]]
        return wide.join(ends).reset_index()[["group", "PQ", "SQ", "RQ", "low", "high"]]

    def _suspects_grid(self, side: int, most: int) -> Grid:
        """Tabulates the first `most` suspect labels of a truth."""
        table = self._named_suspects(side)
        rows = tuple(
            (
                str(position),
                row.kind,
                row.label or ABSENT,
                row.suggested or ABSENT,
                str(row.image_id),
                str(row.segment_id) if row.kind != "unlabelled" else ABSENT,
                f"{row.score:.3f}",
                f"{100 * row.agreement:.0f} %",
                f"{100 * row.iou:.0f} %",
                row.other or ABSENT,
            )
            for position, row in enumerate(table[:most].itertuples(), start=1)
        )
        kinds = sorted({row[1] for row in rows}, key=[kind.name for kind in KINDS].index)
        text = {kind.name: kind.description for kind in KINDS}
        other = TRUTH_NAMES[1 - side]
        return Grid(
            ("", "suspicion", "label", "models say", "image", "segment", "score", "agree", "IoU", f"{other} has"),
            rows,
            words=4,
            title=f"Suspect labels of {TRUTH_NAMES[side]}: {min(most, len(table))} of {len(table):,}",
            notes=(
                *(f"{name}: {text[name]}" for name in kinds),
                f"agree: IoU of the models' masks with each other; IoU: with the label; {other} has: whom the other "
                "truth confirms.",
            )
            if rows
            else ("The models agree on no object that this truth lacks.",),
        )

    def _interval_text(self, low: float, high: float, *, plain: bool = False) -> str:
        """Formats an interval; a dash if there are too few images for one."""
        return interval_text(low, high, with_sign=not plain) if self.images >= FEWEST_IMAGES else ABSENT


def find_predictions(paths: Sequence[Path], reporter: Reporter = SILENT) -> list[Predictions]:
    """Finds predictions in run folders, folders of runs, predictions JSONs, and folders of PNGs next to their JSON.

    reporter: gets a notice for each unreadable run in a folder of runs
    Raises BadRun for a run without predictions and for anything else.
    """
    found: list[Predictions] = []
    for path in paths:
        if path.suffix == ".json" and path.name != "run.json":
            found.append(Predictions(path.stem, read_predictions_json(path)))
        elif (
            path.is_dir()
            and not (path / "run.json").exists()
            and (found_json := _predictions_json_of(path)) is not None
        ):
            found.append(Predictions(path.name, read_predictions_json(found_json, path if path.suffix else None)))
        else:
            found.extend(_predictions_of_run(run) for run in find_runs([path], reporter))
    names = [answer.name for answer in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        # Models of the same name are numbered.
        found = [
            Predictions(f"{answer.name} ({number})", answer.panoptic, answer.run) if answer.name in twice else answer
            for number, answer in enumerate(found, start=1)
        ]
    return found


def _predictions_json_of(folder: Path) -> Path | None:
    """Returns the JSON of a folder of PNGs by panopticapi's convention: next to the folder, with its name."""
    found_json = folder.parent / f"{folder.name}.json"
    return found_json if found_json.is_file() else None


def _predictions_of_run(run: Run) -> Predictions:
    """Returns the predictions that a run stored, named after its model. Raises BadRun if there are none."""
    info = run.info
    name = (info.model and info.model.title) or run.name
    found = stored_predictions(run)
    if found is not None:
        return Predictions(name, found, run)
    if info.predictions is not None:
        raise BadRun(
            f"{run.name} was scored from {info.predictions.json}, which is no longer there. Name the predictions' JSON "
            "where it is now."
        )
    how = f"--model {info.model.name} " if info.model and info.model.name else ""
    raise BadRun(
        f"{run.name} stored no predictions, which relabel scores again. `panbench eval {how}--out {run.path} "
        "--save-predictions --overwrite` makes the run again with them."
    )


def relabel(
    truth_a: PanopticSet,
    truth_b: PanopticSet,
    answers: Sequence[Predictions],
    *,
    common_images: bool = False,
    reporter: Reporter = SILENT,
) -> Relabelling:
    """Scores predictions on two truths of the same images and categories, and the truths against each other.

    common_images: use the images that the truths and all predictions share; otherwise different images are an error
    Raises BadDataset if the truths differ in images or categories, BadRun for predictions of other images or
    categories.
    """
    if not answers:
        raise BadArgument("No predictions are named. Give --runs with run folders or predictions JSONs.")
    _check_same_categories(truth_a, truth_b)
    images = _images_to_compare(truth_a, truth_b, answers, common_images)
    known = {category.id for category in truth_a.categories}
    for answer in answers:
        strange = {s.category_id for i in images for s in answer.panoptic.annotations[i].segments} - known
        if strange:
            raise BadRun(
                f"{answer.name} predicts category ids that {truth_a.path} does not list: {listed(sorted(strange))}."
            )
    names = [answer.name for answer in answers]
    crossed = cross((truth_a, truth_b), [answer.panoptic for answer in answers], names, images, reporter)
    categories = truth_a.categories
    reporter.status("Computing intervals")
    on = [
        {name: image_statistics(matched, categories) for name, matched in zip(names, side, strict=True)}
        for side in crossed.matched
    ]
    changes = rank_changes(on[0], on[1])
    ceiling = [intervals(image_statistics(side, categories)) for side in crossed.between]
    everyone = set(truth_a.annotations) | set(truth_b.annotations)
    return Relabelling(
        (truth_a, truth_b),
        tuple(answers),
        len(images),
        len(everyone - set(images)),
        changes,
        (ceiling[0], ceiling[1]),
        (_suspect_labels_of(crossed, 0), _suspect_labels_of(crossed, 1)),
    )


def _suspect_labels_of(crossed: Crossed, side: int) -> pd.DataFrame:
    """Finds the suspect labels of truth A (side 0) or B (side 1)."""
    return suspect_labels(crossed.matched[side], crossed.among, crossed.matched[1 - side], crossed.between[side])


def _check_same_categories(a: PanopticSet, b: PanopticSet) -> None:
    ours, theirs = ({(c.id, c.name, c.isthing) for c in side.categories} for side in (a, b))
    if ours == theirs:
        return
    odd = sorted({name for _, name, _ in ours ^ theirs})
    raise BadDataset(
        f"{a.path} and {b.path} have different categories ({listed(odd, 5)}). Give a category map from those of the "
        "second to those of the first with --category-map, or convert one of them with `panbench data convert`."
    )


def _images_to_compare(
    a: PanopticSet, b: PanopticSet, answers: Sequence[Predictions], common_images: bool
) -> list[int]:
    """Returns the images that truths and predictions share. Raises if images differ without `common_images`."""
    held = [(str(a.path), set(a.annotations)), (str(b.path), set(b.annotations))]
    held += [(answer.name, set(answer.panoptic.annotations)) for answer in answers]
    shared = set.intersection(*(images for _, images in held))
    if not shared:
        raise BadDataset(f"{listed([name for name, _ in held])} have no image in common.")
    first_name, first = held[0]
    if not common_images:
        for index, (name, images) in enumerate(held[1:]):
            if images == first:
                continue
            apart = sorted(images ^ first)
            kind = "The truths" if index == 0 else f"{name} and the truths"
            raise (BadDataset if index == 0 else BadRun)(
                f"{kind} have different images: {first_name} has {len(first):,}, {name} {len(images):,}, and "
                f"{len(apart):,} are in one only ({listed(apart, 5)}). --common-images uses the {len(shared):,} that "
                "all have."
            )
    return sorted(shared)


def _rank_text(rank: float, low: float, high: float) -> str:
    if rank != rank:
        return ABSENT
    return f"{rank:.0f}" if low == high else f"{rank:.0f} ({low:.0f}–{high:.0f})"


def read_truth(path: Path, folder: Path | None = None) -> PanopticSet:
    """Reads a ground truth from its JSON, or from a data set's folder with one panoptic JSON in `annotations/`."""
    if path.is_dir():
        found = sorted((path / "annotations").glob("panoptic_*.json"))
        if len(found) != 1:
            raise BadDataset(f"{path} holds {len(found)} panoptic JSONs in annotations/. Name the JSON itself.")
        path = found[0]
    return read_panoptic_json(path, folder)


def mapped_truth(truth: PanopticSet, target: PanopticSet, source: str, folder: Path, reporter: Reporter) -> PanopticSet:
    """Converts a truth to the categories of another one and writes its id PNGs into `folder`.

    source: a category map from the truth's categories to the target's (datasets/category_map.py). Segments of unmapped
    categories become void; segments of one stuff category are joined. Raises BadArgument.
    """
    category_map = read_category_map(source, truth.categories, target.categories)
    annotations = {}
    for done, (image_id, annotation) in enumerate(truth.annotations.items(), start=1):
        ids = read_id_png(truth.png_path(image_id), image_id=image_id)
        mapped = map_prediction(PanopticPrediction(image_id, ids, annotation.segments), category_map)
        crowds = {segment.id for segment in annotation.segments if segment.iscrowd}
        segments = tuple(replace(segment, iscrowd=segment.id in crowds) for segment in mapped.segments)
        name = f"{image_id:012}.png"
        write_id_png(folder / name, mapped.ids)
        annotations[image_id] = Annotation(image_id, name, segments)
        reporter.progress("Mapping categories", done, len(truth.annotations))
    return PanopticSet(target.categories, truth.images, annotations, folder, truth.path)
