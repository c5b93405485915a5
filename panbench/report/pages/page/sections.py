"""The sections of the page: what is read without JavaScript, and the places that the scripts fill."""

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panbench.catalog import Published
from panbench.panoptic.types import GROUPS
from panbench.report.answers.comparison import Standing
from panbench.report.answers.grid import percent, signed
from panbench.report.answers.tables import comparison_grid
from panbench.report.answers.views import Compared
from panbench.report.pages.page.added import Added
from panbench.report.pages.page.elements import Html, code, left_out, number, prose, scrolling, section, tag
from panbench.report.pages.page.gallery import Gallery
from panbench.report.pages.page.numbers import pair_tests
from panbench.runs import ModelRecord

__all__ = ["overview", "provenance", "sections", "title_of"]


def title_of(members: Sequence[Compared]) -> str:
    """What the page is of: the models by name, or their number, and the data."""
    row, info = members[0].row, members[0].run.info
    name = row.dataset or "their data"
    # Predictions are scored against a file, which has no other name.
    where = f"{name}.json" if info.kind == "score" and not row.split else _joined(name, row.split)
    labels = [member.label for member in members]
    several = f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else labels[0]
    return f"{several if len(labels) < 4 else f'{len(labels)} models'} on {where}"


def overview(members: Sequence[Compared], standing: Standing) -> Html:
    """The verdict, the comparison with ranks and intervals, and which differences are real."""
    pieces = []
    if standing.verdict is not None:
        first, *rest = ("".join(clause.text for clause in sentence) for sentence in standing.verdict.sentences)
        words = Html(f"{tag('strong', first)} {tag('span', ' '.join(rest))}") if rest else tag("strong", first)
        pieces.append(tag("p", words, class_="verdict-text", id="verdict"))
    pieces.append(_scores(members, standing))
    pieces.append(
        tag(
            "p",
            Html(
                "PQ (panoptic quality) = SQ × RQ. SQ (segmentation quality) is the mean IoU of the segments that were "
                "found, RQ (recognition quality) the F1 of finding them: a segment is found when category and IoU "
                "&gt; 0.5 agree. All are means over categories, in percent; PQ<sup>Th</sup> is the PQ of things "
                "(countable objects), PQ<sup>St</sup> of stuff (regions)."
            ),
            class_="note",
        )
    )
    notes = list(comparison_grid(standing.rows).notes)
    if any(row.rank for row in standing.rows):
        notes.extend(standing.grids[1].notes)
    pieces.extend(tag("p", prose(note), class_="note") for note in notes)
    pieces.append(tag("div", id="chart-intervals", class_="chart"))
    if standing.comparison is not None and len(members) > 1:
        pieces.append(tag("h3", "Which differences are real"))
        pieces.append(_differences(members, standing))
    return Html("".join(pieces))


def _scores(members: Sequence[Compared], standing: Standing) -> Html:
    """The table of scores, the best model first, each with its rank and the range that its rank may have."""
    rows = standing.rows
    grid = comparison_grid(rows)
    ranges = _rank_ranges(standing)
    ranked = len(rows) > 1 and bool(ranges)
    head = [tag("th", "Rank", scope="col", class_="number")] if ranked else []
    head.append(tag("th", grid.columns[0], scope="col"))
    for column in grid.columns[1:]:
        meaning = _MEANINGS.get(column)
        name = _spoken(column)
        head.append(tag("th", tag("abbr", name, title=meaning) if meaning else name, scope="col", class_="number"))
        if column == "PQ":
            head.append(tag("th", "95 % interval", scope="col", class_="number"))
    body = []
    for index, (row, cells) in enumerate(zip(rows, grid.rows, strict=True)):
        # Claims stand below the runs.
        member = members[index] if index < len(members) else None
        marks = cells[0][len(cells[0].rstrip("¹²³⁴⁵⁶⁷⁸⁹⁰,")) :]
        written = [tag("td", _rank(row.rank, ranges.get(standing.keys[index])), class_="number")] if ranked else []
        marker = tag("span", class_="marker", data_marker=index) if member else None
        label = member.label if member else row.title
        written.append(tag("th", marker, label, marks, scope="row", class_="name"))
        for place, cell in enumerate(cells[1:], start=1):
            best = (index, place) in grid.best
            shown = number(cell)
            written.append(tag("td", tag("strong", shown) if best else shown, class_="number"))
            if grid.columns[place] == "PQ":
                known = row.PQ_low is not None and row.PQ_high is not None
                interval = f"{percent(row.PQ_low)} – {percent(row.PQ_high)}" if known else "–"
                written.append(tag("td", interval, class_="number quiet"))
        body.append(tag("tr", *written, class_=None if member else "claim"))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), id="comparison")
    return scrolling(table, "The comparison")


