"""A model's network, or its backbone, computed by OpenVINO on a CPU."""

from panbench.base.studies import Study

STUDY = Study(
    "openvino",
    "A model's network, or its backbone, computed by OpenVINO on a CPU.",
    order=150,
    runtimes={"openvino": "panbench.studies.openvino.runtime:RUNTIME"},
)
