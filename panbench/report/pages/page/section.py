"""Sections that only some runs can fill: the user's own slices, and what studies add.

What is missing is one line, with the command that makes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panbench.base.studies import load_from_studies
from panbench.metrics.slices import ImageSlices, image_statistics, pq_by, slice_by_images
from panbench.metrics.uncertainty import Comparison, Difference, compare_runs
from panbench.report.answers import views
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.overview import difference_cells
from panbench.report.pages.rendering import Markup, render

Point = tuple[Sequence[float], str] | tuple[Sequence[float], str, str]


@dataclass(frozen=True)
class Curves:
    """A chart of a section: one line per model, drawn if the content of the section contains `chart-NAME`.

    across, up: names of the axes
    series: for each model its index and its points: each (x, y, low, high) and words that explain it, or (x, y, low,
        high, left, right), the words and a name displayed next to the point
    diagonal: also draw x = y; span: the value of 1 on the axis, None for percent
    zoom: the axes begin at the points, not at 0
    """

    title: str
    across: str
    up: str
    series: Sequence[tuple[int, Sequence[Point]]]
    diagonal: bool = False
    span: float | None = None
    zoom: bool = False

    def record(self) -> dict[str, Any]:
        """Returns the chart as JSON for the page's scripts."""
        series = [
            {"model": model, "points": [[*numbers[:4], words, *name, *numbers[4:]] for numbers, words, *name in points]}
            for model, points in self.series
        ]
        return {**vars(self), "series": series}


@dataclass(frozen=True)
class Section:
    """A section of the page, or the reason why it is missing.

    intro: a sentence on how to read it, commands between backticks
    content: the output of `panbench.report.pages.rendering.render` for a template and the section's facts
    curves: charts by name; numbers: for the page's scripts, by name
    missing: instead of content, how to create it, with the command between backticks
    """

    title: str
    intro: str = ""
    content: Markup | str = ""
    curves: Mapping[str, Curves] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""


SectionMaker = Callable[[Sequence[Compared]], Section]
"""A study's function for the page (`Study.section`): returns its section for these runs, the best first."""


def shortened(values: Iterable[float]) -> list[float]:
    """Rounds fractions to four digits, or more where the percentages printed from them would change.

    The scripts round once more: 0.80949 as 0.8095 would read 81.0 in a chart and 80.9 in a sentence.
    """
    return [_shortened_fraction(float(value)) for value in values]


def _shortened_fraction(value: float) -> float:
    """Rounds a fraction to four digits, or more where the percentage printed from it would change.

    Percentages are printed with none, one or two decimals.
    """
    # Four digits nearly always suffice, unless they end exactly where a percent with one decimal or none rounds.
    if abs(value) < 1e6:
        last = round(tens_of_thousands := 1e4 * value)
        if last % 10 != 5 and last % 100 != 50 and abs(tens_of_thousands - last) < 0.499:
            return round(value, 4)
    reads = _as_percents(value)
    return next((short for digits in (4, 6, 8, 10, 12) if _as_percents(short := round(value, digits)) == reads), value)


def _as_percents(value: float) -> str:
    """Returns a fraction as percent with none, one and two decimals."""
    percent = 100 * value
    return f"{percent:.0f} {percent:.1f} {percent:.2f}"


