"""The names of all that panbench writes into a run folder: those who write and those who delete share them."""

__all__ = [
    "CANDIDATES",
    "HASHES",
    "MARK",
    "ORACLE",
    "ORACLE_BLOCKS",
    "PARTS",
    "PREDICTIONS",
    "PREDICTIONS_JSON",
    "RECORD",
    "UNFUSED",
    "WRITTEN",
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
UNFUSED = "unfused"
"""What AP_pan and mIoU_pan are measured from."""
ORACLE = "oracle.parquet"
"""What `panbench fuse --oracle` found."""
ORACLE_BLOCKS = "oracle-blocks"
"""What it found so far, until it is done."""

WRITTEN = (RECORD, MARK, PARTS, PREDICTIONS, PREDICTIONS_JSON, CANDIDATES, HASHES, UNFUSED, ORACLE, ORACLE_BLOCKS)
"""All of them. Whatever else lies in a run folder is the user's: it is neither deleted nor replaced."""
