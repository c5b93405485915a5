"""A gate for CI: is a run worse than its baseline?"""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "gate",
    "A gate for CI: is a run worse than its baseline?",
    order=90,
    commands=(
        StudyCommand(
            "gate", "Check whether a run is worse than a baseline, for CI.", "panbench.studies.gate.command:app", "Ask"
        ),
    ),
)
