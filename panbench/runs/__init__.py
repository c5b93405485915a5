"""Runs on disk: `record` is run.json as typed records, `folder` reads, writes, resumes and lists run folders."""

from panbench.runs.folder import Run, RunWriter, check_room, list_runs, load_run
from panbench.runs.record import (
    SCHEMA,
    CategoryMapRecord,
    DatasetRecord,
    DeviceRecord,
    ImagesRecord,
    MemoryRecord,
    ModelRecord,
    PredictionsRecord,
    RuleRecord,
    RunInfo,
    ScoresRecord,
    SecondsRecord,
    Setting,
    SummaryRecord,
    category_record,
)

__all__ = [
    "SCHEMA",
    "CategoryMapRecord",
    "DatasetRecord",
    "DeviceRecord",
    "ImagesRecord",
    "MemoryRecord",
    "ModelRecord",
    "PredictionsRecord",
    "RuleRecord",
    "Run",
    "RunInfo",
    "RunWriter",
    "ScoresRecord",
    "SecondsRecord",
    "Setting",
    "SummaryRecord",
    "category_record",
    "check_room",
    "list_runs",
    "load_run",
]
