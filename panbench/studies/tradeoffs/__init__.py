"""PQ against time: what a decoder layer and a larger image are worth."""

from panbench.base.studies import Study, StudyCommand

__all__ = ["STUDY"]

STUDY = Study(
    "tradeoffs",
    "PQ against time: what a decoder layer and a larger image are worth.",
    # After the views of ensembles, which want the network itself.
    order=60,
    options={"eval": "panbench.studies.tradeoffs.options:TradeoffOptions"},
    commands=(
        StudyCommand(
            "tradeoffs",
            "Print PQ against time, by decoder layer or by image size.",
            "panbench.studies.tradeoffs.command:app",
            "Ask",
        ),
    ),
    section="panbench.studies.tradeoffs.section:tradeoffs_section",
)
