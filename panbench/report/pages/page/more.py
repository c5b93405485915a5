"""Sections for what some runs have and others lack: own slices, calibration, what fusion and corruptions cost.

What is missing is one line, with the command that makes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from panbench.base.errors import BadRun
from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.slices import image_statistics, pq_by
from panbench.metrics.uncertainty import Comparison, compare
from panbench.report.answers.grid import ABSENT, percent, signed
from panbench.report.answers.views import Compared
from panbench.report.pages.page.elements import Html, number, prose, scrolling, section, tag
from panbench.studies.calibration.calibration import calibration
from panbench.studies.fusing.answer import ORACLE_STEPS, oracle_record, read_oracle
from panbench.studies.robustness.answer import robustness, robustness_curves
from panbench.studies.robustness.corruptions import corrupted_runs

__all__ = ["More", "find_more"]


@dataclass
class More:
    """What was found: sections for the page, numbers for its scripts, and of what is missing a title and a sentence."""

    sections: list[Html] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)

    def left_out(self) -> Iterator[Html]:
        """The section that lists what is missing."""
        if self.missing:
            lines = [tag("li", tag("strong", f"{title}: "), prose(words)) for title, words in self.missing]
            intro = "What else can be shown of such runs, and how."
            yield section("left-out", "Left out", intro, tag("ul", *lines, class_="plain missing"))


def find_more(members: Sequence[Compared], slices: Sequence[ImageSlices] = (), claims: bool = False) -> More:
    """The sections that these runs can fill. slices: the user's own; claims: published rows are in the comparison."""
    more = More()
    _own_slices(more, members, slices)
    _calibration(more, members)
    _fusion(more, members)
    _corruptions(more, members)
    if not claims:
        words = "`panbench report … --published NAME` puts what papers claim under the comparison; "
        more.missing.append(("Published results", f"{words}`panbench published` lists the names."))
    words = "of models that were trained several times: is a difference more than the luck of a training? "
    more.missing.append(("Seeds", f"{words}`panbench compare 'A@seed*' 'B@seed*'`"))
    return more


def _own_slices(more: More, members: Sequence[Compared], slices: Sequence[ImageSlices]) -> None:
    """PQ over sets of images that the user drew, with intervals, and the difference of the two best."""
    title = "Your slices"
    if not slices:
        words = "PQ by camera, night, site …: `panbench report … --slices FILE.csv`, of columns image_id and camera."
        more.missing.append((title, words))
        return
    shown, records = [], []
    for chosen in slices:
        own = chosen.of_images(members[0].matched.image_ids.tolist())
        if not own.images:
            continue
        found = (image_statistics(member.matched, member.categories) for member in members)
        cut = {key: slice_by_images(each, own) for key, each in zip(_keys(members), found, strict=True)}
        tables = [pq_by(statistics) for statistics in cut.values()]
        shown.append(_slice_table(members, own, compare(cut)))
        records.append(
            {
                "key": f"own-{own.name}",
                "title": own.name,
                "names": list(own.images),
                "PQ": [[None if value != value else round(float(value), 4) for value in one["PQ"]] for one in tables],
                "truths": (tables[0]["TP"] + tables[0]["FN"]).tolist(),
            }
        )
    more.numbers["own"] = records
    words = "Bold: significant at 5 %, corrected for all pairs and slices of a table (Holm). "
    note = tag("p", f"{words}Slices of fewer than 10 images have no interval.", class_="note")
    intro = "PQ over the sets of images in `--slices`, with 95 % intervals. A slice opens the images with most errors."
    more.sections.append(section("own", title, intro, tag("div", id="own-view"), *shown, note))


def _slice_table(members: Sequence[Compared], slices: ImageSlices, comparison: Comparison) -> Html:
    keys = _keys(members)
    of_run = comparison.runs[comparison.runs["metric"] == "PQ"].set_index(["run", "name"])
    apart = comparison.differences
    apart = apart[apart["metric"] == "PQ"]
    head = [tag("th", slices.name[:1].upper() + slices.name[1:], scope="col"), _head("images")]
    head += [_head(_named(member, index)) for index, member in enumerate(members)]
    if len(members) > 1:
        head.append(_head(f"{members[0].label} − {members[1].label}"))
    body = []
    for name, images in slices.images.items():
        cells = [tag("td", f"{len(images):,}", class_="number")]
        for key in keys:
            row = of_run.loc[(key, name)]
            interval = "" if row["low"] != row["low"] else f"{percent(row['low'], 1)} – {percent(row['high'], 1)}"
            value = percent(_known(row["value"]), 1)
            cells.append(tag("td", value, tag("small", interval, class_="quiet"), class_="number"))
        if len(members) > 1:
            cells.append(_difference(apart[(apart["a"] == keys[0]) & (apart["b"] == keys[1])], name))
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="stacked")
    return scrolling(table, f"PQ by {slices.name}")


