"""The section of the page on the PQ that fusion costs."""

from collections.abc import Sequence

from panbench.base.errors import BadRun
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Section
from panbench.report.pages.rendering import render
from panbench.studies.fusing.answer import ORACLE_STEPS, oracle_record, read_oracle


def fusion_section(members: Sequence[Compared]) -> Section:
    """Builds the report section on PQ lost by fusion (a lower bound), for runs evaluated by `fuse --oracle`."""
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
        rows.append((member.label, index, [percent(pq[step], 1) for step in ORACLE_STEPS]))
        if rule is not None and best is not None:
            lost, rest = max(best - rule, 0.0), 1 - best
            words = f"{member.label}: PQ {percent(rule, 1)}; at least {percent(lost, 1)} lost by scores and fusion, "
            words += f"at most {percent(rest, 1)} because no mask fits"
            bars.append((index, 100 * lost, 100 * rest, words))
    how = "`panbench eval … --keep-candidates` stores the network's outputs, then `panbench fuse RUN --oracle`."
    if not rows:
        return Section(title, missing=f"the share of the fusion rule in what is lost: {how}")
    heads = ("Model", "the rule", "right categories", "right selection", "overlaps by the truth", "all three")
    notes = [f"Without an oracle: {', '.join(lacking)}. {how}"] if lacking else []
    intro = (
        "PQ of the rule, and had it known the truth: the right category of each segment that fits, which segments to "
        "leave out and which masks to take for what it missed, how overlaps are decided. All three are what these "
        "masks can do at least: a map that was made, not the best one. So scores and fusion lose at least as much as "
        "shown, and at most the rest is lost because no mask fits."
    )
    content = render("panbench.studies.fusing:section.html", bars=bars, heads=heads, rows=rows, notes=notes)
    return Section(title, intro, content)
