"""Images a second of models that take a known time: the clock is simulated, so nothing here waits or is measured."""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Recorder

from panbench.catalog import find_model
from panbench.datasets import Dataset, shapes
from panbench.datasets.generated import generated_dataset
from panbench.evaluation import evaluate as evaluate_module
from panbench.evaluation import loop
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.measuring import ImageRate, LoopTimer, batches_before_rate, steady_rate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.tools import benchmark as bench
from panbench.models.candidates import FinishedMap, Frame, LabelledSegment
from panbench.models.functions import FunctionModel
from panbench.models.model import LoadedImage, Model
from panbench.models.preprocess import read_photograph
from panbench.models.rules.given import Given
from panbench.panoptic.types import Scene
from panbench.runs import ModelRecord, Run

WARM_UP = 10.0
"""Seconds that the first batch of each lane takes longer, as imports and compilation do."""


class World:
    """A clock that stands still until every lane sleeps and all batches that are through the model are scored."""

    def __init__(self, lanes: int) -> None:
        self.now, self.lanes = 0.0, lanes
        self._changed = threading.Condition()
        self._asleep: list[tuple[float, int]] = []
        self._images = self._left = self._done = 0
        self._running = False

    def start(self, images: int) -> None:
        """A loop over so many images begins; outside of one, a sleep passes at once."""
        self._images, self._left, self._done, self._running = images, 0, 0, True

    def stop(self) -> None:
        self._running = False

    def done(self, images: int) -> None:
        """The loop has stamped a batch."""
        with self._changed:
            self._done += images
            self._changed.notify_all()

    def sleep(self, seconds: float, images: int) -> None:
        """Returns when the clock is so much later; images: how many leave the model then."""
        with self._changed:
            wake = self.now + seconds
            if not self._running:
                self.now = wake
                return
            self._asleep.append((wake, images))
            while self.now < wake:
                if self._is_still():
                    self.now = min(self._asleep)[0]
                    self._left += sum(images for until, images in self._asleep if until <= self.now)
                    self._asleep = [each for each in self._asleep if each[0] > self.now]
                    self._changed.notify_all()
                else:
                    assert self._changed.wait(timeout=60), "nobody will wake this lane"

    def _is_still(self) -> bool:
        nobody_else = sum(images for _, images in self._asleep) == self._images - self._done
        return self._left == self._done and (len(self._asleep) == self.lanes or nobody_else)


class SleepyModel(Model):
    """Takes `seconds` of the world's time for each image of a batch, and finds nothing."""

    class_names = tuple(category["name"] for category in shapes.CATEGORIES)
    isthing = tuple(bool(category["isthing"]) for category in shapes.CATEGORIES)
    device = torch.device("cpu")
    rule = Given()

    def __init__(self, world: World, seconds: float = 1.0) -> None:
        self.spec = dataclasses.replace(find_model("mask2former-tiny"), name="sleepy", title="Sleepy")
        self.world, self.seconds = world, seconds
        self._calls = itertools.count()

    def describe(self) -> ModelRecord:
        return ModelRecord(name="sleepy", title="Sleepy")

    def plant_segments(self, count: int) -> None:
        """It answers with one segment, whatever it is told."""

    def load(self, scene: Scene) -> LoadedImage:
        rgb, facts = read_photograph(scene)
        return LoadedImage(scene, torch.from_numpy(rgb), None, facts)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[FinishedMap]:
        warm_up = WARM_UP if next(self._calls) < self.world.lanes else 0.0
        self.world.sleep(warm_up + self.seconds * len(batch), len(batch))
        size = tuple(batch[0].inputs.shape[:2])
        ids = np.ones(size, np.int32)
        return [FinishedMap(ids, (LabelledSegment(1, 0, ids.size, None),), Frame(size, size, size)) for _ in batch]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return generated_dataset(SleepyModel.class_names, SleepyModel.isthing, size=(32, 32), count=32)


@pytest.fixture
def enter(monkeypatch) -> Callable[[int], World]:
    """A world of so many lanes, whose clock the loop reads."""

    def entered(lanes: int) -> World:
        world = World(lanes)

        class SimulatedPace(LoopTimer):
            def __init__(self) -> None:
                super().__init__(lambda: world.now)

            def stop(self) -> None:
                super().stop()
                world.stop()

            def batch_done(self, images: int) -> None:
                super().batch_done(images)
                world.done(images)

        class Loop(loop.Loop):
            def run(self, plan: Sequence[Sequence[Scene]]) -> None:
                world.start(sum(map(len, plan)))
                super().run(plan)

        monkeypatch.setattr(loop, "LoopTimer", SimulatedPace)
        monkeypatch.setattr(evaluate_module, "Loop", Loop)
        for module in (loop, bench):
            monkeypatch.setattr(module, "lanes_of", lambda model, threads: lanes)
        return world

    return entered


