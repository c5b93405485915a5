"""The study's command, section and measure."""

from panbench.cli import console
from panbench.cli.command import Run, command, family
from panbench.report.answers.measures import Measure, Measured
from panbench.report.pages.page.section import Section
from panbench.report.pages.rendering import render
from panbench.runs import load_run

app = family()


def segments_of(run):
    """How many segments the predictions of a run have."""
    segments = run.segments()
    return int((segments["side"] == "pred").sum())


@command(app, "edges", "panbench edges results/mine")
def edges(run: Run) -> None:
    """Count segments."""
    console.show(f"{segments_of(load_run(run))} segments")


def section(members):
    """The section of the page."""
    counts = [(member.label, segments_of(member.run)) for member in members]
    return Section("Segments", "How many there are.", render("panbench_edges:section.html", counts=counts))


def found(question):
    """The measure of `panbench metrics`."""
    count = segments_of(question.run)
    return Measured((("segments", str(count), "", ""),), record={"segments": count})


SEGMENTS = Measure(found)
