"""The evaluation loop: what it writes, what survives a kill, and that cutting the work up changes no number."""

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from support import Recorder, Stop, drawn_in_two_sizes, evaluated

from panbench.base.errors import BadArgument, BadDataset, BadModel, BadRun, Terminated
from panbench.catalog import ModelSpec, find_model
from panbench.cli.signals import interrupted_by_signals
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.loop import _single_threaded_pool, lanes_of
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.several import evaluate_in_turn
from panbench.models.host import HostedModel
from panbench.models.mmdet import adapter
from panbench.models.model import Model
from panbench.models.opening import open_model
from panbench.models.stored import StoredOutputs
from panbench.panoptic.coco import read_id_png, read_predictions_json, write_id_png
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import Run, SummaryRecord, candidate_files, digest_of, load_run
from panbench.scoring.folder import score_folder

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of two sizes, so that there is more than one group of batches."""
    return drawn_in_two_sizes(tmp_path_factory.mktemp("scenes"), [(8, (96, 128)), (4, (128, 96))])


@pytest.fixture(scope="session")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder)


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return find_model("mask2former-tiny")


def rows(run: Run) -> pa.Table:
    """All rows of a run, to the last bit."""
    return run.table.to_arrow()


def test_run_json_records_everything_needed_to_repeat_the_run(dataset, spec, tmp_path):
    recorder = Recorder()
    run = evaluated(spec, dataset, tmp_path / "run", recorder, command=("panbench", "eval"))
    info = load_run(tmp_path / "run").info
    assert (info.status, info.error, info.kind) == ("done", None, "eval")
    assert (info.images.expected, info.images.scored, info.images.missing) == (12, 12, 0)
    assert info.model.random_weights is False
    assert info.model.params == spec.params
    assert len(info.model.weights_sha256) == 64
    assert info.dataset.fingerprint == dataset.fingerprint
    assert info.dataset.gt_dir == str(dataset.scenes[0].gt_path.parent)
    assert info.versions["mmdet"] == "3.3.0"
    assert info.batch_size == 1
    assert all(getattr(info.seconds, stage) > 0 for stage in ("load", "forward", "fusion", "overlap", "write", "wall"))
    assert info.summary == SummaryRecord.of(run.summary())
    assert run.summary()["All"]["PQ"] > 0.5, "the model is trained on such scenes"
    assert recorder.counts[-1] == (spec.title, 12, 12, "images")
    assert [done for _, done, *_ in recorder.counts] == sorted(done for _, done, *_ in recorder.counts)


def padded(image: ImageInfo) -> tuple[int, int]:
    """Of a model whose images are padded to multiples of 16."""
    return -(-image.height // 16), -(-image.width // 16)


def as_they_are(image: ImageInfo) -> tuple[int, int]:
    """Of a model that says nothing of how its images are padded."""
    return Model.batch_key(None, image)


@pytest.mark.parametrize(
    ("batch_key", "most", "heights", "batches"),
    [
        (padded, 8, [10, 20, 16, 32, 9, 17], [[0, 2, 4], [1, 3, 5]]),
        (as_they_are, 4, [20, 10, 10, 20, 10, 10, 20, 10, 10, 20], [[0, 3, 6, 9], [1, 2, 4, 5], [7, 8]]),
    ],
)
def test_each_batch_has_one_padded_size_and_all_images_are_covered(batch_key, most, heights, batches):
    scenes = [Scene(ImageInfo(n, f"{n}.png", height, 30)) for n, height in enumerate(heights)]
    plan = plan_batches(scenes, most, SimpleNamespace(batch_key=batch_key))
    assert [[scene.image.id for scene in batch] for batch in plan] == batches


@pytest.mark.parametrize("batch_size", [3, "auto"])
def test_the_batch_size_changes_results_by_no_more_than_rounding(dataset, spec, tmp_path, batch_size):
    alone = evaluated(spec, dataset, tmp_path / "1", batch_size=1)
    together = evaluated(spec, dataset, tmp_path / "n", batch_size=batch_size)
    assert together.summary()["All"]["PQ"] == pytest.approx(alone.summary()["All"]["PQ"], abs=1e-3)
    assert together.image_ids() == alone.image_ids()


def test_saved_predictions_score_the_same_as_the_evaluation(dataset, spec, tmp_path):
    run = evaluated(spec, dataset, tmp_path / "run", save_predictions=True)
    predictions = read_predictions_json(tmp_path / "run" / "predictions.json")
    assert predictions.folder == tmp_path / "run" / "predictions"
    first = predictions.annotations[1]
    assert {s.id for s in first.segments} == set(read_id_png(predictions.png_path(1)).ravel().tolist()) - {0}
    scored = score_folder(dataset.gt, tmp_path / "run" / "predictions.json", out=tmp_path / "scored")
    assert scored.summary() == run.summary()


def in_folders(dataset: Dataset, folder: Path, names: list[str]) -> Dataset:
    """The first images of a dataset under other names."""
    scenes = []
    for scene, name in zip(dataset.scenes, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scene.image_path, folder / name)
        image = dataclasses.replace(scene.image, file_name=name)
        scenes.append(dataclasses.replace(scene, image=image, image_path=folder / name))
    return dataclasses.replace(dataset, scenes=tuple(scenes))


def test_saved_predictions_keep_the_sub_folders_of_their_images(dataset, spec, tmp_path):
    named = in_folders(dataset, tmp_path / "images", ["a/1.png", "b/1.png"])
    run = evaluated(spec, named, tmp_path / "run", save_predictions=True)
    saved = (path.relative_to(run.path / "predictions").as_posix() for path in run.path.glob("predictions/*/*.png"))
    assert sorted(saved) == ["a/1.png", "b/1.png"]
    for annotation in read_predictions_json(run.path / "predictions.json").annotations.values():
        ids = read_id_png(run.path / "predictions" / annotation.file_name)
        assert {segment.id for segment in annotation.segments} == set(np.unique(ids).tolist()) - {0}


def test_saved_predictions_of_two_images_never_share_a_file(dataset, spec, tmp_path):
    named = in_folders(dataset, tmp_path / "images", ["1.png", "1.jpg"])
    with pytest.raises(BadDataset, match=r"would both be 1\.png"):
        evaluated(spec, named, tmp_path / "run", save_predictions=True)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(dataset, spec, tmp_path):
    small = dataclasses.replace(dataset, scenes=dataset.scenes[:1])
    evaluated(spec, small, tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(BadRun, match="--overwrite"):
        evaluated(spec, small, tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert evaluated(spec, small, tmp_path / "run", overwrite=True).info.status == "done"


class Boom(Exception):
    pass


def interrupted(spec: ModelSpec, dataset: Dataset, out: Path, images: int, **options) -> Run:
    """What is left of a run in batches of two that ends in an error after so many images."""
    with pytest.raises(Boom):
        evaluated(spec, dataset, out, Stop(images, Boom()), batch_size=2, workers=1, **options)
    return load_run(out)


@pytest.fixture
def damaged(folder, tmp_path) -> tuple[Dataset, Callable[[], object]]:
    """A copy of the scenes whose third image is cut off, and a function that repairs it."""
    image = shutil.copytree(folder, tmp_path / "data") / "val" / "3.png"
    content = image.read_bytes()
    image.write_bytes(content[:100])
    return open_dataset(tmp_path / "data"), lambda: image.write_bytes(content)


@pytest.mark.parametrize("name", [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)])
def test_sigterm_interrupts_a_run_as_ctrl_c_does(dataset, spec, tmp_path, name):
    """Slurm and Kubernetes send SIGTERM, a closed terminal SIGHUP."""
    number = getattr(signal, name)
    # Whoever started the tests may have it ignored, as nohup does; panbench leaves that as it is.
    signal.signal(number, signal.SIG_DFL)
    stop = Stop(2, lambda: signal.raise_signal(number))
    with pytest.raises(Terminated) as ended, interrupted_by_signals():
        evaluated(spec, dataset, tmp_path / "run", stop, batch_size=2, workers=1)
    assert ended.value.exit_code == 128 + number
    left = load_run(tmp_path / "run")
    assert (left.info.status, left.info.error) == ("interrupted", f"Ended by {name}.")
    assert 0 < len(left.image_ids()) < 12
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_skipped_image_that_was_repaired_counts_as_scored(damaged, spec, tmp_path):
    dataset, repair = damaged
    left = interrupted(spec, dataset, tmp_path / "run", 9, skip_bad_images=True)
    assert left.info.images.skipped_ids.keys() == {3}
    repair()
    images = evaluated(spec, dataset, tmp_path / "run", skip_bad_images=True, resume=True).info.images
    assert (images.scored, images.skipped, images.skipped_ids, images.missing) == (12, 0, {}, 0)


def test_resuming_a_finished_run_scores_a_repaired_image(damaged, spec, tmp_path):
    (dataset, repair), recorder = damaged, Recorder()
    run = evaluated(spec, dataset, tmp_path / "run", skip_bad_images=True)
    assert len(run.images) == 11
    evaluated(spec, dataset, tmp_path / "run", recorder, skip_bad_images=True, resume=True)
    assert recorder.notices[-1].endswith("is already complete but for 1 images that still cannot be read.")
    repair()
    run = evaluated(spec, dataset, tmp_path / "run", recorder, skip_bad_images=True, resume=True)
    assert run.image_ids() == tuple(range(1, 13))
    assert (run.info.images.scored, run.info.images.skipped, run.info.status) == (12, 0, "done")
    assert rows(run) == rows(evaluated(spec, dataset, tmp_path / "at once", skip_bad_images=True))
    evaluated(spec, dataset, tmp_path / "run", recorder, skip_bad_images=True, resume=True)
    assert recorder.notices[-1].endswith("is already complete.")


def test_resume_restores_the_images_of_a_lost_part(dataset, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("panbench.evaluation.sinks.CHUNK_IMAGES", 4)
    whole = evaluated(spec, dataset, tmp_path / "run")
    (tmp_path / "run" / "parts" / "0000-000001.parquet").unlink()
    recorder = Recorder()
    again = evaluated(spec, dataset, tmp_path / "run", recorder, resume=True)
    assert "0000-000001.parquet, which held 4 images, is missing." in recorder.notices[0]
    assert rows(again) == rows(whole)
    evaluated(spec, dataset, tmp_path / "run", recorder, resume=True)
    assert recorder.notices[-1].endswith("is already complete.")


def test_a_killed_run_loses_at_most_ten_seconds_of_work(dataset, spec, tmp_path, monkeypatch):
    seconds = itertools.count(step=4)  # the clock of the chunks, read once after each image
    clock = SimpleNamespace(monotonic=lambda: next(seconds), perf_counter=time.perf_counter)
    monkeypatch.setattr("panbench.evaluation.sinks.time", clock)
    run = evaluated(spec, dataset, tmp_path / "run", batch_size=1)
    assert max(part.images for part in run.info.parts) == 3


def test_a_failed_overwrite_keeps_the_old_run(folder, spec, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "data")
    dataset = open_dataset(copy)
    old = evaluated(spec, dataset, tmp_path / "run")
    first = copy / "val" / "1.png"
    content = first.read_bytes()
    first.write_bytes(b"no image")
    with pytest.raises(BadDataset):
        evaluated(spec, dataset, tmp_path / "run", overwrite=True)
    assert load_run(tmp_path / "run").summary() == old.summary()
    first.write_bytes(content)
    assert evaluated(spec, dataset, tmp_path / "run", resume=True).info.id != old.info.id
    assert [path.name for path in tmp_path.iterdir() if "run" in path.name] == ["run"]


def test_resume_refuses_files_that_changed(folder, spec, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "data")
    dataset = open_dataset(copy)
    interrupted(spec, dataset, tmp_path / "run", 4)
    image, truth = dataset.scenes[0].image_path, dataset.scenes[1].gt_path
    before = image.read_bytes()
    image.write_bytes(dataset.scenes[2].image_path.read_bytes())
    with pytest.raises(BadRun, match=r"1 files changed since .* read them: .*1\.png.*--overwrite"):
        evaluated(spec, dataset, tmp_path / "run", resume=True)
    image.write_bytes(before)
    whole = evaluated(spec, dataset, tmp_path / "run", resume=True)
    truth.write_bytes(dataset.scenes[3].gt_path.read_bytes())
    recorder = Recorder()
    assert rows(evaluated(spec, dataset, tmp_path / "run", recorder, resume=True)) == rows(whole)
    assert recorder.notices[-2].startswith("1 files changed since")


def shifted(path):
    """An id PNG of the same size that says something else."""
    ids = read_id_png(path)
    write_id_png(path, np.roll(ids, 5, axis=1).astype(np.int32))


@pytest.mark.parametrize("harm", [shifted, Path.unlink])
def test_resume_detects_changed_predictions(dataset, spec, tmp_path, harm):
    scored = interrupted(spec, dataset, tmp_path / "run", 4, save_predictions=True).files.predictions()
    first = tmp_path / "run" / "predictions" / f"{min(scored)}.png"
    before = first.read_bytes()
    harm(first)
    with pytest.raises(BadRun, match=r"1 predictions are missing or are not what .*run wrote: .*--overwrite"):
        evaluated(spec, dataset, tmp_path / "run", resume=True, save_predictions=True)
    first.write_bytes(before)
    whole = evaluated(spec, dataset, tmp_path / "run", resume=True, save_predictions=True)
    assert len(whole.images) == len(dataset.scenes)

    # A finished run is told of, and left alone.
    shifted(first)
    recorder = Recorder()
    evaluated(spec, dataset, tmp_path / "run", recorder, resume=True, save_predictions=True)
    assert recorder.notices[-2].startswith("1 predictions are missing or are not what")
    shutil.rmtree(first.parent)
    recorder = Recorder()
    evaluated(spec, dataset, tmp_path / "run", recorder, resume=True, save_predictions=True)
    assert not any("predictions" in notice for notice in recorder.notices)


def test_resume_detects_changed_candidates(dataset, spec, tmp_path):
    interrupted(spec, dataset, tmp_path / "run", 4, keep_candidates=True)
    first = candidate_files(tmp_path / "run")[0]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    with pytest.raises(BadRun, match=r"1 files of candidates are not what .*run wrote: .*\.parquet.*delete them"):
        evaluated(spec, dataset, tmp_path / "run", resume=True, keep_candidates=True)
    first.unlink()
    evaluated(spec, dataset, tmp_path / "run", resume=True, keep_candidates=True)
    stored = StoredOutputs(tmp_path / "run" / "candidates")
    assert len(stored.image_ids) == len(dataset.scenes)
    for image_id in stored.image_ids:
        stored.read(image_id)


def test_hashes_of_the_files_that_were_read_are_stored(dataset, spec, tmp_path):
    files = evaluated(spec, dataset, tmp_path / "run").files
    scene = dataset.scenes[4]
    place = files.rows["image_id"].tolist().index(scene.image.id)
    assert files.rows["image"][place].tobytes() == digest_of(scene.image_path)
    assert files.rows["truth"][place].tobytes() == digest_of(scene.gt_path)


@pytest.mark.parametrize(
    ("params", "threads", "lanes"), [(5_000_000, 2, 2), (44_000_000, 2, 1), (None, 8, 2), (1, 1, 1)]
)
def test_on_a_cpu_light_models_run_two_concurrent_batches_and_heavy_models_one(spec, params, threads, lanes):
    model = open_model(spec, device="cpu")
    model.parameters = params
    assert lanes_of(model, threads) == lanes
    model.device = torch.device("cuda")
    assert lanes_of(model, threads) == 1


def test_concurrent_batches_do_not_change_results(dataset, spec, tmp_path):
    """Half of the threads for each of two batches is one thread each, as for one batch at a time on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = evaluated(spec, dataset, tmp_path / "two")
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        one = evaluated(spec, dataset, tmp_path / "one")
    finally:
        torch.set_num_threads(before)
    assert rows(two) == rows(one)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (Boom("x"), "failed")], ids=["Ctrl-C", "crash"]
)
def test_an_interrupted_run_keeps_its_scored_images_and_is_resumed(dataset, spec, tmp_path, error, status):
    whole = evaluated(spec, dataset, tmp_path / "whole", batch_size=2)
    with pytest.raises(type(error)):
        evaluated(spec, dataset, tmp_path / "run", Stop(2, error), batch_size=2, workers=1)
    broken = load_run(tmp_path / "run")
    assert broken.info.status == status
    assert 0 < len(broken.image_ids()) < 12
    resumed = evaluated(spec, dataset, tmp_path / "run", resume=True)
    assert resumed.info.status == "done"
    assert rows(resumed) == rows(whole)
    assert resumed.summary() == whole.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bf16"}, "precision was 'fp32' and is now 'bf16'"),
        ({"batch_size": 3}, "batch_size was 2 and is now 3"),
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"weights": "random"}, "weights_sha256 was"),
        ({"save_predictions": True}, "save_predictions was False"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_the_difference_named(dataset, spec, tmp_path, changes, message):
    interrupted(spec, dataset, tmp_path / "run", 2)
    with pytest.raises(BadRun, match=message):
        evaluated(spec, dataset, tmp_path / "run", resume=True, **changes)
    fewer = dataclasses.replace(dataset, scenes=dataset.scenes[:3])
    with pytest.raises(BadRun, match="images_sha256"):
        evaluated(spec, fewer, tmp_path / "run", resume=True)


def test_a_bad_image_stops_the_run_or_is_skipped_on_request(damaged, spec, tmp_path):
    dataset, _ = damaged
    with pytest.raises(BadDataset, match=r"3\.png \(image 3\) cannot be decoded.* --resume continues"):
        evaluated(spec, dataset, tmp_path / "stopped")
    stopped = load_run(tmp_path / "stopped")
    assert (stopped.info.status, stopped.image_ids()) == ("failed", (1, 2))
    recorder = Recorder()
    run = evaluated(spec, dataset, tmp_path / "run", recorder, skip_bad_images=True)
    assert run.image_ids() == (1, 2, *range(4, 13))
    assert list(run.info.images.skipped_ids) == [3]
    assert run.info.images.missing == 0
    assert any("3.png" in message for message in recorder.notices)


def test_ground_truth_of_another_size_is_refused(folder, spec, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "data")
    pngs = copy / "annotations" / "panoptic_val"
    (pngs / "2.png").write_bytes((pngs / "12.png").read_bytes())
    with pytest.raises(BadDataset, match=r"2\.png \(image 2\) is 128×96 where 96×128"):
        evaluated(spec, open_dataset(copy), tmp_path / "run")


def test_nan_outputs_end_the_run_with_image_and_output_named(dataset, spec, tmp_path, monkeypatch):
    honest = adapter.preprocessed

    def broken(module, batch):
        found = honest(module, batch)
        return found._replace(inputs=found.inputs * torch.nan)

    monkeypatch.setattr(adapter, "preprocessed", broken)
    with pytest.raises(BadModel, match=r"class logits that are not finite numbers on 1\.png \(image 1\)"):
        evaluated(spec, dataset, tmp_path / "run")


# tests/models/test_devices.py has the words of each library.
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_halves_the_batch_and_fails_at_a_single_image(dataset, spec, tmp_path, monkeypatch, error):
    honest = HostedModel.candidates
    sizes: list[int] = []

    def forward(limit: int):
        def run(self, batch):
            sizes.append(len(batch))
            if len(batch) > limit:
                raise error
            return honest(self, batch)

        return run

    recorder = Recorder()
    # With one thread batches go through the model one after the other.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(HostedModel, "candidates", forward(2))
    run = evaluated(spec, dataset, tmp_path / "run", recorder, batch_size=8)
    assert run.info.images.scored == 12
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert [message for message in recorder.notices if "Out of memory" in message] == [
        "Out of memory on cpu: continuing with batches of 4.",
        "Out of memory on cpu: continuing with batches of 2.",
    ]
    monkeypatch.setattr(HostedModel, "candidates", forward(0))
    with pytest.raises(BadArgument, match=r"too little memory for one image .* Try --precision bf16"):
        evaluated(spec, dataset, tmp_path / "none", batch_size=2)


def test_a_batch_size_below_one_is_refused(dataset, spec, tmp_path):
    with pytest.raises(BadArgument, match="at least 1"):
        evaluated(spec, dataset, tmp_path / "run", batch_size=0)
    assert not (tmp_path / "run").exists()


# Runs in processes of their own that announce each scored image, with parts after every batch. PyTorch is imported, the
# model opened and a whole run made once, in which the network answers for all; each line of a pipe, a run folder and a
# pipe for its words, forks a process for one run.
NURSERY = """
import gc, os, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from panbench.base.reporter import Silent
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation import sinks
from panbench.evaluation.evaluate import evaluate
from panbench.models.opening import open_model
from panbench.evaluation.options import EvaluateOptions

torch.set_num_threads(1)
sinks.CHUNK_IMAGES = 2
model = open_model(find_model("mask2former-tiny"))
dataset = open_dataset(sys.argv[1])
network, outputs = model.candidates, {}

def candidates(batch):
    ids = [image.scene.image.id for image in batch]
    if not outputs.keys() >= set(ids):
        outputs.update(zip(ids, network(batch)))
    return [outputs[image_id] for image_id in ids]

model.candidates = candidates
# What the first run imports, the others find.
evaluate(model, dataset, Path(sys.argv[2]), EvaluateOptions(batch_size=2))
gc.freeze()
for line in open(sys.argv[3]):
    out, words = line.split()
    child = os.fork()
    if not child:
        with open(words, "w", buffering=1) as pipe:
            reporter = Silent()
            reporter.progress = lambda task, done, total, unit="images": print(done, file=pipe)
            evaluate(model, dataset, Path(out), EvaluateOptions(batch_size=2, resume=True), reporter)
            print("end", file=pipe)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts runs that can be killed, one after the other."""

    def __init__(self, dataset: Path, whole: Path, pipes: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONWARNINGS": "ignore"}
        self.words, asked = pipes / "words", pipes / "asked"
        for pipe in (self.words, asked):
            os.mkfifo(pipe)
        # Opened for both, it does not wait for the other side.
        self.asked = os.open(asked, os.O_RDWR)
        answers, answered = os.pipe()
        words = [sys.executable, "-c", NURSERY, str(dataset), str(whole), str(asked)]
        self.process = subprocess.Popen(words, stdout=answered, stderr=answered, env=environment)
        os.close(answered)
        self.answers = os.fdopen(answers)

    def run(self, out: Path, kill: Callable[[Iterator[str], int], None] = lambda lines, pid: None) -> int:
        """The exit code of a run into `out`. `kill` is called with the lines that it prints and its process id."""
        os.write(self.asked, f"{out} {self.words}\n".encode())
        child = int(self.answers.readline())
        with self.words.open() as lines:
            kill(lines, child)
            lines.read()
        return int(self.answers.readline())

    def close(self) -> None:
        os.close(self.asked)
        self.answers.close()
        self.process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_a_run_killed_at_twenty_moments_gives_the_same_tables(folder, tmp_path):
    """One run is killed with SIGKILL again and again, each time resumed, until 20 kills; then it ends undisturbed.

    The moments are seeded: after a random number of announced images, plus a random fraction of a batch's time. When a
    run came to its end before its kill, the next one begins in a folder of its own.
    """
    dice = random.Random(0)

    def kill(lines: Iterator[str], child: int) -> None:
        images, moment = dice.randint(0, 4), dice.random() * 0.01
        for line in lines:
            images -= 1
            if images < 0 or line == "end\n":
                break
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    with contextlib.closing(Nursery(folder, tmp_path / "whole", tmp_path)) as nursery:
        assert nursery.run(tmp_path / "forked") == 0
        whole = load_run(tmp_path / "whole")
        assert rows(load_run(tmp_path / "forked")) == rows(whole)
        out, kills, left = tmp_path / "run", 0, []
        while kills < 20:
            kills += nursery.run(out, kill) == -signal.SIGKILL
            survivor = load_run(out)
            assert not survivor.notices, "a kill leaves no torn part"
            held = set(survivor.image_ids())
            left.append(len(held))
            expected = set(zip(*[column.tolist() for column in _pairs(whole, held)], strict=True))
            assert set(zip(*[column.tolist() for column in _pairs(survivor, held)], strict=True)) == expected
            if survivor.info.status == "done":
                assert rows(survivor) == rows(whole)
                out = tmp_path / f"run-{len(left)}"
        assert nursery.run(out) == 0
    assert rows(load_run(out)) == rows(whole)
    assert len(set(left)) > 3, "the kills hit different stages"


def _pairs(run: Run, images: set[int]):
    overlaps = run.overlaps()
    chosen = overlaps[overlaps["image_id"].isin(images)]
    return [chosen[column] for column in ("image_id", "gt_id", "pred_id", "pixels")]


def test_loading_and_scoring_threads_run_single_threaded_operators():
    before = torch.get_num_threads()
    with _single_threaded_pool(4, "test") as pool:
        barrier = threading.Barrier(4)

        def count() -> int:
            barrier.wait(timeout=60)
            return torch.get_num_threads()

        assert [future.result() for future in [pool.submit(count) for _ in range(4)]] == [1] * 4
    assert torch.get_num_threads() == before


def test_a_sweep_frees_each_model_before_the_next_one(spec):
    """Also one that fails: its error must not keep it."""
    seen, alive = [], []

    class Circular:
        def __init__(self):
            self.own = self.method

        def method(self):
            pass

    def evaluate(index, model_spec):
        alive.append(sum(reference() is not None for reference in seen))
        model = Circular()
        seen.append(weakref.ref(model))
        raise BadModel("not today")

    outcomes = evaluate_in_turn([spec, spec, spec], evaluate, lambda outcome: None)
    assert alive == [0, 0, 0]
    assert [outcome.reason for outcome in outcomes] == ["not today"] * 3


def test_other_device_errors_are_not_taken_for_out_of_memory(dataset, spec, tmp_path, monkeypatch):
    def broken(self, batch):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(HostedModel, "candidates", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        evaluated(spec, dataset, tmp_path / "run", batch_size=2)


def test_a_batch_that_ran_out_of_memory_is_freed_before_the_retry(dataset, spec, tmp_path, monkeypatch):
    """The traceback of the error holds what was on the device: memory is given back after it is gone."""
    model = open_model(spec, device="cpu")
    candidates, held, freed = model.candidates, [], []

    class Activations:
        pass

    def short(batch):
        if len(batch) > 1:
            activations = Activations()
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("too large")
        return candidates(batch)

    monkeypatch.setattr(model, "candidates", short)
    monkeypatch.setattr("panbench.evaluation.loop.free_memory", lambda: freed.append(held[-1]() is None))
    run = evaluate(model, dataset, tmp_path / "run", EvaluateOptions(batch_size=4))
    assert run.info.images.scored == len(dataset.scenes)
    assert freed
    assert all(freed)
