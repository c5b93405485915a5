"""What a transformer's queries look at in a photograph, layer by layer."""

from panbench.base.studies import Study, StudyCommand

__all__ = ["STUDY"]

STUDY = Study(
    "attention",
    "What a transformer's queries look at in a photograph, layer by layer.",
    order=140,
    commands=(
        StudyCommand(
            "attention", "Show what a transformer's queries look at.", "panbench.studies.attention.command:app", "show"
        ),
    ),
)
