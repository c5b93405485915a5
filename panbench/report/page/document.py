"""One HTML file that shows some runs: mailed, opened offline, clicked through. Everything is in the file.

Python computes the numbers and writes what must be read without JavaScript (comparison, what was run); assets/*.js draw
the charts and the gallery from the JSON in the page. Names are untrusted: Python escapes every string that it puts into
HTML, the scripts only ever set text, and a content security policy forbids every request and every script but ours.
"""

import base64
import hashlib
import html
import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench import __version__
from panbench.base.errors import BadArgument, BadDataset, BadRun, PanbenchError
from panbench.base.files import atomic_write
from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import SLICINGS
from panbench.report import views
from panbench.report.comparison import Standing
from panbench.report.grid import Grid, percent
from panbench.report.pictures import Layer, Photo, Pictures, RunPictures, numbered, segment_colors
from panbench.report.tables import comparison_grid
from panbench.report.views import Compared
from panbench.runs import Run

__all__ = ["EXAMPLES", "report_page", "write_report"]

EXAMPLES = 24
LARGEST = 15_000_000
"""Bytes that a page may have: what mail takes. Photographs are made smaller until it fits."""

PHOTO_SIZES = ((640, 82), (512, 78), (400, 72), (280, 65))
"""Longest side in pixels and JPEG quality of the photographs, tried in turn."""

SCRIPTS = ("dom.js", "charts.js", "categories.js", "gallery.js", "page.js")
MOST_CONFUSED = 400
Notice = Callable[[str], None]


