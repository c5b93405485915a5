"""The section of the page on metrics before fusion."""

from collections.abc import Sequence

import numpy as np

from panbench.base.errors import BadRun
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Section
from panbench.report.pages.rendering import render
from panbench.studies.unfused.answer import METRICS_EXPLAINED, ap_truth, measured_before_fusion, unfused_rows_of
from panbench.studies.unfused.boxes import source_in_words

_HOW = "`panbench eval … --metrics pq,ap,miou` measures them in the pass of PQ."


def unfused_section(members: Sequence[Compared]) -> Section:
    """Builds the report section on AP_pan, box AP_pan and mIoU_pan, for runs that measured them."""
    title, rows, notes, lacking = "Before fusion", [], [METRICS_EXPLAINED], []
    for index, member in enumerate(members):
        try:
            table = unfused_rows_of(member.run)
        except BadRun as problem:
            lacking.append(f"{member.label} ({problem})")
            continue
        if table is None:
            lacking.append(member.label)
            continue
        # Only images that all runs share are comparable.
        found = measured_before_fusion(table.only(np.asarray(member.matched.image_ids)), member.categories)
        values = (found.get(name) for name in ("AP", "AP50", "AP75", "AP_box", "mIoU_pan"))
        rows.append((member.label, index, [percent(value, 1) for value in values]))
        if table.instances is not None and table.instances.boxes is not None:
            notes.append(
                f"{member.label}: AP against {ap_truth(member.run)}; of boxes: "
                f"{source_in_words(table.instances.boxes)}."
            )
    if not rows:
        return Section(title, missing=f"AP_pan, box AP_pan and mIoU_pan: {_HOW}")
    if lacking:
        notes.append(f"Not measured: {', '.join(lacking)}. {_HOW}")
    intro = (
        "The quality of the networks' outputs before a rule fuses them. `panbench metrics RUN` has AP by size, and "
        "intervals; `panbench compare … --metrics ap,miou` has paired differences."
    )
    heads = ("Model", "AP_pan", "AP50", "AP75", "box AP_pan", "mIoU_pan")
    return Section(title, intro, render("panbench.studies.unfused:section.html", heads=heads, rows=rows, notes=notes))
