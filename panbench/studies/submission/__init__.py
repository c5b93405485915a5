"""Predictions as COCO’s evaluation server takes them."""

from panbench.base.studies import Study

STUDY = Study(
    "submission",
    "Predictions as COCO’s evaluation server takes them.",
    order=110,
    options={"export": "panbench.studies.submission.options:ServerOptions"},
)
