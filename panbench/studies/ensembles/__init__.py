"""Ensembles of runs by votes or masks; averaged views of an image."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "ensembles",
    "Ensembles of runs by votes or masks; averaged views of an image.",
    order=60,
    options={"eval": "panbench.studies.ensembles.options:ViewOptions"},
    commands=(
        StudyCommand(
            "ensemble",
            "Combine the maps of several runs into one, and score it.",
            "panbench.studies.ensembles.command:app",
            "Run",
        ),
    ),
)
