"""Check whether a published number is reproduced."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "reproduction",
    "Check whether a published number is reproduced.",
    order=100,
    commands=(
        StudyCommand(
            "reproduce",
            "Check whether a published number is reproduced.",
            "panbench.studies.reproduction.command:app",
            "Ask",
        ),
    ),
)
