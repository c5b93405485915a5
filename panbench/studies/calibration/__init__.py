"""Calibration of scores: is a segment of score 0.9 right nine times in ten?"""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "calibration",
    "Calibration of scores: is a segment of score 0.9 right nine times in ten?",
    order=20,
    commands=(
        StudyCommand(
            "calibration",
            "Print how often segments are correct, by score.",
            "panbench.studies.calibration.command:app",
            "Ask",
        ),
    ),
    section="panbench.studies.calibration.section:calibration_section",
    plots={"calibration": "panbench.studies.calibration.plot:RELIABILITY"},
)