def own_section(members: Sequence[Compared], slices: Sequence[ImageSlices]) -> Section:
    """Returns the section on PQ over the user's own sets of images."""
    title = "Your slices"
    if not slices:
        words = "PQ by camera, night, site …: `panbench report … --slices FILE.csv`, of columns image_id and camera."
        return Section(title, missing=words)
    shown, records = [], []
    for chosen in slices:
        own = chosen.of_images(members[0].matched.image_ids.tolist())
        if not own.images:
            continue
        found = (image_statistics(member.matched, member.categories) for member in members)
        cut = {key: slice_by_images(each, own) for key, each in zip(_test_keys(members), found, strict=True)}
        tables = [pq_by(statistics) for statistics in cut.values()]
        shown.append({"name": own.name, "rows": list(_slice_rows(members, own, compare_runs(cut)))})
        records.append(
            {
                "key": f"own-{own.name}",
                "title": own.name,
                "names": list(own.images),
                "PQ": [[None if value != value else shortened((value,))[0] for value in one["PQ"]] for one in tables],
                "truths": (tables[0]["TP"] + tables[0]["FN"]).tolist(),
            }
        )
    intro = "PQ over the sets of images in `--slices`, with 95 % intervals. A slice opens the images with most errors."
    labels = [member.label for member in members]
    content = render("panbench.report.pages.page:own.html", labels=labels, slicings=shown)
    return Section(title, intro, content, numbers={"own": records})


def _slice_rows(members: Sequence[Compared], slices: ImageSlices, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yields a row for each slice: its images, each model's PQ with interval, and the best two's difference."""
    keys = _test_keys(members)
    of_run = comparison.runs[comparison.runs["metric"] == "PQ"].set_index(["run", "name"])
    tests = comparison.differences
    tests = tests[(tests["metric"] == "PQ") & (tests["a"] == keys[0]) & (tests["b"] == keys[1 % len(keys)])]
    apart = {row.name: Difference.of(row, keys[0]) for row in tests.itertuples()}
    for name, images in slices.images.items():
        scores = []
        for key in keys:
            row = of_run.loc[(key, name)]
            interval = "" if row["low"] != row["low"] else f"{percent(row['low'], 1)} – {percent(row['high'], 1)}"
            scores.append((percent(row["value"], 1), interval))
        difference = difference_cells(apart[name]) if len(members) > 1 else None
        yield {"name": name, "images": len(images), "scores": scores, "difference": difference}


def _test_keys(members: Sequence[Compared]) -> list[str]:
    """Returns a unique key for each run, for the tests of differences, since names may be equal."""
    return [str(index) for index in range(len(members))]


@dataclass
class FurtherSections:
    """The further sections of a page, with data for their charts, and the reason for each section that is missing.

    sections: by HTML id; numbers: for the page's scripts; missing: (title, reason)
    """

    sections: dict[str, Section] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=lambda: {"curves": {}})
    missing: list[tuple[str, str]] = field(default_factory=list)

    def add_section(self, key: str, found: Section) -> None:
        """Adds a section under the id `key`, or the reason why it is missing."""
        if found.missing:
            self.missing.append((found.title, found.missing))
            return
        self.sections[key] = found
        self.numbers.update(found.numbers)
        self.numbers["curves"] |= {name: drawn.record() for name, drawn in found.curves.items()}


def find_further_sections(
    members: Sequence[Compared], slices: Sequence[ImageSlices] = (), claims: bool = False
) -> FurtherSections:
    """Makes the page's sections on the user's slices and of each study, and hints on how to get missing ones.

    slices: the user's; claims: published rows exist
    """
    found = FurtherSections()
    found.add_section("own", own_section(members, slices))
    found.numbers["curves"]["thresholds"] = _threshold_chart(members).record()
    for name, make in load_from_studies("section").items():
        found.add_section(name, make(members))
    if not claims:
        words = "`panbench report … --published NAME` adds published results under the comparison; "
        found.missing.append(("Published results", f"{words}`panbench models --published` lists the names."))
    return found


def _threshold_chart(members: Sequence[Compared]) -> Curves:
    """Returns a chart of PQ by the IoU that a match needs."""
    table = views.thresholds(members)
    series = []
    for index, member in enumerate(members):
        own = table[table["run"] == member.label]
        points = [
            ((threshold, PQ, PQ, PQ), f"{member.label}\nIoU above {threshold:.2f}: PQ {percent(PQ)}")
            for threshold, PQ in own[["threshold", "PQ"]].itertuples(index=False)
        ]
        series.append((index, points))
    return Curves("PQ by IoU threshold", "IoU that a match needs, in percent", "PQ", series, zoom=True)