def _rank_ranges(standing: Standing) -> dict[str, tuple[int, int]]:
    if standing.comparison is None:
        return {}
    table = standing.comparison.runs
    table = table[(table["group"] == "All") & (table["metric"] == "PQ") & table["rank_low"].notna()]
    return {row.run: (int(row.rank_low), int(row.rank_high)) for row in table.itertuples()}


def _rank(rank: int | None, known: tuple[int, int] | None) -> str | Html:
    """The rank and, where it is not sure, its 95 % range."""
    if rank is None or known is None:
        return "–"
    low, high = known
    return str(rank) if low == high else Html(f"{rank} {tag('span', f'({low}–{high})', class_='quiet')}")


def _differences(members: Sequence[Compared], standing: Standing) -> Html:
    """Of each pair the difference in PQ, on things and on stuff: a matrix for each, or rows where that is shorter."""
    tests = {(pair["a"], pair["b"]): pair["groups"] for pair in pair_tests(members, standing)}
    count = len(members)
    comparison = standing.comparison
    assert comparison is not None
    note = tag(
        "p",
        f"A difference in bold is significant at {100 * (1 - comparison.level):g} %: p, from "
        f"{comparison.permutations:,} swaps of the two models image by image, is corrected for all comparisons (Holm).",
        class_="note",
    )
    if len(tests) < count * (count - 1) // 2:
        base = next(index for index in range(count) if all(index in pair for pair in tests))
        rows = [
            [_named(members, index), *(_difference(tests, index, base, group) for group in range(3))]
            for index in range(count)
            if index != base
        ]
        head = ["Model", *map(_spoken, _GROUPS)]
        return Html(_plain_table(f"Each model − {members[base].label}", head, rows) + note)
    if count == 2:
        rows = []
        for group, name in enumerate(_GROUPS):
            if (cells := tests[0, 1][group]) is not None:
                rows.append([_spoken(name), _difference(tests, 0, 1, group), number(_interval(cells)), _p(cells[3])])
        head = ["", "Difference", "95 % interval", "p"]
        return Html(_plain_table(f"{members[0].label} − {members[1].label}", head, rows) + note)
    matrices = []
    for group, name in enumerate(_GROUPS):
        if not any(groups[group] for groups in tests.values()):
            continue
        rows = [
            [_named(members, row), *(_difference(tests, row, column, group, with_p=True) for column in range(count))]
            for row in range(count)
        ]
        marks = [tag("span", class_="marker", data_marker=index, data_named=True) for index in range(count)]
        head = [Html(_spoken(name) + ": row − column"), *marks]
        matrices.append(_plain_table(f"Differences in {name}, row minus column", head, rows, class_="matrix"))
    return Html(tag("div", *matrices, class_="matrices") + note)


def _difference(
    tests: Mapping[tuple[int, int], Sequence[Any]], a: int, b: int, group: int, *, with_p: bool = False
) -> str | Html:
    """a − b in points of PQ, bold where significant."""
    if a == b:
        return ""
    cells = tests[min(a, b), max(a, b)][group]
    if cells is None or cells[0] is None:
        return "–"
    difference = cells[0] if a < b else -cells[0]
    shown = number(signed(difference, 1))
    words = f"p {_p(cells[3])}" if _p(cells[3]).startswith("<") else f"p = {_p(cells[3])}"
    small = tag("small", words, class_="quiet") if with_p else None
    return Html(tag("strong", shown) + (small or "") if cells[4] else shown + (small or ""))


def _interval(cells: Sequence[Any]) -> str:
    return "–" if cells[1] is None else f"[{signed(cells[1], 1)}, {signed(cells[2], 1)}]"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _named(members: Sequence[Compared], index: int) -> Html:
    return Html(tag("span", class_="marker", data_marker=index) + tag("span", members[index].label))


def _plain_table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]], class_: str | None = None) -> Html:
    """A table whose first column names the rows."""
    top = [
        tag("th", cell, scope="col", class_="number" if place else None) if cell else tag("td")
        for place, cell in enumerate(head)
    ]
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell, class_="number") for cell in row[1:]))
        for row in rows
    ]
    caption = tag("caption", label) if not class_ else tag("caption", label, class_="hidden")
    return scrolling(tag("table", caption, tag("thead", tag("tr", *top)), tag("tbody", *body), class_=class_), label)


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
        "Damage": " ".join(member.run.faults),
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


