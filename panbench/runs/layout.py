"""The names of all that panbench writes into a run folder: those who write and those who delete share them."""

from panbench.base.studies import named

__all__ = [
    "CANDIDATES",
    "CORE_NAMES",
    "HASHES",
    "MARK",
    "ORACLE",
    "ORACLE_BLOCKS",
    "PARTS",
    "PREDICTIONS",
    "PREDICTIONS_JSON",
    "RECORD",
    "written",
]

RECORD = "run.json"
MARK = ".replaces.json"
"""Names the run that this one replaces, until it has."""
PARTS = "parts"
PREDICTIONS = "predictions"
PREDICTIONS_JSON = "predictions.json"
CANDIDATES = "candidates"
HASHES = "hashes"
"""The SHA-256 of candidates, predictions.json and the oracle (manifest.py)."""
ORACLE = "oracle.parquet"
"""What `panbench fuse --oracle` found."""
ORACLE_BLOCKS = "oracle-blocks"
"""What it found so far, until it is done."""

CORE_NAMES = (RECORD, MARK, PARTS, PREDICTIONS, PREDICTIONS_JSON, CANDIDATES, HASHES, ORACLE, ORACLE_BLOCKS)


def written() -> tuple[str, ...]:
    """All of them, side tables of studies too. Whatever else lies in a run folder is neither deleted nor replaced."""
    return (*CORE_NAMES, *named("tables"))
