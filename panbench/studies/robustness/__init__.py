"""Corrupted images: what noise, blur, weather and compression cost a model."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "robustness",
    "Corrupted images: what noise, blur, weather and compression cost a model.",
    order=40,
    options={"eval": "panbench.studies.robustness.options:CorruptionOptions"},
    commands=(
        StudyCommand(
            "robustness",
            "Print PQ under corruption: mPC, rPC and each kind.",
            "panbench.studies.robustness.command:app",
            "Ask",
        ),
    ),
    section="panbench.studies.robustness.section:corruptions_section",
    definitions="panbench.studies.robustness.definitions:DEFINITIONS",
)