def _difference(tests: Any, name: str) -> Html:
    own = tests[tests["name"] == name].iloc[0]
    if own["difference"] != own["difference"]:
        return tag("td", ABSENT, class_="number")
    # The tests say b − a.
    shown = number(signed(-own["difference"], 1))
    p = own["p_holm"]
    words = "" if p != p else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    difference = tag("strong", shown) if own["significant"] else shown
    return tag("td", difference, tag("small", words, class_="quiet"), class_="number")


def _calibration(more: More, members: Sequence[Compared]) -> None:
    """Whether scores are right as often as they say."""
    title, rows, series, lacking = "Calibration", [], [], []
    for index, member in enumerate(members):
        try:
            found = calibration(member.matched, member.categories)
        except BadRun:
            lacking.append(member.label)
            continue
        own = found.scopes[found.scopes["group"] == "All"].iloc[0]
        curve = found.curve[(found.curve["group"] == "All") & (found.curve["segments"] > 0)]
        bounds = ("score", "precision", "precision_low", "precision_high")
        points = [
            [*(round(float(row[name]), 4) for name in bounds), int(row["segments"])] for _, row in curve.iterrows()
        ]
        series.append({"model": index, "points": points})
        threshold = _known(own["threshold"])
        rows.append(
            [
                _named(member, index),
                f"{own['segments']:,}",
                *(percent(_known(own[name]), 1) for name in ("score", "precision", "ECE")),
                ABSENT if threshold is None else f"{threshold:.3f}",
                percent(_known(own["kept"]), 1),
            ]
        )
    if not rows:
        words = "no prediction has a score. `panbench eval` stores them; "
        more.missing.append((title, f"{words}`panbench score` reads `score` of the records in `segments_info`."))
        return
    more.numbers["calibration"] = series
    heads = ("Model", "segments", "mean score", "right", "ECE", "90 % from", "keeps")
    notes = [
        "right: the share of predictions that are true positives. ECE: the mean distance of score and right over ten "
        "bins of scores. 90 % from: the lowest score from which on at least 90 % are right; keeps: the share of the "
        "right ones that this keeps."
    ]
    if lacking:
        notes.append(f"Without scores: {', '.join(lacking)}.")
    intro = (
        "Is a segment of which a model is 90 % sure right nine times in ten? Below the diagonal a model is too sure. "
        "`panbench calibration RUN` has things, stuff and categories."
    )
    chart = tag("div", id="chart-calibration", class_="chart square")
    beside = tag("div", chart, tag("div", _table("What scores are worth", heads, rows)), class_="beside")
    more.sections.append(section("calibration", title, intro, beside, *(tag("p", n, class_="note") for n in notes)))


def _fusion(more: More, members: Sequence[Compared]) -> None:
    """What the fusion rule costs at most, of runs whose oracle was stored."""
    title, rows, bars, lacking = "What fusion costs", [], [], []
    for index, member in enumerate(members):
        try:
            steps = read_oracle(member.run)
        except BadRun as problem:
            lacking.append(f"{member.label} ({problem})")
            continue
        if steps is None:
            lacking.append(member.label)
            continue
        images = member.matched.image_ids
        found = oracle_record({name: statistics.only(images) for name, statistics in steps.items()})
        pq = {step: scores["PQ"] for step, scores in found.items()}
        rule, best = pq["rule"], pq["all"]
        rows.append([_named(member, index), *(percent(pq[step], 1) for step in ORACLE_STEPS)])
        if rule is not None and best is not None:
            bars.append(_bar(member, index, rule, best))
    how = "`panbench eval … --keep-candidates` stores what left the network, then `panbench fuse RUN --oracle`."
    if not rows:
        more.missing.append((title, f"the share of the fusion rule in what is lost: {how}"))
        return
    heads = ("Model", "the rule", "right categories", "best masks", "overlaps by the truth", "all three")
    notes = [tag("p", f"Without an oracle: {', '.join(lacking)}. ", prose(how), class_="note")] if lacking else []
    intro = (
        "PQ of the rule, and had it known the truth: the right category of each mask that fits, the masks that fit "
        "best, overlaps decided by the truth. What all three cannot win, no mask fits."
    )
    table = _table("PQ of the oracle", heads, rows)
    more.sections.append(section("fusion", title, intro, tag("div", *bars, class_="shares"), table, *notes))


