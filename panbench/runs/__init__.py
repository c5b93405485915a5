"""Runs on disk: `record` is run.json as typed records, `folder` reads and lists run folders, `writer` writes them.

`lock` lets one writer in, `replacing` puts a new run in the place of an old one, `hashes` tells which files a run read.
"""

from panbench.runs.folder import Run, in_results, list_runs, load_run, looks_like_run, read_runs
from panbench.runs.hashes import FileHashes, digest_of, photograph_code
from panbench.runs.layout import (
    CANDIDATES,
    ORACLE,
    ORACLE_BLOCKS,
    PREDICTIONS,
    PREDICTIONS_JSON,
    candidate_files,
    candidate_name,
    written,
)
from panbench.runs.manifest import check_recorded, recorded, write_recorded
from panbench.runs.predictions import (
    check_predictions_json,
    predictions_place,
    stored_predictions,
    take_predictions,
    write_predictions_json,
)
from panbench.runs.record import (
    SCHEMA,
    CategoryMapRecord,
    DatasetRecord,
    DeviceRecord,
    ImagesRecord,
    MemoryRecord,
    ModelRecord,
    PartRecord,
    PredictionsRecord,
    RuleRecord,
    RunInfo,
    ScoresRecord,
    SecondsRecord,
    Setting,
    SummaryRecord,
    category_record,
)
from panbench.runs.replacing import replacement_of, run_bytes
from panbench.runs.writer import RunWriter, check_room, finish_replacement, refuse_link, remove_run, unfinished_run

__all__ = [
    "CANDIDATES",
    "ORACLE",
    "ORACLE_BLOCKS",
    "PREDICTIONS",
    "PREDICTIONS_JSON",
    "SCHEMA",
    "CategoryMapRecord",
    "DatasetRecord",
    "DeviceRecord",
    "FileHashes",
    "ImagesRecord",
    "MemoryRecord",
    "ModelRecord",
    "PartRecord",
    "PredictionsRecord",
    "RuleRecord",
    "Run",
    "RunInfo",
    "RunWriter",
    "ScoresRecord",
    "SecondsRecord",
    "Setting",
    "SummaryRecord",
    "candidate_files",
    "candidate_name",
    "category_record",
    "check_predictions_json",
    "check_recorded",
    "check_room",
    "digest_of",
    "finish_replacement",
    "in_results",
    "list_runs",
    "load_run",
    "looks_like_run",
    "photograph_code",
    "predictions_place",
    "read_runs",
    "recorded",
    "refuse_link",
    "remove_run",
    "replacement_of",
    "run_bytes",
    "stored_predictions",
    "take_predictions",
    "unfinished_run",
    "write_predictions_json",
    "write_recorded",
    "written",
]
