"""Attention of a transformer's queries over a photograph, layer by layer."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "attention",
    "Attention of a transformer's queries over a photograph, layer by layer.",
    order=140,
    commands=(
        StudyCommand(
            "attention", "Show what a transformer's queries look at.", "panbench.studies.attention.command:app", "show"
        ),
    ),
)
