"""The section of the page on PQ against time."""

from collections.abc import Sequence

from panbench.base.errors import BadRun
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section
from panbench.report.pages.page.shortened import shortened
from panbench.report.pages.rendering import render
from panbench.studies.tradeoffs.answer import Step, Tradeoff, tradeoffs

__all__ = ["tradeoffs_section"]

_HOW = "`panbench eval … --layers all --resume` makes the runs of the layers, `--size 0.5,0.75,1` those of sizes."


def tradeoffs_section(members: Sequence[Compared]) -> Section:
    """PQ by time of layers and sizes, of runs that have such runs beside them."""
    title = "PQ against time"
    found: list[tuple[int, str, Tradeoff]] = []
    notes = []
    for index, member in enumerate(members):
        try:
            found += [(index, member.label, each) for each in tradeoffs([member.run], tested=False)]
        except BadRun as problem:
            # Most runs have none beside them; what cannot be read is worth a word.
            if "has no runs of other" not in str(problem) and "single layers or sizes" not in str(problem):
                notes.append(f"{member.label}: {problem}")
    if not found:
        return Section(title, missing=f"What each decoder layer, or a smaller image, is worth. {_HOW}")
    rows, series = [], []
    longest = max((step.milliseconds[0] for *_, one in found for step in one.steps if step.milliseconds), default=0.0)
    for index, label, one in found:
        points = [_point(label, one, step, longest) for step in one.steps if step.milliseconds and step.low is not None]
        if points:
            series.append((index, points))
        whole = one.whole.milliseconds
        for step in one.steps:
            time = step.milliseconds
            cells = [
                f"{one.kind.word} {step.number:g}",
                percent(step.PQ, 1),
                ABSENT if time is None else f"{time[0]:.1f}",
                ABSENT if time is None or whole is None else f"{whole[0] / time[0]:.2f}×",
            ]
            rows.append((label, index, cells))
    intro = (
        "PQ of each model when its network ends after an earlier decoder layer, or sees smaller images, by the time "
        "for an image, as a share of the longest. `panbench compare --tradeoffs RUN` tests the differences."
    )
    curves = Curves("PQ by time", "time, share of the longest", "PQ", series) if series else None
    facts = {"heads": ("Model", "step", "PQ", "ms/image", "speed"), "rows": rows, "notes": notes}
    content = render("panbench.studies.tradeoffs:section.html", drawn=curves is not None, **facts)
    return Section(title, intro, content, curves)


def _point(label: str, one: Tradeoff, step: Step, longest: float) -> tuple[list[float], str]:
    """A step on the chart: share of the longest time, PQ and its interval, and the words on it."""
    assert step.milliseconds is not None
    assert step.PQ is not None
    assert step.low is not None
    assert step.high is not None
    words = (
        f"{label}\n{one.kind.word} {step.number:g}: {step.milliseconds[0]:.1f} ms\nPQ {percent(step.PQ, 1)} "
        f"(95 % interval {percent(step.low, 1)} – {percent(step.high, 1)})"
    )
    return [step.milliseconds[0] / longest, *shortened((step.PQ, step.low, step.high))], words
