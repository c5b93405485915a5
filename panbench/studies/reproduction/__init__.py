"""Whether a published number comes out."""

from panbench.base.studies import Study, StudyCommand

__all__ = ["STUDY"]

STUDY = Study(
    "reproduction",
    "Whether a published number comes out.",
    order=100,
    commands=(
        StudyCommand(
            "reproduce", "Say whether a published number comes out.", "panbench.studies.reproduction.command:app", "Ask"
        ),
    ),
)
