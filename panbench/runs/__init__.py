"""Runs on disk: `record` is run.json as typed records, `folder` reads and lists run folders, `writer` writes them.

`lock` admits one writer, `replacing` replaces an old run by a new one, `hashes` records which files a run read.
"""

from panbench.runs.folder import Run, in_results, list_runs, load_run, looks_like_run, read_runs
from panbench.runs.hashes import FileHashes, check_recorded, digest_of, photograph_code, recorded, write_recorded
from panbench.runs.layout import (
    CANDIDATES,
    ORACLE,
    ORACLE_BLOCKS,
    PREDICTIONS,
    PREDICTIONS_JSON,
    candidate_files,
    candidate_name,
    deletable_names,
)
from panbench.runs.predictions import (
    adopt_predictions,
    check_predictions_json,
    predictions_paths,
    stored_predictions,
    write_predictions_json,
)
from panbench.runs.record import (
    CategoryMapRecord,
    DatasetRecord,
    DeviceRecord,
    ImagesRecord,
    MemoryRecord,
    ModelRecord,
    PredictionsRecord,
    RuleRecord,
    RunInfo,
    SecondsRecord,
    Setting,
    SummaryRecord,
    category_record,
)
from panbench.runs.replacing import replacement_of, run_bytes
from panbench.runs.writer import RunWriter, check_room, finish_replacement, refuse_link, remove_run, unfinished_run
