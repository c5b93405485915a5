"""Compares PQ with time when a network ends at an earlier decoder layer, or sees images of another size."""

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
