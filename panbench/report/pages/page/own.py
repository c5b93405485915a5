"""PQ over the sets of images that the user drew, with intervals, and the difference of the two best."""

from collections.abc import Sequence
from typing import Any

from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.slices import image_statistics, pq_by
from panbench.metrics.uncertainty import Comparison, weigh
from panbench.report.answers.comparison import corrected_p
from panbench.report.answers.grid import ABSENT, percent, signed
from panbench.report.answers.views import Compared
from panbench.report.pages.page.elements import Html, head, named, number, scrolling, shortened, tag
from panbench.report.pages.page.section import Section

__all__ = ["own_section"]


def own_section(members: Sequence[Compared], slices: Sequence[ImageSlices]) -> Section:
    """PQ over sets of images that the user drew, with intervals, and the difference of the two best."""
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
        cut = {key: slice_by_images(each, own) for key, each in zip(_keys(members), found, strict=True)}
        tables = [pq_by(statistics) for statistics in cut.values()]
        shown.append(_slice_table(members, own, weigh(cut)))
        records.append(
            {
                "key": f"own-{own.name}",
                "title": own.name,
                "names": list(own.images),
                "PQ": [[None if value != value else shortened((value,))[0] for value in one["PQ"]] for one in tables],
                "truths": (tables[0]["TP"] + tables[0]["FN"]).tolist(),
            }
        )
    words = "Bold: significant at 5 %, corrected for all pairs and slices of a table (Holm). "
    note = tag("p", f"{words}Slices of fewer than 10 images have no interval.", class_="note")
    intro = "PQ over the sets of images in `--slices`, with 95 % intervals. A slice opens the images with most errors."
    content = (tag("div", id="own-view"), *shown, note)
    return Section(title, intro, content, numbers={"own": records})


def _slice_table(members: Sequence[Compared], slices: ImageSlices, comparison: Comparison) -> Html:
    keys = _keys(members)
    of_run = comparison.runs[comparison.runs["metric"] == "PQ"].set_index(["run", "name"])
    apart = comparison.differences
    apart = apart[apart["metric"] == "PQ"]
    heads = [tag("th", slices.name[:1].upper() + slices.name[1:], scope="col"), head("images")]
    heads += [head(named(member.label, index)) for index, member in enumerate(members)]
    if len(members) > 1:
        heads.append(head(f"{members[0].label} − {members[1].label}"))
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
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="stacked")
    return scrolling(table, f"PQ by {slices.name}")


def _difference(tests: Any, name: str) -> Html:
    own = tests[tests["name"] == name].iloc[0]
    if own["difference"] != own["difference"]:
        return tag("td", ABSENT, class_="number")
    # The tests say b − a.
    shown = number(signed(-own["difference"], 1))
    p = corrected_p(own["p_holm"], own["at_floor"])
    words = "" if p == ABSENT else f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"
    difference = tag("strong", shown) if own["significant"] else shown
    return tag("td", difference, tag("small", words, class_="quiet"), class_="number")


def _keys(members: Sequence[Compared]) -> list[str]:
    """Names for tests: those of runs may be equal."""
    return [str(index) for index in range(len(members))]


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