class Html(str):
    """Text that is HTML already. Everything else is escaped by `tag`."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped; `class_` is class, `_` in names is `-`; None is left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>{''.join(map(_escaped, children))}</{name}>")


@dataclass(frozen=True)
class Gallery:
    """The examples of a page: records for its JSON, and a sentence for what is left out."""

    images: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()


@dataclass
class _Reasons:
    """Which images are shown, in the order in which they were chosen, and why each."""

    of_image: dict[int, list[str]] = field(default_factory=dict)

    def add(self, image_id: int, reason: str) -> None:
        reasons = self.of_image.setdefault(image_id, [])
        if reason not in reasons:
            reasons.append(reason)


def write_report(
    runs: Sequence[Run], out: str | os.PathLike[str], *, notice: Notice = lambda sentence: None, **options: Any
) -> Path:
    """Writes the page of some runs, atomically; its path. Options are those of `report_page`."""
    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise BadArgument(f"{target} does not end in .html: the report is one HTML file.")
    if target.is_dir():
        raise BadArgument(f"{target} is a folder. Give the report's file name with --out.")
    page = report_page(runs, notice=notice, **options)
    with atomic_write(target, "w") as handle:
        handle.write(page)
    return target


def report_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    common_images: bool = False,
    examples: int = EXAMPLES,
    image_ids: Sequence[int] = (),
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    notice: Notice = lambda sentence: None,
) -> str:
    """The HTML of one page that shows some runs: tables, charts and a gallery of `examples` images.

    common_images: show the images that all runs have, when they have others besides
    image_ids: images for the gallery before those that are chosen
    images, gt, gt_dir: where photographs and ground truth are, when they have moved
    notice: called with a sentence for each thing that is left out
    Raises BadRun for runs that cannot be compared or hold no image.
    """
    if examples < 0:
        raise BadArgument(f"--examples must be at least 0, not {examples}.")
    members, standing = views.compared(runs, common_images=common_images)
    per_image = views.per_image(members)
    data = _data(members, per_image)
    page = ""
    for side, quality in PHOTO_SIZES:
        gallery = _gallery(
            members,
            per_image,
            examples,
            image_ids,
            Pictures(runs[0], images=images, gt=gt, gt_dir=gt_dir),
            side,
            quality,
        )
        page = _page(members, standing, {**data, "gallery": list(gallery.images)}, gallery, title)
        if len(page.encode()) < LARGEST or not gallery.images:
            break
    else:
        notice(f"The page has {len(page.encode()) / 1e6:.0f} MB; fewer --examples make it smaller.")
    for sentence in gallery.missing:
        notice(sentence)
    return page


def _page(
    members: Sequence[Compared], standing: Standing, data: Mapping[str, Any], gallery: Gallery, title: str | None
) -> str:
    script = "\n".join(_asset(name) for name in SCRIPTS)
    style = _asset("page.css")
    row = members[0].row
    where = " ".join(part for part in (row.dataset, row.split) if part) or "their data"
    number = "1 run" if len(members) == 1 else f"{len(members)} runs"
    shown = title or f"{number if len(members) > 1 else members[0].label} on {where}"
    return Template(_asset("page.html")).substitute(
        title=html.escape(shown),
        subtitle=html.escape(
            f"{row.images:,} images · {len(members[0].categories)} categories · "
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC · panbench {__version__}"
        ),
        policy=html.escape(
            f"default-src 'none'; img-src data:; script-src {_hash_of(script)}; style-src {_hash_of(style)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=style,
        script=script,
        overview=_overview(members, standing),
        provenance=_provenance(members),
        sections="".join(_sections(members, gallery)),
        data=_json(data),
    )


def _overview(members: Sequence[Compared], standing: Standing) -> Html:
    """The comparison table with rank and interval, its notes, and which differences are real."""
    rows = standing.rows
    grid = comparison_grid(rows)
    ranked = len(rows) > 1 and any(row.rank for row in rows)
    head = [tag("th", "Rank", scope="col", class_="number")] if ranked else []
    head.append(tag("th", grid.columns[0], scope="col"))
    for column in grid.columns[1:]:
        meaning = _MEANINGS.get(column)
        shown = _SPOKEN.get(column, column)
        head.append(tag("th", tag("abbr", shown, title=meaning) if meaning else shown, scope="col", class_="number"))
        if column == "PQ":
            head.append(tag("th", "95 % interval", scope="col", class_="number"))
    body = []
    for index, (row, cells, member) in enumerate(zip(rows, grid.rows, members, strict=True)):
        marks = cells[0][len(cells[0].rstrip("¹²³⁴⁵⁶⁷⁸⁹⁰,")) :]
        written = [tag("td", str(row.rank or "–"), class_="number")] if ranked else []
        written.append(
            tag("th", tag("span", class_="marker", data_marker=index), member.label, marks, scope="row", class_="name")
        )
        for place, cell in enumerate(cells[1:], start=1):
            best = (index, place) in grid.best
            written.append(tag("td", tag("strong", cell) if best else cell, class_="number"))
            if grid.columns[place] == "PQ":
                known = row.PQ_low is not None and row.PQ_high is not None
                written.append(
                    tag(
                        "td", f"{percent(row.PQ_low)} – {percent(row.PQ_high)}" if known else "–", class_="number quiet"
                    )
                )
        body.append(tag("tr", *written))
    table = _scrolling(
        tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), id="comparison"), "The comparison"
    )
    notes = [*grid.notes]
    if any(row.rank for row in rows):
        notes.extend(standing.grids[1].notes)
    if (row := rows[0]).images and not any(row.PQ_low is not None for row in rows):
        notes.append("Fewer than 10 images: no intervals.")
    pieces = [table, Html("".join(tag("p", note, class_="note") for note in notes))]
    pieces.append(tag("div", id="chart-intervals", class_="chart"))
    pairs = [grid for grid in standing.grids if grid.columns[0] == "Better"]
    if pairs:
        pieces.append(tag("h3", "Which differences are real"))
        pieces.append(_grid_table(pairs[0], "Differences of pairs of runs"))
    return Html("".join(pieces))


def _provenance(members: Sequence[Compared]) -> Html:
    """What was run, a column a run; what is the same in all is said once."""
    records = [_run_record(member) for member in members]
    names = list(dict.fromkeys(name for record in records for name in record))
    body = []
    for name in names:
        values = [record.get(name, "–") for record in records]
        head = tag("th", name, scope="row")
        code = name in _IN_CODE
        if len(set(values)) == 1:
            shown = [tag("td", _code(values[0]) if code else values[0], colspan=len(members))]
        else:
            shown = [tag("td", _code(value) if code else value) for value in values]
        body.append(tag("tr", head, *shown))
    heads = [
        tag("th", tag("span", class_="marker", data_marker=index), member.label, scope="col")
        for index, member in enumerate(members)
    ]
    table = tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *body), class_="provenance")
    short = [
        tag(
            "li",
            tag("span", class_="marker", data_marker=index),
            f"{member.label}: {_in_short(record)}",
        )
        for index, (member, record) in enumerate(zip(members, records, strict=True))
    ]
    for command in dict.fromkeys(record["Command"] for record in records if "Command" in record):
        short.append(tag("li", tag("code", command)))
    everything = tag("details", tag("summary", "Everything about the runs"), _scrolling(table, "What was run"))
    return Html(tag("ul", *short, class_="plain") + everything)


def _in_short(record: Mapping[str, str]) -> str:
    """One line on a run: its state, weights and device."""
    digest = record.get("SHA-256 of the weights")
    parts = [
        record["State"],
        f"weights {digest[:12]}" if digest else record.get("Weights") and f"{record['Weights']} weights",
        record.get("Device"),
        record.get("Precision"),
    ]
    return " · ".join(part for part in parts if part)


def _run_record(member: Compared) -> dict[str, str]:
    info, row = member.run.info, member.row
    model, dataset = info.get("model") or {}, info.get("dataset") or {}
    counts, seconds = info.get("images") or {}, info.get("seconds") or {}
    device, versions = info.get("device") or {}, dict(info.get("versions") or {})
    operators = versions.pop("operators", None)
    expected, held = counts.get("expected"), len(member.run.image_ids())
    status = str(info.get("status") or "done")
    if not row.complete:
        status += f", incomplete: {held:,} of {expected or '?'} images"
    record = {
        "Run": member.run.name,
        "State": status,
        "Model": _joined(model.get("title"), model.get("backbone")),
        "Config": _file(model.get("config")),
        "Weights": "random" if model.get("random_weights") else _file(model.get("weights")),
        "SHA-256 of the weights": model.get("weights_sha256"),
        "Published PQ": _published(model.get("published")),
        "Data": _joined(dataset.get("name"), dataset.get("split")),
        "Images": f"{row.images:,} shown, {held:,} scored, {dataset.get('n_images', '?')} in the set",
        "SHA-256 of the ground truth": dataset.get("fingerprint"),
        "Device": _joined(device.get("name"), f"({device['type']})" if device.get("type") else None),
        "Precision": info.get("precision"),
        "Batch size": (info.get("arguments") or {}).get("batch_size"),
        "Seed": info.get("seed"),
        "Seconds": ", ".join(f"{stage} {spent:,.1f}" for stage, spent in seconds.items() if spent is not None),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Operators": _told(operators),
        "panbench": _joined(info.get("panbench"), (info.get("git_commit") or "")[:12] or None),
        "Started": info.get("started"),
        "Finished": info.get("finished"),
        "Command": shlex.join(map(str, info.get("command") or ())) or None,
    }
    return {name: str(value) for name, value in record.items() if value not in (None, "")}


def _sections(members: Sequence[Compared], gallery: Gallery) -> Iterable[Html]:
    several = len(members) > 1
    speeds = [member.row.images_per_second for member in members]
    sizes = [member.row.params for member in members]
    if any(speeds) or any(sizes):
        devices = {(member.row.device, member.row.precision) for member in members if member.row.images_per_second}
        warning = (
            tag(
                "p",
                "The runs were made on different devices or precisions: their speeds do not compare.",
                class_="warning",
            )
            if len(devices) > 1
            else Html("")
        )
        lacking = [member.label for member in members if not member.row.images_per_second]
        left_out = (
            tag("p", f"Without a speed, as scored predictions have none: {', '.join(lacking)}.", class_="note")
            if lacking
            else Html("")
        )
        yield _section(
            "cost",
            "Quality against cost",
            "Up is better; to the right is faster, and to the left is smaller.",
            warning,
            tag(
                "div",
                tag("div", id="chart-speed", class_="chart"),
                tag("div", id="chart-params", class_="chart"),
                class_="pair",
            ),
            left_out,
        )
    else:
        yield _left_out(
            "cost",
            "Quality against cost",
            "These runs hold scored predictions; runs of `panbench eval` know their speed.",
        )
    yield _section("categories", "Categories", "Sort by any column; type to filter.", tag("div", id="category-table"))
    yield _section(
        "causes",
        "What PQ is lost to",
        "Each bar is 100 points: the PQ that the model has, and what each cause takes of the rest. The parts add up.",
        tag("div", id="chart-causes", class_="chart"),
        tag("div", id="cause-table"),
    )
    if len(members[0].categories) > 1:
        yield _section(
            "confusion",
            "What is taken for what",
            "Rows are true categories: the share of their pixels that was given to each category. "
            "Shown are the categories that are confused most.",
            tag("div", id="confusion-view"),
        )
    yield _section(
        "slices", "PQ by size and other slices", "How PQ changes over parts of the data.", tag("div", id="slice-view")
    )
    yield _section(
        "images",
        "Image by image",
        "PQ of each image by itself. Filled points have a picture below; a click opens it."
        if several
        else "PQ of each image by itself, worst first. Filled points have a picture below; a click opens it.",
        tag("div", id="image-view"),
    )
    if gallery.images:
        notes = [tag("p", sentence, class_="note") for sentence in gallery.missing]
        yield _section(
            "gallery",
            "Examples",
            f"{len(gallery.images)} images: the worst, those on which the models differ most, the costliest of each "
            "cause, and typical ones. Drag the divider; point at a segment for its name and verdict.",
            *notes,
            tag("div", id="gallery-view"),
        )
    else:
        yield _left_out("gallery", "Examples", " ".join(gallery.missing) or "No examples were asked for.")


def _section(key: str, title: str, intro: str, *content: Html) -> Html:
    return tag(
        "section", tag("h2", title, id=f"{key}-title"), tag("p", intro, class_="intro"), *content, id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def _left_out(key: str, title: str, sentence: str) -> Html:
    return tag(
        "section", tag("h2", title, id=f"{key}-title"), tag("p", f"Left out. {sentence}", class_="note"), id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def _data(members: Sequence[Compared], per_image: pd.DataFrame) -> dict[str, Any]:
    """The numbers that the scripts draw: fractions to four digits, null where there is none."""
    categories = members[0].categories
    position = {category.name: index for index, category in enumerate(categories)}
    by_run = [member.label for member in members]
    overview = views.overview(members)
    per_category = views.per_category(members)
    lost = views.causes(members)
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")[by_run]
    objects = views.mistaken_objects(members)
    return {
        "models": [
            {"label": member.label, "complete": member.row.complete, "run": member.run.name} for member in members
        ],
        "categories": [
            {"name": category.name, "thing": category.isthing, "super": category.supercategory}
            for category in categories
        ],
        "overview": {name: _numbers(overview[name]) for name in ("PQ", "low", "high", "params", "images_per_second")},
        "perCategory": [
            {
                "category": place,
                "segments": int(own["segments"].iloc[0]),
                "scores": [_numbers(score) for score in own[["PQ", "SQ", "RQ"]].to_numpy()],
                "counts": own[["TP", "FP", "FN"]].to_numpy().tolist(),
            }
            for place, own in enumerate(_of_categories(per_category, [category.id for category in categories]))
        ],
        "causes": {
            "names": [cause.name for cause in CAUSES],
            "meanings": [cause.description for cause in CAUSES],
            "lost": [_numbers(lost.loc[lost["run"] == run, "lost"]) for run in by_run],
            "gain": [_numbers(lost.loc[lost["run"] == run, "gain"]) for run in by_run],
            "counts": [lost.loc[lost["run"] == run, ["FP", "FN", "TP"]].to_numpy().tolist() for run in by_run],
        },
        "confusion": _confusion(members, position),
        "objects": [
            [by_run.index(row.run), position[row.true], position[row.predicted], int(row.objects)]
            for row in objects.head(MOST_CONFUSED).itertuples()
        ],
        "slices": [
            {
                "title": SLICINGS[name].title,
                "names": list(dict.fromkeys(table["slice"])),
                "PQ": [_numbers(table.loc[table["run"] == run, "PQ"]) for run in by_run],
                "truths": (
                    table.loc[table["run"] == by_run[0], "TP"] + table.loc[table["run"] == by_run[0], "FN"]
                ).tolist(),
            }
            for name, table in views.all_slices(members).items()
        ],
        "images": {"ids": pq.index.tolist(), "PQ": [_numbers(pq[run]) for run in by_run]},
    }


def _of_categories(per_category: pd.DataFrame, ids: Sequence[int]) -> Iterable[pd.DataFrame]:
    groups = dict(list(per_category.groupby("category_id", sort=False)))
    return (groups[category_id] for category_id in ids)


def _confusion(members: Sequence[Compared], position: Mapping[str, int]) -> list[list[list[float]]]:
    """For each run [true, predicted, share, pixels], predicted -1 for void: the diagonal, and the largest others."""
    table = views.confusion(members)
    found = []
    for member in members:
        own = table[table["run"] == member.label]
        wrong = own[own["true"] != own["predicted"]].nlargest(MOST_CONFUSED, "share")
        right = own[own["true"] == own["predicted"]]
        found.append(
            [
                [position[row.true], position.get(row.predicted, -1), round(row.share, 4), int(row.pixels)]
                for row in pd.concat([right, wrong]).itertuples()
            ]
        )
    return found


def choose_examples(
    per_image: pd.DataFrame, members: Sequence[Compared], number: int, wanted: Sequence[int] = ()
) -> dict[int, list[str]]:
    """Image ids for the gallery, at most `number`, each with the reasons why it is worth a look.

    In turns: the worst PQ, the largest disagreement of two runs, the image that each cause costs most, a typical image.
    """
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")
    known = pq.dropna(how="any")
    mean = known.mean(axis=1)
    spread = known.max(axis=1) - known.min(axis=1)
    queues: list[list[tuple[int, str]]] = [
        [(int(image), "lowest PQ") for image in mean.sort_values(kind="stable").index],
        [(int(image), "models differ most") for image in spread[spread > 0].sort_values(ascending=False).index],
        _costliest(members),
        [(int(image), "typical") for image in (mean - mean.median()).abs().sort_values(kind="stable").index],
    ]
    chosen = _Reasons()
    for image in wanted:
        chosen.add(int(image), "asked for")
    fronts = [iter(queue) for queue in queues]
    while fronts and len(chosen.of_image) < number:
        for front in list(fronts):
            if len(chosen.of_image) >= number:
                break
            following = next((pick for pick in front if pick[0] not in chosen.of_image), None)
            if following is None:
                fronts.remove(front)
            else:
                chosen.add(*following)
    for queue in queues[:3]:
        for image, reason in queue[: max(3, number // 4)]:
            if image in chosen.of_image:
                chosen.add(image, reason)
    return chosen.of_image


def _costliest(members: Sequence[Compared]) -> list[tuple[int, str]]:
    """The images that each cause costs most, the worst of each cause first, then the second of each …"""
    worst = pd.concat([member.explained.worst for member in members], ignore_index=True)
    worst = worst[worst["cause"] != "imperfect mask"].sort_values("gain", ascending=False, kind="stable")
    worst = worst.drop_duplicates(["cause", "image_id"])
    worst = worst.assign(place=worst.groupby("cause").cumcount()).sort_values(
        ["place", "gain"], ascending=[True, False]
    )
    return [(int(row.image_id), f"costly: {row.cause}") for row in worst.itertuples()]


def _gallery(
    members: Sequence[Compared],
    per_image: pd.DataFrame,
    number: int,
    wanted: Sequence[int],
    pictures: Pictures,
    side: int,
    quality: int,
) -> Gallery:
    """The example images with ground truth and the predictions of every run that kept them."""
    if number == 0 and not wanted:
        return Gallery()
    missing = []
    sources: list[RunPictures | None] = []
    for member in members:
        source = RunPictures(member.run, member.label)
        if source.folder is None:
            missing.append(
                f"{member.label} has no stored predictions and is not in the pictures: "
                "`panbench eval … --save-predictions` keeps them."
            )
        sources.append(source if source.folder else None)
    if not any(sources):
        how = "Runs that `panbench eval --save-predictions` made have pictures."
        return Gallery((), (f"No run has stored predictions. {how}",))
    strangers = sorted(set(wanted) - set(per_image["image_id"]))
    if strangers:
        raise BadArgument(f"--image {strangers[0]}: the runs have not scored such an image.")
    try:
        pictures.panoptic  # noqa: B018  (says what is gone before any image is tried)
    except BadDataset as error:
        return Gallery((), (str(error),))
    records, faults = [], []
    chosen = choose_examples(per_image, members, max(number, len(wanted)), wanted)
    for image_id, reasons in chosen.items():
        try:
            records.append(_example(image_id, reasons, members, sources, pictures, side, quality))
        except PanbenchError as error:
            faults.append(str(error))
    if faults:
        missing.append(f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}")
    return Gallery(tuple(records), tuple(missing))


def _example(
    image_id: int,
    reasons: Sequence[str],
    members: Sequence[Compared],
    sources: Sequence[RunPictures | None],
    pictures: Pictures,
    side: int,
    quality: int,
) -> dict[str, Any]:
    photo = pictures.photo(image_id)
    categories = members[0].categories
    position = {category.id: index for index, category in enumerate(categories)}
    first = next(source for source in sources if source is not None)
    scale = min(1.0, side / max(photo.shape[:2]))
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    truth = first.truth(image_id, pictures)
    shown = [truth, *(source and source.prediction(image_id, pictures) for source in sources)]
    layers = [layer and _layer_record(layer, position, segment_colors(layer, categories), size) for layer in shown]
    # What became of a true segment differs from model to model.
    answers = [None if source is None else _answers(source, image_id, truth) for source in sources]
    return {
        "id": image_id,
        "file": pictures.file_name(image_id),
        "why": list(reasons),
        "width": size[0],
        "height": size[1],
        "photo": _jpeg(photo, size, quality),
        "layers": layers,
        "answers": answers,
    }


def _answers(source: RunPictures, image_id: int, truth: Layer) -> list[list[Any]]:
    """For each segment of the ground truth, what one run made of it: [verdict, IoU, cause]."""
    judged = source.judged(image_id)
    by_id = judged[judged["side"] == "gt"].set_index("id")
    return [
        [str(row["verdict"]), None if row["iou"] != row["iou"] else round(float(row["iou"]), 4), row["cause"] or None]
        for row in (by_id.loc[segment.id] for segment in truth.segments)
    ]


def _layer_record(
    layer: Layer, position: Mapping[int, int], colors: Mapping[int, tuple[int, int, int]], size: tuple[int, int]
) -> dict[str, Any]:
    index = numbered(layer).astype(np.uint16)
    small = cv2.resize(index, size, interpolation=cv2.INTER_NEAREST).astype(np.uint16, copy=False)
    return {
        "runs": base64.b64encode(run_lengths(small)).decode(),
        "segments": [
            {
                "category": position.get(segment.category_id, -1),
                "area": segment.area,
                "score": None if segment.score is None else round(segment.score, 3),
                "iou": None if segment.iou is None else round(segment.iou, 4),
                "verdict": segment.verdict,
                "cause": segment.cause,
                "crowd": segment.iscrowd,
                "color": "#{:02x}{:02x}{:02x}".format(*colors[segment.id]),
            }
            for segment in layer.segments
        ],
    }


def run_lengths(index: npt.NDArray[np.uint16]) -> bytes:
    """An index map as pairs (value, length) of runs in row order, each number in base 128, low digits first.

    The page decodes this itself: reading a PNG back from a canvas gives other values in browsers that resist
    fingerprinting.
    """
    flat = index.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    out = bytearray()
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for number in (value, length):
            while number > 127:
                out.append(number & 127 | 128)
                number >>= 7
            out.append(number)
    return bytes(out)


def _jpeg(photo: Photo, size: tuple[int, int], quality: int) -> str:
    small = photo if size == photo.shape[1::-1] else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    done, content = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise BadRun("A photograph cannot be written as JPEG.")
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def _grid_table(grid: Grid, label: str) -> Html:
    head = [
        tag("th", name, scope="col", class_=None if index < grid.words else "number") if name else tag("td")
        for index, name in enumerate(grid.columns)
    ]
    body = [
        tag("tr", *(tag("td", cell, class_=None if index < grid.words else "number") for index, cell in enumerate(row)))
        for row in grid.rows
    ]
    table = _scrolling(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)), label)
    return Html(table + "".join(tag("p", note, class_="note") for note in grid.notes))


def _scrolling(table: Html, label: str) -> Html:
    """Wide tables scroll in their own box, which the keyboard can reach."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _code(text: str) -> Html:
    return tag("code", text)


def _numbers(values: Any) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else round(float(value), 4) for value in values]


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("panbench.report.page").joinpath("assets", name).read_text("utf-8")


def _escaped(child: str | None) -> str:
    return "" if child is None else str(child) if isinstance(child, Html) else html.escape(str(child))


def _joined(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part)


def _file(path: Any) -> str | None:
    return Path(str(path)).name if path else None


def _told(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _published(published: Any) -> str | None:
    if not isinstance(published, Mapping) or published.get("PQ") is None:
        return None
    return _joined(percent(published["PQ"], 1), "on", published.get("dataset"), published.get("split"))


_IN_CODE = {"SHA-256 of the weights", "SHA-256 of the ground truth", "Command", "Config", "Weights", "Run"}
_SPOKEN = {"img/s": "images/s", "publ.": "published", "diff": "difference", "params": "parameters"}
_MEANINGS = {
    "PQ": "Panoptic quality: SQ × RQ",
    "SQ": "Segmentation quality: mean IoU of the matched segments",
    "RQ": "Recognition quality: F1 of the segments",
    "PQ_th": "PQ of the things",
    "PQ_st": "PQ of the stuff",
}
