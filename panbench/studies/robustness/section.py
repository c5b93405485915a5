"""The section of the page on PQ under corruption."""

from collections.abc import Sequence

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section, shortened
from panbench.report.pages.rendering import render
from panbench.studies.robustness.definitions import corrupted_runs


def corruptions_section(members: Sequence[Compared]) -> Section:
    """Builds the section: PQ on corrupted images, for runs with corrupted runs next to them."""
    title, rows, series, lacking = "Corruptions", [], [], []
    cautions: dict[str, list[str]] = {}
    for index, member in enumerate(members):
        path = member.run.path
        if path is None or not corrupted_runs(path).is_dir():
            lacking.append(member.label)
            continue
        # The corruptions themselves are imported only for runs that have some.
        from panbench.studies.robustness.answer import pq_of, robustness, robustness_curves

        try:
            (found,) = robustness([member.run])
        except BadRun as problem:
            lacking.append(f"{member.label} ({problem})")
            continue
        curve = robustness_curves([found])
        curve = curve[curve["group"] == "all"]
        # Severities are 0 to 5; the axis goes from 0 to 1.
        points = []
        for row in curve.itertuples():
            if row.PQ != row.PQ or row.low != row.low:
                continue
            words = (
                f"{member.label}\nseverity {int(row.severity)}{'' if row.severity else ', clean'}\n"
                f"PQ {percent(row.PQ, 1)} (95 % interval {percent(row.low, 1)} – {percent(row.high, 1)})"
            )
            points.append(([row.severity / 5, *shortened((row.PQ, row.low, row.high))], words))
        if points:
            series.append((index, points))
        mean, relative = found.mPC, found.rPC
        means = [None if values is None else pq_of(values) for values in (mean, relative)]
        cells = [percent(pq_of(found.clean), 1), *(percent(one, 1) for one in means), found.corruptions_in_words]
        rows.append((member.label, index, cells))
        for caution in found.cautions:
            cautions.setdefault(caution, []).append(member.label)
    how = "`panbench eval … --corrupt all15 --resume` evaluates a model on corrupted images, next to its clean run."
    if not rows:
        return Section(title, missing=f"PQ under noise, blur, weather and compression. {how}")
    intro = (
        "PQ by the severity of the corruption, the mean over its kinds; 0 is clean. mPC is the mean over kinds and "
        "severities, rPC its share of the clean PQ. `panbench robustness RUN` has each kind."
    )
    notes = [f"Without corrupted runs: {', '.join(lacking)}. {how}"] if lacking else []
    # Cautions that concern only some models name them.
    notes += [words if len(who) == len(rows) else f"{in_sentence(who)}: {words}" for words, who in cautions.items()]
    curves = Curves("PQ by the severity of corruptions", "severity", "PQ", series, span=5) if series else None
    facts = {"heads": ("Model", "clean PQ", "mPC", "rPC", "mean of"), "rows": rows, "notes": notes}
    content = render("panbench.studies.robustness:section.html", drawn=curves is not None, **facts)
    return Section(title, intro, content, {"robustness": curves} if curves else {})
