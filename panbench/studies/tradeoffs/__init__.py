"""PQ against time: what a decoder layer and a larger image are worth."""

from panbench.base.studies import Study

STUDY = Study(
    "tradeoffs",
    "PQ against time: what a decoder layer and a larger image are worth.",
    # After the views of ensembles, which want the network itself.
    order=60,
    options={
        "eval": "panbench.studies.tradeoffs.options:TradeoffOptions",
        "compare": "panbench.studies.tradeoffs.compared:ComparedTradeoffs",
    },
    section="panbench.studies.tradeoffs.section:tradeoffs_section",
)
