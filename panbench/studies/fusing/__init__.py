"""Fusing again: rules, thresholds and an oracle on stored network outputs."""

from panbench.base.studies import Study, StudyCommand

STUDY = Study(
    "fusing",
    "Fusing again: rules, thresholds and an oracle on stored network outputs.",
    order=30,
    options={"eval": "panbench.studies.fusing.options:KeepOptions"},
    commands=(
        StudyCommand(
            "fuse", "Fuse stored masks and scores, without the network.", "panbench.studies.fusing.command:app", "Run"
        ),
    ),
    measures={"errors": "panbench.studies.fusing.answer:ORACLE_LOSS"},
    section="panbench.studies.fusing.section:fusion_section",
)
