"""How many segments a run has an image: a study as a package of its own."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "edges",
    "How many segments an image has.",
    order=500,
    commands=(StudyCommand("edges", "Count segments.", "panbench_edges.study:app", "Ask"),),
    section="panbench_edges.study:section",
    options={"eval": "panbench_edges.options:EdgesOptions"},
    measures={"metrics": "panbench_edges.study:SEGMENTS"},
)
