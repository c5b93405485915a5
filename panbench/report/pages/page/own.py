"""PQ over the sets of images that the user drew, with intervals, and the difference of the two best."""

from collections.abc import Iterator, Sequence
from typing import Any

from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.slices import image_statistics, pq_by
from panbench.metrics.uncertainty import Comparison, weigh
from panbench.report.answers.comparison import p_in_words
from panbench.report.answers.grid import ABSENT, percent, signed
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Section
from panbench.report.pages.page.shortened import shortened
from panbench.report.pages.rendering import render

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
        shown.append({"name": own.name, "rows": list(_rows(members, own, weigh(cut)))})
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


def _rows(members: Sequence[Compared], slices: ImageSlices, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Images, each model's PQ with interval, and the difference of the two best models, for each slice."""
    keys = _keys(members)
    of_run = comparison.runs[comparison.runs["metric"] == "PQ"].set_index(["run", "name"])
    apart = comparison.differences
    apart = apart[apart["metric"] == "PQ"]
    apart = apart[(apart["a"] == keys[0]) & (apart["b"] == keys[1 % len(keys)])]
    for name, images in slices.images.items():
        scores = []
        for key in keys:
            row = of_run.loc[(key, name)]
            interval = "" if row["low"] != row["low"] else f"{percent(row['low'], 1)} – {percent(row['high'], 1)}"
            scores.append((percent(row["value"], 1), interval))
        difference = _difference(apart, name) if len(members) > 1 else None
        yield {"name": name, "images": len(images), "scores": scores, "difference": difference}


def _difference(tests: Any, name: str) -> dict[str, Any]:
    """How much better the best model is than the second, p, and whether that is significant."""
    own = tests[tests["name"] == name].iloc[0]
    if own["difference"] != own["difference"]:
        return {"points": ABSENT, "p": None, "significant": False}
    words = p_in_words(own["p_holm"], own["at_floor"])
    # The tests say b − a.
    return {"points": signed(-own["difference"], 1), "p": words, "significant": bool(own["significant"])}


def _keys(members: Sequence[Compared]) -> list[str]:
    """Names for tests: those of runs may be equal."""
    return [str(index) for index in range(len(members))]
