"""Evaluates a model on a dataset of other categories, given a map from its categories to the dataset's."""

from panbench.base.studies import Study

STUDY = Study(
    "transfer",
    "A model on data of other categories, through an explicit map.",
    order=900,
    options={
        "eval": "panbench.studies.transfer.options:CategoryMapOptions",
        "score": "panbench.studies.transfer.options:MappedScores",
    },
)
