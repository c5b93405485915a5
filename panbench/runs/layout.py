"""Names all files that panbench writes into a run folder, for the code that writes, reads and deletes them."""

import re
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.base.studies import names_in_studies

RECORD = "run.json"
MARK = ".replaces.json"
"""The file that says which run this one is going to replace."""
PARTS = "parts"
PREDICTIONS = "predictions"
PREDICTIONS_JSON = "predictions.json"
CANDIDATES = "candidates"
_CANDIDATE = re.compile(r"-?\d+\.parquet")
"""The file name of an image's candidates: its id."""
HASHES = "hashes"
MANIFEST = f"{HASHES}/0000.sha256"
"""The SHA-256 of candidates, predictions.json and the oracle (hashes.py)."""
ORACLE = "oracle.parquet"
"""The results of `panbench fuse --oracle`."""
ORACLE_BLOCKS = "oracle-blocks"
"""Intermediate results of `panbench fuse --oracle`, until it is done."""

CORE_NAMES = (RECORD, MARK, PARTS, PREDICTIONS, PREDICTIONS_JSON, CANDIDATES, HASHES, ORACLE, ORACLE_BLOCKS)


def candidate_name(image_id: int) -> str:
    """Returns the path, in a run folder, of the file with an image's candidate masks (before fusion)."""
    return f"{CANDIDATES}/{int(image_id)}.parquet"


def candidate_files(run: Path) -> list[Path]:
    """Finds the Parquet files of candidate masks (before fusion) in a run folder, by ascending image id."""
    found = (path for path in (run / CANDIDATES).glob("*.parquet") if _CANDIDATE.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.stem))


def deletable_names() -> tuple[str, ...]:
    """Returns all names that panbench may delete or replace in a run folder, with the study tables of studies."""
    return (*CORE_NAMES, *names_in_studies("tables"))


_NAME = re.compile(r"[a-z0-9._-]+")


def is_own_name(name: str) -> bool:
    """True if a name is safe to join to a run folder: one path component of a–z, 0–9, `.`, `_` and `-`."""
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def inside(run: Path, name: str) -> Path:
    """Joins a run folder and a file name. Raises BadRun if `..` or links lead out of the folder."""
    path = run / name
    if not path.resolve().is_relative_to(run.resolve()):
        raise BadRun(f"{path} lies outside of the run {run}: its name or a link leads out. It is not read.")
    return path
