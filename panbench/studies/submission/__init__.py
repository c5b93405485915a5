"""Predictions as COCO’s evaluation server takes them."""

from panbench.base.studies import Study, StudyCommand

__all__ = ["STUDY"]

STUDY = Study(
    "submission",
    "Predictions as COCO’s evaluation server takes them.",
    order=110,
    commands=(
        StudyCommand(
            "submit",
            "Pack a run's predictions as COCO's evaluation server takes them.",
            "panbench.studies.submission.command:app",
            "Keep",
        ),
    ),
)
