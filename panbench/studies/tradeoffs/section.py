"""The section of the page on PQ against time."""

from collections.abc import Sequence

from panbench.base.errors import BadRun
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section, shortened
from panbench.report.pages.rendering import render
from panbench.studies.tradeoffs.answer import Tradeoff, TradeoffStep, tradeoffs
from panbench.studies.tradeoffs.steps import LAYERS, SIZES, StepKind

_HOW = "`panbench eval … --layers all --resume` makes the runs of the layers, `--size 0.5,0.75,1` those of sizes."


def tradeoffs_section(members: Sequence[Compared]) -> Section:
    """Builds the section of PQ against time, for runs evaluated at several decoder layers or image sizes."""
    title = "PQ against time"
    found: list[tuple[int, str, Tradeoff]] = []
    notes = []
    for index, member in enumerate(members):
        try:
            found += [(index, member.label, each) for each in tradeoffs([member.run], tested=False)]
        except BadRun as problem:
            # Most runs have no steps, which is no news; unreadable ones are.
            if "has no runs of other" not in str(problem) and "single layers or sizes" not in str(problem):
                notes.append(f"{member.label}: {problem}")
    if not found:
        return Section(title, missing=f"What each decoder layer, or a smaller image, is worth. {_HOW}")
    rows = []
    series: dict[StepKind, list[tuple[int, list[tuple[list[float], str, str]]]]] = {LAYERS: [], SIZES: []}
    longest = max((step.milliseconds[2] for *_, one in found for step in one.steps if step.milliseconds), default=0.0)
    for index, label, one in found:
        points = [
            _step_point(label, one, step, longest) for step in one.steps if step.milliseconds and step.low is not None
        ]
        if points:
            series[one.kind].append((index, points))
        own_time = one.own_step.milliseconds
        for step in one.steps:
            time = step.milliseconds
            cells = [
                f"{one.kind.word} {step.number:g}",
                percent(step.PQ, 1),
                ABSENT if time is None else f"{time[0]:.1f}",
                ABSENT if time is None or own_time is None else f"{own_time[0] / time[0]:.2f}×",
            ]
            rows.append((label, index, cells))
    intro = (
        "PQ of each model when its network ends after an earlier decoder layer, or sees smaller images, by the time "
        "for an image. Vertical: 95 % intervals; horizontal: the middle half of the times. `panbench compare "
        "--tradeoffs RUN` tests the differences."
    )
    curves = {
        f"tradeoffs-{kind.plural}": Curves(
            f"PQ by {kind.word} and time", f"ms/image, by {kind.word}", "PQ", own, span=longest, zoom=True
        )
        for kind, own in series.items()
        if own
    }
    facts = {"heads": ("Model", "step", "PQ", "ms/image", "speed"), "rows": rows, "notes": notes}
    content = render("panbench.studies.tradeoffs:section.html", panels=list(curves), **facts)
    return Section(title, intro, content, curves)


def _step_point(label: str, one: Tradeoff, step: TradeoffStep, longest: float) -> tuple[list[float], str, str]:
    """Returns a point of the chart (times as shares of the longest, PQ with interval), its tooltip and its label."""
    assert step.milliseconds is not None
    assert step.PQ is not None
    assert step.low is not None
    assert step.high is not None
    words = (
        f"{label}\n{step.milliseconds[0]:.1f} ms\n{one.kind.word} {step.number:g}\nPQ {percent(step.PQ, 1)} "
        f"(95 % interval {percent(step.low, 1)} – {percent(step.high, 1)})"
    )
    middle, first, third = (time / longest for time in step.milliseconds)
    return [middle, *shortened((step.PQ, step.low, step.high)), first, third], words, f"{step.number:g}"
