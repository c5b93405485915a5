"""Metrics of a network's outputs before fusion: AP_pan of masks and boxes, and mIoU_pan."""

from panbench.base.studies import Study

STUDY = Study(
    "unfused",
    "Metrics of a network's outputs before fusion: AP_pan of masks and boxes, and mIoU_pan.",
    order=10,
    options={
        "eval": "panbench.studies.unfused.options:UnfusedOptions",
        "score": "panbench.studies.unfused.options:MapApOptions",
        "compare": "panbench.studies.unfused.options:ComparedMetrics",
    },
    tables={"unfused": "AP_pan and mIoU_pan"},
    section="panbench.studies.unfused.section:unfused_section",
    measures={"metrics": "panbench.studies.unfused.answer:BEFORE_FUSION"},
)
