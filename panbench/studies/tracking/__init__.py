"""Evaluations are logged to TensorBoard, Weights & Biases or MLflow."""

from panbench.base.studies import Study

__all__ = ["STUDY"]

STUDY = Study(
    "tracking",
    "Evaluations are logged to TensorBoard, Weights & Biases or MLflow.",
    order=120,
    options={"eval": "panbench.studies.tracking.options:LogOptions"},
)
