"""The sections of the page: what is read without JavaScript, and the places that the scripts fill."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panbench.catalog import Published
from panbench.report.comparison import Standing
from panbench.report.grid import percent
from panbench.report.page.elements import Html, code, grid_table, left_out, scrolling, section, tag
from panbench.report.page.gallery import Gallery
from panbench.report.tables import comparison_grid
from panbench.report.views import Compared
from panbench.runs import ModelRecord

__all__ = ["overview", "provenance", "sections"]


def overview(members: Sequence[Compared], standing: Standing) -> Html:
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
    table = scrolling(
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
        pieces.append(grid_table(pairs[0], "Differences of pairs of runs"))
    return Html("".join(pieces))


def provenance(members: Sequence[Compared]) -> Html:
    """What was run, a column a run; what is the same in all is said once."""
    records = [_run_record(member) for member in members]
    names = list(dict.fromkeys(name for record in records for name in record))
    body = []
    for name in names:
        values = [record.get(name, "–") for record in records]
        head = tag("th", name, scope="row")
        show = code if name in _IN_CODE else str
        if len(set(values)) == 1:
            shown = [tag("td", show(values[0]), colspan=len(members))]
        else:
            shown = [tag("td", show(value)) for value in values]
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
    everything = tag("details", tag("summary", "Everything about the runs"), scrolling(table, "What was run"))
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
    model, dataset, device, versions = info.model or ModelRecord(), info.dataset, info.device, dict(info.versions)
    operators = versions.pop("operators", None)
    listed = "?" if dataset.n_images is None else dataset.n_images
    held, status = len(member.run.image_ids()), str(info.status)
    if not row.complete:
        status += f", incomplete: {held:,} of {info.images.expected or '?'} images"
    record = {
        "Run": member.run.name,
        "State": status,
        "Model": _joined(model.title, model.backbone),
        "Config": _file(model.config),
        "Weights": "random" if model.random_weights else _file(model.weights),
        "SHA-256 of the weights": model.weights_sha256,
        "Published PQ": _published(model.published),
        "Data": _joined(dataset.name, dataset.split),
        "Images": f"{row.images:,} shown, {held:,} scored, {listed} in the set",
        "SHA-256 of the ground truth": dataset.fingerprint,
        "Device": _joined(device.name, f"({device.type})" if device.type else None),
        "Rule": None if info.rule is None else str(info.rule),
        "Precision": info.precision,
        "Batch size": info.batch_size,
        "Seed": info.seed,
        "Seconds": ", ".join(
            f"{stage} {spent:,.1f}" for stage, spent in vars(info.seconds).items() if spent is not None
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Operators": operators,
        "panbench": _joined(info.panbench, (info.git_commit or "")[:12] or None),
        "Started": info.started,
        "Finished": info.finished,
        "Command": shlex.join(info.command) or None,
    }
    return {name: str(value) for name, value in record.items() if value not in (None, "")}


def sections(members: Sequence[Compared], gallery: Gallery) -> Iterable[Html]:
    """The sections after the comparison and the record, in the page's order."""
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
        unknown_speeds = (
            tag("p", f"Without a speed, as scored predictions have none: {', '.join(lacking)}.", class_="note")
            if lacking
            else Html("")
        )
        yield section(
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
            unknown_speeds,
        )
    else:
        yield left_out(
            "cost",
            "Quality against cost",
            "These runs hold scored predictions; runs of `panbench eval` know their speed.",
        )
    yield section("categories", "Categories", "Sort by any column; type to filter.", tag("div", id="category-table"))
    yield section(
        "causes",
        "What PQ is lost to",
        "Each bar is 100 points: the PQ that the model has, and what each cause takes of the rest. The parts add up.",
        tag("div", id="chart-causes", class_="chart"),
        tag("div", id="cause-table"),
    )
    if len(members[0].categories) > 1:
        yield section(
            "confusion",
            "What is taken for what",
            "Rows are true categories: the share of their pixels that was given to each category. "
            "Shown are the categories that are confused most.",
            tag("div", id="confusion-view"),
        )
    yield section(
        "slices", "PQ by size and other slices", "How PQ changes over parts of the data.", tag("div", id="slice-view")
    )
    yield section(
        "images",
        "Image by image",
        "PQ of each image by itself. Filled points have a picture below; a click opens it."
        if several
        else "PQ of each image by itself, worst first. Filled points have a picture below; a click opens it.",
        tag("div", id="image-view"),
    )
    if gallery.images:
        notes = [tag("p", sentence, class_="note") for sentence in gallery.missing]
        yield section(
            "gallery",
            "Examples",
            f"{len(gallery.images)} images: the worst, those on which the models differ most, the costliest of each "
            "cause, and typical ones. Drag the divider; point at a segment for its name and verdict.",
            *notes,
            tag("div", id="gallery-view"),
        )
    else:
        yield left_out("gallery", "Examples", " ".join(gallery.missing) or "No examples were asked for.")


def _joined(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part)


def _file(path: Any) -> str | None:
    return Path(str(path)).name if path else None


def _published(published: Published | None) -> str | None:
    if published is None:
        return None
    return _joined(percent(published.PQ, 1), "on", published.dataset, published.split)


_IN_CODE = {"SHA-256 of the weights", "SHA-256 of the ground truth", "Command", "Config", "Weights", "Run"}
_SPOKEN = {"img/s": "images/s", "publ.": "published", "diff": "difference", "params": "parameters"}
_MEANINGS = {
    "PQ": "Panoptic quality: SQ × RQ",
    "SQ": "Segmentation quality: mean IoU of the matched segments",
    "RQ": "Recognition quality: F1 of the segments",
    "PQ_th": "PQ of the things",
    "PQ_st": "PQ of the stuff",
}
