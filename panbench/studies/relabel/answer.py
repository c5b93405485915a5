"""`panbench relabel`: the same predictions scored on two ground truths of the same images.

What changes in the ranks, how far the truths agree with each other (the ceiling of any model), and which labels are
suspect because several models agree on something else.
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
from panbench.report.answers.grid import ABSENT, Grid, percent, signed
from panbench.report.answers.records import as_records
from panbench.report.answers.tables import find_runs
from panbench.runs import Run, stored_predictions
from panbench.studies.relabel.crossed import Crossed, cross
from panbench.studies.relabel.suspects import KINDS, suspect_labels
from panbench.studies.relabel.two_truths import RankChanges, rank_changes

__all__ = ["Answers", "Relabelling", "find_answers", "mapped_truth", "read_truth", "relabel"]

SIDES = ("A", "B")


@dataclass(frozen=True)
class Answers:
    """The predictions of one model: their name, and the COCO panoptic JSON with its PNGs. run: where they come from."""

    name: str
    panoptic: PanopticSet
    run: Run | None = None

    @property
    def photos(self) -> Path | None:
        """The folder of photographs that the run names, if it is here."""
        named = None if self.run is None else self.run.info.dataset.images
        return Path(named) if named and Path(named).is_dir() else None


@dataclass(frozen=True)
class Relabelling:
    """What was found. Fractions 0–1; the sides 0 and 1 are the truths A and B.

    changes: ranks and PQ on both truths; ceiling: for each truth, intervals of PQ of the other one's labels
    suspects: for each truth, `suspect_labels`, the most suspect first
    """

    truths: tuple[PanopticSet, PanopticSet]
    answers: tuple[Answers, ...]
    images: int
    left_out: int
    changes: RankChanges
    ceiling: tuple[pd.DataFrame, pd.DataFrame]
    suspects: tuple[pd.DataFrame, pd.DataFrame]

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of both."""
        return self.truths[0].categories

    @property
    def sentence(self) -> str:
        """Whether the order of the runs depends on the truth, in a sentence or two."""
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
        """The tables for people; of the suspects the first `suspects` of each truth."""
        return [
            self._ranks(),
            *([self._pairs()] if len(self.answers) > 1 else []),
            self._ceiling(),
            *(self._suspects(side, suspects) for side in (0, 1) if suspects),
        ]

    def record(self) -> dict[str, Any]:
        """What `panbench relabel --json` prints: fractions, None for what does not exist."""
        return {
            "truths": {side: str(truth.path) for side, truth in zip(SIDES, self.truths, strict=True)},
            "images": self.images,
            "images_left_out": self.left_out,
            "level": self.changes.level,
            "runs": as_records(self.changes.runs),
            "pairs": as_records(self.changes.pairs),
            "ceiling": {
                f"{SIDES[1 - side]} against {SIDES[side]}": as_records(self._ceiling_rows(side)) for side in (0, 1)
            },
            "kinds": {kind.name: kind.description for kind in KINDS},
            "suspects": {
                name: as_records(self._named(side)) for name, side in zip(SIDES, (0, 1), strict=True)
            },
        }  # fmt: skip

    def csv(self, side: int) -> str:
        """The suspects of a truth, a line each; answers are `name=id` for each model that has one."""
        table = self._named(side)
        told = [
            "; ".join(f"{answer.name}={segment}" for answer, segment in zip(self.answers, row, strict=False) if segment)
            for row in table["answers"]
        ]
        out = io.StringIO()
        table.assign(answers=told).map(for_spreadsheet).to_csv(out, index=False, lineterminator="\n")
        return out.getvalue()

    def name_of(self, category_id: int) -> str:
        """The category's name."""
        return self._names.get(category_id, ABSENT)

    @property
    def _names(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    def _named(self, side: int) -> pd.DataFrame:
        table = self.suspects[side]
        named = table.assign(
            label=[self._names.get(int(value), "") for value in table["category_id"]],
            suggested=[self._names.get(int(value), "") for value in table["suggested_id"]],
            answers=[list(answers) for answers in table["answers"]],
        )
        columns = ["image_id", "kind", "score", "segment_id", "label", "suggested", "other"]
        return with_own_ids(named[[*columns, *(name for name in named if name not in columns)]])

    def _ranks(self) -> Grid:
        table = self.changes.runs
        table = table[table["group"] == "All"].sort_values("rank_a", kind="stable")
        return Grid(
            ("Model", "PQ on A", "rank", "PQ on B", "rank", "B − A", "95 % interval"),
            tuple(
                (
                    row.run,
                    percent(row.PQ_a),
                    _rank(row.rank_a, row.rank_low_a, row.rank_high_a),
                    percent(row.PQ_b),
                    _rank(row.rank_b, row.rank_low_b, row.rank_high_b),
                    signed(row.change),
                    self._interval(row.low, row.high),
                )
                for row in table.itertuples()
            ),
            notes=(
                f"A: {self.truths[0].path}; B: {self.truths[1].path}; {self.images:,} images. In brackets the ranks "
                "that other images would give (95 %).",
            ),
        )

    def _pairs(self) -> Grid:
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
                    self._interval(row.low, row.high),
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

    def _ceiling(self) -> Grid:
        lines = []
        for side in (0, 1):
            for row in self._ceiling_rows(side).itertuples():
                name = f"{SIDES[1 - side]} against {SIDES[side]}" if row.group == "All" else ""
                cells = (percent(value) for value in (row.PQ, row.SQ, row.RQ))
                lines.append((name, f"PQ{GROUPS[row.group]}", *cells, self._interval(row.low, row.high, plain=True)))
        return Grid(
            ("Truth as a prediction", "", "PQ", "SQ", "RQ", "95 % interval of PQ"),
            tuple(lines),
            words=2,
            title="The ceiling: how far the two truths agree",
            notes=("A model above it would agree with one labelling better than the other labelling does.",),
        )

    def _ceiling_rows(self, side: int) -> pd.DataFrame:
        table = self.ceiling[side]
        table = table[table["group"].notna()]
        wide = table.pivot_table(index="group", columns="metric", values="value", sort=False, dropna=False)
        ends = table[table["metric"] == "PQ"].set_index("group")[["low", "high"]]
        return wide.join(ends).reset_index()[["group", "PQ", "SQ", "RQ", "low", "high"]]

    def _suspects(self, side: int, most: int) -> Grid:
        table = self._named(side)
        rows = tuple(
            (
                str(place),
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
            for place, row in enumerate(table[:most].itertuples(), start=1)
        )
        shown = sorted({row[1] for row in rows}, key=[kind.name for kind in KINDS].index)
        said = {kind.name: kind.description for kind in KINDS}
        other = SIDES[1 - side]
        return Grid(
            ("", "suspicion", "label", "models say", "image", "segment", "score", "agree", "IoU", f"{other} has"),
            rows,
            words=4,
            title=f"Suspect labels of {SIDES[side]}: {min(most, len(table))} of {len(table):,}",
            notes=(
                *(f"{name}: {said[name]}" for name in shown),
                f"agree: IoU of the models' masks with each other; IoU: with the label; {other} has: whom the other "
                "truth confirms.",
            )
            if rows
            else ("The models agree on no object that this truth lacks.",),
        )

    def _interval(self, low: float, high: float, *, plain: bool = False) -> str:
        if self.images < FEWEST_IMAGES or low != low:
            return ABSENT
        show = percent if plain else signed
        return f"[{show(low)}, {show(high)}]"


def find_answers(paths: Sequence[Path], reporter: Reporter = SILENT) -> list[Answers]:
    """The predictions of run folders, folders of runs, predictions JSONs, and folders of PNGs with a JSON beside them.

    reporter: gets a notice for each run in a folder of runs that cannot be read
    Raises BadRun for a run that kept none and for what is none of these.
    """
    found: list[Answers] = []
    for path in paths:
        if path.suffix == ".json" and path.name != "run.json":
            found.append(Answers(path.stem, read_predictions_json(path)))
        elif path.is_dir() and not (path / "run.json").exists() and (beside := _json_of(path)) is not None:
            found.append(Answers(path.name, read_predictions_json(beside, path if path.suffix else None)))
        else:
            found.extend(_of_run(run) for run in find_runs([path], reporter))
    names = [answer.name for answer in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        # A run's folder tells apart what its name does not.
        found = [
            Answers(f"{answer.name} ({number})", answer.panoptic, answer.run) if answer.name in twice else answer
            for number, answer in enumerate(found, start=1)
        ]
    return found


def _json_of(folder: Path) -> Path | None:
    """The JSON of a folder of PNGs, as panopticapi has it: beside the folder, of its name."""
    beside = folder.parent / f"{folder.name}.json"
    return beside if beside.is_file() else None


def _of_run(run: Run) -> Answers:
    info = run.info
    name = (info.model and info.model.title) or run.name
    found = stored_predictions(run)
    if found is not None:
        return Answers(name, found, run)
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
    answers: Sequence[Answers],
    *,
    common_images: bool = False,
    reporter: Reporter = SILENT,
) -> Relabelling:
    """Scores predictions on two truths of the same images and categories, and compares all three.

    common_images: use the images that the truths and all predictions have; otherwise other images are an error
    Raises BadDataset when the truths differ in images or categories, BadRun for predictions of other images or
    categories.
    """
    if not answers:
        raise BadArgument("No predictions are named. Give --runs with run folders or predictions JSONs.")
    _check_categories(truth_a, truth_b)
    images = _images(truth_a, truth_b, answers, common_images)
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
        (_suspects_of(crossed, 0), _suspects_of(crossed, 1)),
    )


def _suspects_of(crossed: Crossed, side: int) -> pd.DataFrame:
    return suspect_labels(crossed.matched[side], crossed.among, crossed.matched[1 - side], crossed.between[side])


def _check_categories(a: PanopticSet, b: PanopticSet) -> None:
    ours, theirs = ({(c.id, c.name, c.isthing) for c in side.categories} for side in (a, b))
    if ours == theirs:
        return
    odd = sorted({name for _, name, _ in ours ^ theirs})
    raise BadDataset(
        f"{a.path} and {b.path} have different categories ({listed(odd, 5)}). Give a category map from those of the "
        "second to those of the first with --category-map, or convert one of them with `panbench data convert`."
    )


def _images(a: PanopticSet, b: PanopticSet, answers: Sequence[Answers], common_images: bool) -> list[int]:
    held = [(str(a.path), set(a.annotations)), (str(b.path), set(b.annotations))]
    held += [(answer.name, set(answer.panoptic.annotations)) for answer in answers]
    shared = set.intersection(*(images for _, images in held))
    if not shared:
        raise BadDataset(f"{listed([name for name, _ in held])} have no image in common.")
    first_name, first = held[0]
    if not common_images:
        for place, (name, images) in enumerate(held[1:]):
            if images == first:
                continue
            apart = sorted(images ^ first)
            kind = "The truths" if place == 0 else f"{name} and the truths"
            raise (BadDataset if place == 0 else BadRun)(
                f"{kind} have different images: {first_name} has {len(first):,}, {name} {len(images):,}, and "
                f"{len(apart):,} are in one only ({listed(apart, 5)}). --common-images uses the {len(shared):,} that "
                "all have."
            )
    return sorted(shared)


def _rank(rank: float, low: float, high: float) -> str:
    if rank != rank:
        return ABSENT
    return f"{rank:.0f}" if low == high else f"{rank:.0f} ({low:.0f}–{high:.0f})"


def read_truth(path: Path, folder: Path | None = None) -> PanopticSet:
    """A ground truth: its JSON, or a data set's folder with one panoptic JSON in `annotations/`."""
    if path.is_dir():
        found = sorted((path / "annotations").glob("panoptic_*.json"))
        if len(found) != 1:
            raise BadDataset(f"{path} holds {len(found)} panoptic JSONs in annotations/. Name the JSON itself.")
        path = found[0]
    return read_panoptic_json(path, folder)


def mapped_truth(truth: PanopticSet, target: PanopticSet, source: str, folder: Path, reporter: Reporter) -> PanopticSet:
    """A truth in the categories of another one; its id PNGs are written into `folder`.

    source: a category map, from the truth's categories to the target's (datasets/category_map.py). Segments of
    categories that it leaves out become void; segments of one stuff category become one. Raises BadArgument.
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
