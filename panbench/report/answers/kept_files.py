"""Whether the files that a run keeps besides its parts are what it wrote: predictions, candidates, the oracle."""

from collections.abc import Callable, Iterator
from pathlib import Path

from panbench.base.errors import BadDataset, BadRun
from panbench.base.text import listed
from panbench.report.answers.data_files import DataFiles
from panbench.runs import (
    CANDIDATES,
    ORACLE,
    PREDICTIONS,
    PREDICTIONS_JSON,
    Run,
    candidate_files,
    check_predictions_json,
    check_recorded,
    digest_of,
    predictions_place,
    recorded,
)
from panbench.runs.sources import png_names

__all__ = ["kept_files"]

Found = tuple[str, bool]
"""A sentence, and whether it is on a problem."""


def kept_files(run: Run, progress: Callable[[int, int], None] | None = None) -> Iterator[Found]:
    """Sentences on predictions, candidates and oracle of a run, as far as it has them.

    progress: called with (id PNGs that were hashed, id PNGs)
    """
    if run.path is None:
        return
    hashes = recorded(run.path)
    here = {f"{CANDIDATES}/{path.name}" for path in candidate_files(run.path)}
    here |= {ORACLE} if (run.path / ORACLE).is_file() else set()
    gone = set(hashes) - here - {PREDICTIONS_JSON}
    # Who needs the room removes all candidates, or the oracle; a few files are lost.
    removed = gone if not any(name.startswith(CANDIDATES) for name in here) else gone & {ORACLE}
    sound, unknown = 0, []
    for name in sorted(here | gone - removed):
        try:
            if check_recorded(run.path, name, hashes):
                sound += 1
            else:
                unknown.append(name)
        except BadRun as problem:
            yield str(problem), True
    if sound:
        yield f"{sound:,} files of candidates and oracle are unchanged.", False
    if unknown:
        yield f"No hashes were recorded for {listed(unknown, 3)}.", False
    if removed:
        yield f"{listed(sorted(removed), 3)} was stored and no longer exists.", False
    yield from _predictions(run, hashes, progress)


def _predictions(run: Run, hashes: dict[str, str], progress: Callable[[int, int], None] | None) -> Iterator[Found]:
    assert run.path is not None
    place, digests = predictions_place(run), run.files.predictions()
    folder = place[1] if place is not None else run.path / PREDICTIONS
    if place is None and not folder.is_dir():
        if digests or PREDICTIONS_JSON in hashes:
            yield "The predictions no longer exist.", False
        return
    if place is None and PREDICTIONS_JSON in hashes:
        yield f"{run.path / PREDICTIONS_JSON} is missing.", True
    if place is not None:
        try:
            if not check_predictions_json(run, place[0]):
                yield f"No hash was recorded for {place[0]}.", False
        except BadRun as problem:
            yield str(problem), True
        except BadDataset as problem:
            yield f"The predictions could not be checked: {problem}", False
            return
    if digests:
        yield from _pngs(run, None if place is None else place[0], folder, digests, progress)
    elif folder.is_dir():
        yield f"No hashes were recorded for the id PNGs in {folder}.", False


def _pngs(
    run: Run,
    json: Path | None,
    folder: Path,
    digests: dict[int, bytes],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Found]:
    """Holds the id PNGs of predictions against what was recorded of them."""
    data = DataFiles(run)
    changed: list[str] = []
    missing: list[str] = []
    try:
        names = {} if json is None else png_names(json)
        for number, (image_id, digest) in enumerate(digests.items(), 1):
            name = names.get(image_id) or Path(data.file_name(image_id)).with_suffix(".png").as_posix()
            now = digest_of(folder / name)
            if now != digest:
                (changed if now else missing).append(str(folder / name))
            if progress is not None:
                progress(number, len(digests))
    except BadDataset as problem:
        yield f"The predictions in {folder} could not be checked: {problem}", False
        return
    if changed:
        yield f"{len(changed):,} predictions changed since the run was made: {listed(changed, 5)}.", True
    if missing:
        yield f"{len(missing):,} predictions are missing: {listed(missing, 5)}.", True
    if not changed and not missing:
        yield f"{len(digests):,} predictions are unchanged.", False
