#!/usr/bin/env python3
"""Breaks each promise of docs/reliability.md by one line of code, and checks that the test that holds it fails.

    scripts/check/mutants.py                        all of them; exit 1 if one goes unnoticed
    scripts/check/mutants.py --only fsync_removed   one, with what its tests print
    scripts/check/mutants.py --jobs 2 --markdown    also writes the count into docs/reliability.md

The checkout is copied to a temporary folder, and changed there. The tests must pass before the change and fail after
it: one that cannot be collected, or dies, has noticed nothing.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import environ
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.make.markdown_tables import write_between  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- mutants: made by scripts/check/mutants.py --markdown -->", "<!-- /mutants -->"
SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """A promise, the line that breaks it, and the tests that must notice.

    promise: what then no longer holds; file: the one that is changed; old: stands in it once; new: in its place
    noticed_by: tests (pytest's ids)
    """

    name: str
    promise: str
    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Changes the file below `root`. Raises ValueError unless the old text occurs in it exactly once."""
        path = root / self.file
        text = path.read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {self.old!r} {text.count(self.old)} times, not once")
        path.write_text(text.replace(self.old, self.new), "utf-8")


RUNS = "tests/runs/test_run_folder.py"
CUT = "tests/runs/test_power_cut.py"
HOSTILE = "tests/runs/test_hostile_runs.py"
MUTANTS = (
    Mutant(
        "summary_believed",
        "numbers come from the parts, not from run.json",
        "panbench/runs/folder.py",
        "        return sums.summary()",
        "        found = self.info.summary\n"
        "        return {name: vars(one) for name, one in vars(found).items()} if found else sums.summary()",
        (f"{RUNS}::TestChanged::test_numbers_come_from_the_parts_not_from_run_json",),
    ),
    Mutant(
        "fsync_removed",
        "a file with its final name is whole after a power cut",
        "panbench/base/files.py",
        "                os.fsync(handle.fileno())",
        "                pass",
        (
            f"{CUT}::test_after_a_power_cut_a_record_is_the_old_or_the_new_one",
            f"{CUT}::test_a_run_that_reads_as_done_has_all_parts",
        ),
    ),
    Mutant(
        "folder_not_synced",
        "what a run has written is there after a power cut",
        "panbench/base/files.py",
        "        sync_folder(target.parent)",
        "        pass",
        (f"{CUT}::test_written_parts_survive_a_power_cut",),
    ),
    Mutant(
        "unsynced_bytes_claimed",
        "a download that goes on after a power cut has all its bytes",
        "panbench/base/download.py",
        "if self._has_hash and length <=",
        "if length <=",
        (f"{CUT}::test_a_download_resumed_after_a_power_cut_has_all_bytes",),
    ),
    Mutant(
        "download_unchecked",
        "a download has the SHA-256 that is expected",
        "panbench/base/files.py",
        "        if expected is not None and not",
        "        if False and not",
        ("tests/base/test_download.py::test_a_byte_flipped_once_in_transit_is_fetched_again",),
    ),
    Mutant(
        "unencrypted_redirect_followed",
        "a download from https never comes over http",
        "panbench/base/web.py",
        '        if target.scheme != "https":',
        "        if False:",
        ("tests/base/test_download.py::test_a_redirect_from_https_to_http_is_refused",),
    ),
    Mutant(
        "changed_part_read",
        "a changed part makes a run incomplete",
        "panbench/runs/membership.py",
        "            if self.sha256(part) != listed.sha256:",
        "            if False:",
        (f"{RUNS}::TestChanged::test_a_done_run_that_does_not_match_its_list_of_parts_is_incomplete",),
    ),
    Mutant(
        "lost_part_unsaid",
        "a lost part is named",
        "panbench/runs/membership.py",
        '        if self._info.status == "running":',
        "        if True:",
        (f"{RUNS}::TestChanged::test_a_done_run_that_does_not_match_its_list_of_parts_is_incomplete",),
    ),
    Mutant(
        "foreign_part_read",
        "a part of another run is left out",
        "panbench/runs/membership.py",
        '            if found.get(_RUN) != (info.id or "").encode():',
        "            if False:",
        (f"{RUNS}::TestTwoWriters::test_parts_of_another_run_are_refused_by_name",),
    ),
    Mutant(
        "part_replaced",
        "a part that exists is never replaced",
        "panbench/panoptic/parts.py",
        "    with atomic_write(path, exclusive=True) as handle:",
        "    with atomic_write(path) as handle:",
        (f"{RUNS}::TestTwoWriters::test_a_part_is_never_replaced",),
    ),
    Mutant(
        "second_writer_let_in",
        "two processes never write one run",
        "panbench/runs/lock.py",
        "    if lock is None:",
        "    if False:",
        (f"{RUNS}::TestTwoWriters::test_a_second_writer_is_refused_with_the_first_one_named",),
    ),
    Mutant(
        "old_run_replaced_at_once",
        "the old run is there until the new one is done",
        "panbench/runs/writer.py",
        "            target = home if _is_free_for_run(home) else new_run_path(home)",
        "            target = home",
        (f"{RUNS}::TestOverwriting::test_the_old_run_exists_until_the_new_one_is_done",),
    ),
    Mutant(
        "names_of_users_taken",
        "runs kept as RUN.old and RUN.new are the user's",
        "panbench/runs/replacing.py",
        "    return parent.with_name(f\"{'.' if hidden else ''}{home.absolute().name}{suffix}\")",
        "    return parent.with_name(f\"{home.absolute().name}{suffix.replace('.panbench-', '.')}\")",
        ("tests/runs/test_replacing.py::TestNamesOfUsers",),
    ),
    Mutant(
        "link_followed",
        "links in a run are removed, not followed",
        "panbench/runs/removal.py",
        "            (path / folder).unlink()",
        "            folder = str((path / folder).resolve())",
        ("tests/runs/test_removal.py::test_a_link_inside_a_run_is_removed_and_not_followed",),
    ),
    Mutant(
        "figure_of_user_deleted",
        "a picture of the user's among the predictions stays",
        "panbench/runs/removal.py",
        "        PREDICTIONS: _own_id_pngs(path, info),",
        "        PREDICTIONS: [each.relative_to(path / PREDICTIONS).as_posix() "
        "for each in _entries(path / PREDICTIONS)],",
        ("tests/runs/test_removal.py::test_a_users_file_among_predictions_is_kept_and_named",),
    ),
    Mutant(
        "changed_files_resumed",
        "--resume refuses images that changed since they were read",
        "panbench/evaluation/run_folders.py",
        "        if changed := changed_input_files(run, self._dataset):",
        "        if False and (changed := changed_input_files(run, self._dataset)):",
        ("tests/evaluation/test_evaluate.py::test_resume_refuses_files_that_changed",),
    ),
    Mutant(
        "kept_file_unchecked",
        "predictions.json, candidates and the oracle are read as they were written",
        "panbench/runs/hashes.py",
        "    if found != expected:",
        "    if False:",
        ("tests/runs/test_manifest.py::test_a_written_file_matches_its_record_until_it_changes",),
    ),
    Mutant(
        "candidates_header_unchecked",
        "no flipped bit of candidates changes what is read",
        "panbench/models/stored.py",
        "    return zlib.crc32(values.tobytes(), zlib.crc32(header_text.encode()))",
        "    return zlib.crc32(values.tobytes())",
        ("tests/models/test_stored.py::test_every_flipped_bit_of_a_file_is_detected",),
    ),
    Mutant(
        "damaged_run_judged",
        "gate judges no damaged run",
        "panbench/studies/gate/answer.py",
        "        if run.faults:",
        "        if False:",
        ("tests/studies/gate/test_gate.py::test_a_damaged_run_is_refused_first_and_its_part_named",),
    ),
    Mutant(
        "pickle_run",
        "the code of a checkpoint never runs",
        "panbench/models/checkpoints.py",
        '            return torch.load(path, map_location="cpu", weights_only=True)',
        '            return torch.load(path, map_location="cpu", weights_only=False)',
        ("tests/models/test_checkpoints.py::test_a_hostile_checkpoint_is_refused_and_does_not_run",),
    ),
    Mutant(
        "damaged_photograph_read",
        "a photograph that lost data is never scored where libjpeg notices it",
        "panbench/panoptic/photo.py",
        "    if warning.startswith(_LOST) and not extraneous:",
        "    if False:",
        ("tests/panoptic/test_photo.py::test_every_flipped_bit_that_libjpeg_reports_is_refused_or_reported",),
    ),
    Mutant(
        "secret_shown",
        "no error shows a password or a token",
        "panbench/base/secrets.py",
        "    return redactor()(text)",
        "    return text",
        ("tests/base/test_secrets.py::test_an_error_that_quotes_a_library_shows_no_secret",),
    ),
    Mutant(
        "minutes_lost",
        "at most 10 s of an evaluation are lost by a kill",
        "panbench/evaluation/sinks.py",
        "CHUNK_SECONDS = 10.0",
        "CHUNK_SECONDS = 100.0",
        ("tests/evaluation/test_evaluate.py::test_a_killed_run_loses_at_most_ten_seconds_of_work",),
    ),
    Mutant(
        "other_machine_taken_for_dead",
        "a writer on another machine counts as alive",
        "panbench/base/locks.py",
        '        if self.host != platform.node() or sys.platform == "win32":',
        '        if sys.platform == "win32":',
        ("tests/runs/test_lock.py::test_a_writer_on_another_machine_counts_as_alive",),
    ),
    Mutant(
        "folder_elsewhere_taken",
        "no folder that a run names lies outside of it",
        "panbench/runs/layout.py",
        '    return _NAME.fullmatch(name) is not None and name not in (".", "..")',
        "    return True",
        (f"{HOSTILE}::test_a_study_table_cannot_be_a_folder_elsewhere",),
    ),
    Mutant(
        "link_out_merged",
        "no file outside of a run is merged with it",
        "panbench/runs/layout.py",
        "    if not path.resolve().is_relative_to(run.resolve()):",
        "    if False:",
        (f"{HOSTILE}::test_a_prediction_link_that_leads_outside_is_not_merged",),
    ),
    Mutant(
        "done_run_written_again",
        "a run that is done is not written again when a signal comes in its last moment",
        "panbench/runs/writer.py",
        "        if self._is_closed_as_done:",
        "        if False:",
        ("tests/runs/test_replacing.py::TestLastMoment",),
    ),
    Mutant(
        "any_command_offered",
        "only a recorded call of eval is offered for pasting",
        "panbench/report/answers/remaking.py",
        ' or program != "panbench" or',
        " or",
        ("tests/evaluation/test_remaking.py::test_a_recorded_command_other_than_eval_is_not_offered",),
    ),
)


def main() -> None:
    """Runs the mutants and prints which were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[mutant.name for mutant in MUTANTS])
    parser.add_argument("--jobs", type=int, default=1, help="so many mutants at a time")
    parser.add_argument("--markdown", action="store_true", help="write the count into docs/reliability.md, too")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if arguments.only is None or mutant.name in arguments.only]
    if arguments.markdown and len(chosen) < len(MUTANTS):
        parser.error("--markdown documents all mutants: leave --only out")
    with copied() as clean, ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        every = list(dict.fromkeys(check for mutant in chosen for check in mutant.noticed_by))
        code, said = run(clean, *every)
        if code != 0:
            sys.exit(f"Without any mutation it fails (exit {code}):\n{said[-3000:]}")
        unnoticed = []
        for mutant, found in zip(chosen, pool.map(partial(unnoticed_by, clean), chosen), strict=True):
            print(f"{mutant.name}: {'UNNOTICED by ' + ', '.join(found) if found else 'noticed'}", flush=True)
            unnoticed += [mutant.name] if found else []
    told = f"{len(chosen) - len(unnoticed)} of {len(chosen)} noticed"
    print(told)
    if arguments.markdown and not unnoticed:
        write_between(PAGE, BEGIN, END, f"{told}.")
    sys.exit(bool(unnoticed))


def unnoticed_by(clean: Path, mutant: Mutant) -> list[str]:
    """Returns the tests of a mutant that do not fail; those that cannot be collected (exit 2 or more) count, too."""
    with copied(clean) as root:
        mutant.apply(root)
        compile((root / mutant.file).read_text("utf-8"), mutant.file, "exec")
        return [check for check in mutant.noticed_by if run(root, check)[0] != 1]


def run(root: Path, *checks: str) -> tuple[int, str]:
    """Runs tests in a copy of the checkout; returns the exit code and the output."""
    words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(root / ".tests"), *checks]
    here = {**environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=here, capture_output=True, text=True, timeout=2 * SECONDS, check=False
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def copied(source: Path = ROOT) -> Iterator[Path]:
    """Copies the checkout to a temporary folder: tracked and untracked files, and the compiled library."""
    with tempfile.TemporaryDirectory(prefix="panbench-mutants-") as folder:
        root = Path(folder) / "checkout"
        if source == ROOT:
            for name in _files_of_checkout():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        else:
            shutil.copytree(source, root, ignore=shutil.ignore_patterns("__pycache__", ".tests"))
        yield root


def _files_of_checkout() -> Iterator[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    yield from (name for name in listed.split("\0") if name and (ROOT / name).is_file())
    yield from (str(path.relative_to(ROOT)) for path in (ROOT / "panbench" / "panoptic").glob("_idmap*"))


if __name__ == "__main__":
    main()