def sections(members: Sequence[Compared], gallery: Gallery, more: Added) -> Iterable[Html]:
    """The sections after the comparison, in the page's order; the record of the runs is the last."""
    several = len(members) > 1
    yield section(
        "categories",
        "Categories",
        "PQ of each category, a mark a model on one axis. "
        + ("Sorted by the difference of the chosen pair that chance explains least. " if several else "Worst first. ")
        + "A category opens its pictures.",
        tag("div", id="category-table"),
    )
    yield section(
        "causes",
        "What PQ is lost to",
        "Points of PQ that each cause takes; with the PQ that a model has they add up to 100. "
        "A cause opens the images where it costs most.",
        tag("div", id="chart-causes", class_="chart"),
        tag("div", id="cause-table"),
    )
    if len(members[0].categories) > 1:
        yield section(
            "confusion",
            "What is taken for what",
            "The worst confusions of any model. A row opens the images where it happens most.",
            tag("div", id="confusion-view"),
        )
    yield section(
        "slices",
        "PQ by size and other slices",
        "How PQ changes over parts of the data. A slice opens the images with most errors in it.",
        tag("div", id="slice-view"),
    )
    yield section(
        "images",
        "Image by image",
        "PQ of each image by itself" + (". " if several else ", worst first. ") + "Filled points have a picture below.",
        tag("div", id="image-view"),
    )
    if gallery.images or gallery.live:
        notes = [tag("p", prose(sentence), class_="note") for sentence in gallery.missing]
        yield section(
            "gallery",
            "Examples",
            "All images of these runs: choose what they hold, and what went wrong in them."
            if gallery.live
            else f"{len(gallery.images)} images: the worst, those on which models differ most, and the costliest of "
            "each cause, slice, confusion and category.",
            *notes,
            tag("div", id="gallery-view"),
        )
    else:
        yield left_out("gallery", "Examples", " ".join(gallery.missing) or "No examples were asked for.")
    yield from more.sections
    yield _cost(members)
    yield from more.left_out()
    yield section("provenance", "What was run", "", provenance(members))


def _cost(members: Sequence[Compared]) -> Html:
    """PQ against speed and size."""
    title = "Quality against cost"
    speeds = [member.row.images_per_second for member in members]
    if not any(speeds) and not any(member.row.params for member in members):
        return left_out(
            "cost", title, "These runs hold scored predictions; runs of `panbench eval` know their speed and size."
        )
    devices = {(member.row.device, member.row.precision) for member in members if member.row.images_per_second}
    notes = []
    if len(devices) > 1:
        words = "The runs were made on different devices or precisions: their speeds do not compare."
        notes.append(tag("p", words, class_="warning"))
    if any(speeds):
        words = (
            "Speeds are those of the evaluation once it is warm, with whatever else the machine did; `panbench bench` "
            f"measures them. The whole loop: {'; '.join(filter(None, map(_whole_loop, members)))}."
        )
        notes.append(tag("p", prose(words), class_="note"))
    lacking = [member.label for member in members if not member.row.images_per_second]
    if lacking and any(speeds):
        words = f"Without a speed, as scored predictions and runs of very few batches have none: {', '.join(lacking)}."
        notes.append(tag("p", words, class_="note"))
    charts = (tag("div", id="chart-speed", class_="chart"), tag("div", id="chart-params", class_="chart"))
    intro = "Up is better; to the right is faster, and to the left is smaller."
    return section("cost", title, intro, tag("div", *charts, class_="pair"), *notes)


def _whole_loop(member: Compared) -> str | None:
    """How long all of an evaluation took, its first batches and its writing included."""
    wall = member.run.info.seconds.wall
    if not member.row.images_per_second or wall is None:
        return None
    return f"{member.label} {member.run.info.images.scored:,} images in {wall:,.1f} s"


def _spoken(column: str) -> Html:
    """A column's name as papers and people write it."""
    return _HEADS.get(column) or Html(html.escape(column))


def _joined(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part)


def _file(path: Any) -> str | None:
    return Path(str(path)).name if path else None


def _published(published: Published | None) -> str | None:
    if published is None:
        return None
    return _joined(percent(published.PQ, 1), "on", published.dataset, published.split)


_IN_CODE = {"SHA-256 of the weights", "SHA-256 of the ground truth", "Command", "Config", "Weights", "Run"}
_GROUPS = tuple(f"PQ{suffix}" for suffix in GROUPS.values())
_HEADS = {
    "PQ_th": Html("PQ<sup>Th</sup>"),
    "PQ_st": Html("PQ<sup>St</sup>"),
    "img/s": Html("images/s"),
    "publ.": Html("published"),
    "diff": Html("difference"),
    "params": Html("parameters"),
}
_MEANINGS = {
    "PQ": "Panoptic quality: SQ × RQ",
    "SQ": "Segmentation quality: mean IoU of the matched segments",
    "RQ": "Recognition quality: F1 of the segments",
    "PQ_th": "PQ of the things",
    "PQ_st": "PQ of the stuff",
}