def run_of(world: World, dataset: Dataset, count: int, batch_size: int, out: Path, **options) -> Run:
    few = dataclasses.replace(dataset, scenes=dataset.scenes[:count])
    settings = EvaluateOptions(batch_size=batch_size, workers=1, **options)
    return evaluate(SleepyModel(world), few, out, settings)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(("batch_size", "batches_a_lane"), [(1, 2), (1, 3), (1, 12), (4, 2), (4, 4), (8, 2)])
def test_a_model_with_one_second_per_image_is_reported_at_that_rate(
    enter, dataset, tmp_path, lanes, batch_size, batches_a_lane
):
    """One image a second and lane, however few batches there are, whatever the first one took longer."""
    count = batches_a_lane * lanes * batch_size
    info = run_of(enter(lanes), dataset, count, batch_size, tmp_path / "run").info
    assert info.images_per_second == pytest.approx(lanes)
    assert (info.images_per_second_low, info.images_per_second_high) == pytest.approx((lanes, lanes))
    assert info.seconds.wall == pytest.approx(WARM_UP + count / lanes)


@pytest.mark.parametrize(("lanes", "count", "batch_size"), [(1, 1, 1), (1, 8, 8), (2, 2, 1), (2, 3, 1), (2, 12, 4)])
def test_no_rate_is_reported_for_too_few_batches(enter, dataset, tmp_path, lanes, count, batch_size):
    """One a lane, whose time is mostly warming up; a third batch runs alone on one of two lanes."""
    info = run_of(enter(lanes), dataset, count, batch_size, tmp_path / "run").info
    assert info.images_per_second is None
    assert info.images_per_second_low is None
    assert info.images_per_second_high is None
    assert info.seconds.wall >= WARM_UP + count / lanes


@pytest.mark.parametrize(("lanes", "count", "told"), [(1, 2, 1.0), (1, 8, 1.0), (2, 4, 1.0), (2, 8, 1.0)])
def test_a_function_that_takes_a_second_per_image_has_a_rate_of_one(enter, dataset, tmp_path, lanes, count, told):
    """In two lanes as well: a function is called once at a time."""
    world = enter(lanes)
    world.lanes = 1

    def nothing_found(image: np.ndarray) -> tuple[np.ndarray, list]:
        world.sleep(1.0, 1)
        return np.zeros(image.shape[:2], np.int32), []

    nothing_found.categories = shapes.CATEGORIES
    spec = dataclasses.replace(find_model("mask2former-tiny"), name="function", adapter="a.test:function")
    few = dataclasses.replace(dataset, scenes=dataset.scenes[:count])
    run = evaluate(FunctionModel(spec, nothing_found), few, tmp_path / "run", EvaluateOptions(batch_size=1, workers=1))
    assert run.info.images_per_second == pytest.approx(told)


def test_the_rate_counts_images_and_not_batches(enter, dataset, tmp_path):
    """Twenty images in batches of 8, 8 and 4: twice as fast, when the second batch was counted without its time."""
    assert run_of(enter(1), dataset, 20, 8, tmp_path / "run").info.images_per_second == pytest.approx(1.0)


def test_resuming_for_a_single_batch_keeps_the_earlier_rate(enter, dataset, tmp_path):
    world = enter(1)
    two = dataclasses.replace(dataset, scenes=dataset.scenes[:4])

    class Stops(SleepyModel):
        def candidates(self, batch):
            if batch[0].scene.image.id == two.scenes[3].image.id:
                raise KeyboardInterrupt
            return super().candidates(batch)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(world), two, tmp_path / "run", EvaluateOptions(batch_size=1, workers=1))
    run = evaluate(SleepyModel(world), two, tmp_path / "run", EvaluateOptions(batch_size=1, workers=1, resume=True))
    assert run.info.images.scored == 4
    assert run.info.images_per_second == pytest.approx(1.0)
    assert run.info.seconds.wall == pytest.approx(2 * WARM_UP + 4)