def _corruptions(more: More, members: Sequence[Compared]) -> None:
    """PQ on corrupted images, of runs that have corrupted ones beside them."""
    title, rows, series, lacking = "Corruptions", [], [], []
    for index, member in enumerate(members):
        path = member.run.path
        if path is None or not corrupted_runs(path).is_dir():
            lacking.append(member.label)
            continue
        try:
            (found,) = robustness([member.run])
        except BadRun as problem:
            lacking.append(f"{member.label} ({problem})")
            continue
        curve = robustness_curves([found])
        curve = curve[curve["group"] == "all"]
        # Severities are 0 to 5; the axis goes from 0 to 1.
        points = [
            [row.severity / 5, *(round(float(value), 4) for value in (row.PQ, row.low, row.high)), int(row.severity)]
            for row in curve.itertuples()
            if row.PQ == row.PQ and row.low == row.low
        ]
        if points:
            series.append({"model": index, "points": points})
        mean, relative = found.mPC, found.rPC
        means = [None if values is None else float(values[0]) for values in (mean, relative)]
        rows.append([_named(member, index), percent(float(found.clean[0]), 1), *(percent(one, 1) for one in means)])
        rows[-1].append(found.of_what)
    how = "`panbench eval … --corrupt all15 --resume` evaluates a model on corrupted images, beside its clean run."
    if not rows:
        more.missing.append((title, f"PQ under noise, blur, weather and compression. {how}"))
        return
    more.numbers["corruptions"] = series
    intro = (
        "PQ by the severity of the corruption, the mean over its kinds; 0 is clean. mPC is the mean over kinds and "
        "severities, rPC its share of the clean PQ. `panbench robustness RUN` has each kind."
    )
    notes = [tag("p", f"Without corrupted runs: {', '.join(lacking)}. ", prose(how), class_="note")] if lacking else []
    chart = tag("div", id="chart-corruptions", class_="chart square")
    table = _table("What corruptions cost", ("Model", "clean PQ", "mPC", "rPC", "mean of"), rows)
    beside = tag("div", chart, tag("div", table), class_="beside") if series else table
    more.sections.append(section("corruptions", title, intro, beside, *notes))


def _bar(member: Compared, index: int, rule: float, best: float) -> Html:
    """PQ, what scores and fusion lose, and what no mask fits, as parts of 100."""
    parts = (("found", 0.0, rule), ("lost", rule, best - rule), ("rest", best, 1 - best))
    drawn = [
        tag("rect", x=f"{100 * start:.2f}%", y=0, width=f"{100 * max(size, 0):.2f}%", height=20, class_=kind)
        for kind, start, size in parts
    ]
    words = f"PQ {percent(rule, 1)}; {percent(best - rule, 1)} lost by scores and fusion, "
    words += f"{percent(1 - best, 1)} because no mask fits"
    named = f"{member.label}: {words}"
    bar = tag("svg", *drawn, class_="share", width="100%", height=20, role="img", aria_label=named)
    return tag("div", tag("p", _marker(index), named), bar)


def _table(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    top = [tag("th", heads[0], scope="col"), *map(_head, heads[1:])]
    body = []
    for name, *cells in rows:
        numbers = (tag("td", number(cell), class_="number") for cell in cells)
        body.append(tag("tr", tag("th", name, scope="row", class_="model"), *numbers))
    return scrolling(tag("table", tag("thead", tag("tr", *top)), tag("tbody", *body)), label)


def _head(text: str) -> Html:
    return tag("th", text, scope="col", class_="number")


def _marker(index: int) -> Html:
    return tag("span", class_="marker", data_marker=index)


def _named(member: Compared, index: int) -> Html:
    return Html(_marker(index) + tag("span", member.label))


def _keys(members: Sequence[Compared]) -> list[str]:
    """Names for tests: those of runs may be equal."""
    return [str(index) for index in range(len(members))]


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
