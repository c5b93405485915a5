"""The names of all that panbench writes into a run folder: those who write and those who delete share them."""

import re
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.base.studies import named

__all__ = [
    "CANDIDATES",
    "CORE_NAMES",
    "HASHES",
    "MANIFEST",
    "MARK",
    "ORACLE",
    "ORACLE_BLOCKS",
    "PARTS",
    "PREDICTIONS",
    "PREDICTIONS_JSON",
    "RECORD",
    "candidate_files",
    "candidate_name",
    "inside",
    "is_own_name",
    "written",
]

RECORD = "run.json"
MARK = ".replaces.json"
"""Names the run that this one replaces, until it has."""
PARTS = "parts"
PREDICTIONS = "predictions"
PREDICTIONS_JSON = "predictions.json"
CANDIDATES = "candidates"
_CANDIDATE = re.compile(r"-?\d+\.parquet")
"""The file of an image in that folder: its id."""
HASHES = "hashes"
MANIFEST = f"{HASHES}/0000.sha256"
"""The SHA-256 of candidates, predictions.json and the oracle (manifest.py)."""
ORACLE = "oracle.parquet"
"""What `panbench fuse --oracle` found."""
ORACLE_BLOCKS = "oracle-blocks"
"""What it found so far, until it is done."""

CORE_NAMES = (RECORD, MARK, PARTS, PREDICTIONS, PREDICTIONS_JSON, CANDIDATES, HASHES, ORACLE, ORACLE_BLOCKS)


def candidate_name(image_id: int) -> str:
    """The file of an image's candidates, relative to the run folder."""
    return f"{CANDIDATES}/{int(image_id)}.parquet"


def candidate_files(run: Path) -> list[Path]:
    """The files of candidates that a run folder has, by ascending image id."""
    found = (path for path in (run / CANDIDATES).glob("*.parquet") if _CANDIDATE.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.stem))


def written() -> tuple[str, ...]:
    """All of them, side tables of studies too. Whatever else lies in a run folder is neither deleted nor replaced."""
    return (*CORE_NAMES, *named("tables"))


_NAME = re.compile(r"[a-z0-9._-]+")


def is_own_name(name: str) -> bool:
    """Whether a part or a side table may have a name: one component of a path, as panbench gives them."""
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def inside(run: Path, name: str) -> Path:
    """The path of a file of a run. Raises BadRun where `..` or links lead out of the run's folder."""
    path = run / name
    if not path.resolve().is_relative_to(run.resolve()):
        raise BadRun(f"{path} lies outside of the run {run}: its name or a link leads out. It is not read.")
    return path