@pytest.fixture
def benched(enter, monkeypatch, tmp_path):
    """A function that benchmarks a model in lanes of a world of its own."""
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(bench, "REFERENCE_IMAGE", (32, 32))

    def rows_of(lanes: int, count: int, kind: type[SleepyModel] = SleepyModel, **settings) -> Sequence[bench.Row]:
        world = enter(lanes)
        monkeypatch.setattr(bench, "opened_model", lambda spec, opening: kind(world))
        specs, of_all = [find_model("mask2former-tiny")], {"size": (32, 32), "device": "cpu", "warm_up": 0}
        return bench.benchmark(specs, count=count, **of_all, **settings).rows

    return rows_of


@pytest.mark.parametrize("lanes", [1, 2])
def test_bench_reports_the_same_rate_at_every_batch_size(benched, lanes):
    rows = benched(lanes, 32, batch_sizes=[1, 4, 8])
    assert [row.status for row in rows] == ["ok"] * 3
    assert [row.images_per_second for row in rows] == pytest.approx([lanes] * 3)
    assert [row.loop_seconds for row in rows] == pytest.approx([32 / lanes] * 3)


@pytest.mark.parametrize(("lanes", "enough"), [(1, 16), (2, 32)])
def test_bench_reports_how_many_images_its_rate_is_from(benched, lanes, enough):
    recorder = Recorder()
    (few,) = benched(lanes, enough - 8, batch_sizes=[8], reporter=recorder)
    (whole,) = benched(lanes, enough, batch_sizes=[8], reporter=recorder)
    assert whole.images_per_second == pytest.approx(lanes)
    assert few.images_per_second is None
    assert recorder.notices == [
        f"mask2former-tiny, fp32, batch size 8: {enough - 8} images are too few batches for images a second; "
        f"--count {enough} would do. The whole loop took {few.loop_seconds:.1f} s."
    ]


@pytest.mark.parametrize("is_thing", [True, False])
def test_bench_measures_a_model_without_things_or_stuff(benched, is_thing):
    """It divided by the number of stuff categories, to name the generated ones after the model's."""

    class OneKind(SleepyModel):
        class_names = ("first", "second", "third")
        isthing = (is_thing,) * 3

    (row,) = benched(1, 16, OneKind)
    assert (row.status, row.images_per_second) == ("ok", pytest.approx(1.0))
    assert row.PQ is not None


class Stopwatch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pace_of(moments: Sequence[tuple[float, int]]) -> LoopTimer:
    """The pace of a loop whose batches were done at these times, with so many images each."""
    clock = Stopwatch()
    pace = LoopTimer(clock)
    for clock.now, images in moments:
        pace.batch_done(images)
    return pace


def test_concurrent_images_that_end_together_do_not_make_a_rate():
    """Four threads load, a second an image: four a second, not the 7 that come after the first of the first four."""
    before = batches_before_rate(8, 8, lanes=1, workers=4)
    assert before == 4
    eight = pace_of([(1.0 + 0.001 * number, 1) for number in range(4)] + [(2.0 + 0.001 * n, 1) for n in range(4)])
    assert eight.rate(lanes=1, before=before).mean == pytest.approx(4.0)
    three = pace_of([(1.0, 1), (1.001, 1), (1.002, 1)])
    assert three.rate(lanes=1, before=batches_before_rate(3, 3, lanes=1, workers=4)) is None


@pytest.mark.parametrize(
    ("batches", "images", "lanes", "workers", "before"),
    [(10, 10, 1, 1, 1), (10, 10, 1, 8, 8), (10, 80, 1, 8, 1), (10, 80, 2, 8, 2), (10, 10, 2, 3, 4), (0, 0, 2, 8, 2)],
)
def test_the_clock_stops_when_all_concurrent_batches_have_ended(batches, images, lanes, workers, before):
    assert batches_before_rate(batches, images, lanes=lanes, workers=workers) == before


def test_the_rate_excludes_warm_up_and_setup():
    # Ten seconds of warming up, then four images a second, and two a second in the last third.
    moments = [(10.0, 4), (11.0, 8), (12.0, 12), (13.0, 16), (14.0, 20), (16.0, 24), (18.0, 28)]
    assert steady_rate(moments) == ImageRate(mean=3.0, low=2.0, high=4.0)
    assert steady_rate(moments[:1]) is None
    assert steady_rate([]) is None
    assert steady_rate(moments[:2]) == ImageRate(4.0, 4.0, 4.0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_rate_over_very_many_batches_takes_little_memory(lanes):
    """Batches end in pairs where there are two lanes: whatever is dropped, it is not half of the pairs."""
    pace = pace_of([(float(1 + number // lanes), 1) for number in range(20_000)])
    assert len(pace._moments) <= 4096
    assert pace.rate(lanes=lanes, before=lanes) == ImageRate(*[pytest.approx(float(lanes))] * 3)
