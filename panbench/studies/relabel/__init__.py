"""Scores runs on two ground truths of the same images, and finds labels that look wrong."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "relabel",
    "Two truths of the same images, and labels that look wrong.",
    order=70,
    commands=(
        StudyCommand(
            "relabel",
            "Score on two ground truths, and find labels that look wrong.",
            "panbench.studies.relabel.command:app",
            "Ask",
        ),
    ),
)
