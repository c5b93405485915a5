"""PQ against time: the steps of a run (its earlier layers, or other sizes), each with its interval and its time.

A step's PQ has the jackknife's interval; its difference to the run itself the paired jackknife's and a p-value
corrected for all steps (metrics/uncertainty.py). Times were measured on some images, one at a time, the steps in turns:
of a layer, the network cut after it, so that a time is what such a model would take.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import in_sentence
from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import Sample, SampleFold
from panbench.metrics.uncertainty import weigh
from panbench.report.answers.comparison import corrected_p
from panbench.report.answers.grid import ABSENT, Grid, percent, signed
from panbench.report.answers.tables import headline
from panbench.runs import Run, load_run
from panbench.runs.alike import differing_settings
from panbench.studies.tradeoffs.places import LAYERS, SIZES, Kind

__all__ = ["Step", "Tradeoff", "tradeoff_curves", "tradeoff_grids", "tradeoff_record", "tradeoffs"]


@dataclass(frozen=True)
class Step:
    """One layer or size. Fractions 0–1; None for what does not exist.

    number: of the layer, or the factor; is_run: whether it is the run itself (the last layer, size 1)
    lost: PQ of the run itself less this one's, with its 95 % interval and corrected p-value
    milliseconds: the median for an image, with the first and third quartile
    """

    number: float
    is_run: bool
    PQ: float | None
    low: float | None
    high: float | None
    lost: float | None = None
    lost_low: float | None = None
    lost_high: float | None = None
    p: float | None = None
    at_floor: bool = False
    milliseconds: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Tradeoff:
    """The steps of one run, from the fastest on. timed: how many images were timed, on what, or None."""

    run: Run
    kind: Kind
    steps: tuple[Step, ...]
    timed: Mapping[str, Any] | None

    @property
    def whole(self) -> Step:
        """The run itself."""
        return next(step for step in self.steps if step.is_run)

    @property
    def enough(self) -> Step | None:
        """The first step that is not significantly worse than the run itself; None where nothing was tested."""
        if all(step.p is None for step in self.steps):
            return None
        return next(step for step in self.steps if step.is_run or not _is_worse(step))


def _is_worse(step: Step) -> bool:
    return bool(step.p is not None and step.p < 0.05 and step.lost is not None and step.lost > 0)


def tradeoffs(runs: Sequence[Run], *, tested: bool = True, reporter: Reporter = SILENT) -> list[Tradeoff]:
    """The layers and the sizes of each run that has any beside it; runs of a step themselves are left out.

    tested: also differences, with p-values
    Raises BadRun for a run without any, and for runs beside it that are not of its model, data and images.
    """
    found = []
    for run in runs:
        if _is_step(run):
            continue
        run.require_images("measure")
        own = [each for kind in (LAYERS, SIZES) if (each := _of_run(run, kind, tested, reporter)) is not None]
        if not own:
            raise BadRun(
                f"{run.path or run.name} has no runs of other layers or sizes beside it. `panbench eval --layers all "
                "--resume`, or --size 0.5,0.75,1, with the options of the run makes them."
            )
        found += own
    if not found:
        raise BadRun("These are runs of single layers or sizes. Name the run that they stand beside.")
    return found


def _is_step(run: Run) -> bool:
    return any(kind.word in run.info.arguments for kind in (LAYERS, SIZES))


def _of_run(run: Run, kind: Kind, tested: bool, reporter: Reporter) -> Tradeoff | None:
    if run.path is None:
        return None
    home = Path(run.path)
    beside = {step: load_run(kind.folder(home, step)) for step in kind.steps_of(home)}
    if not beside:
        return None
    for other in beside.values():
        _check_alike(run, other, kind)
    times = _times(kind.times(home), run)
    own = _number_of_run(beside, kind)
    members = {**{float(step): other for step, other in beside.items()}, own: run}
    images = run.images
    samples = {str(number): _sample(members[number], images) for number in sorted(members)}
    tests = _tests(samples, str(own), reporter) if tested else {}
    spent = {} if times is None else times["milliseconds"]
    steps = [
        Step(
            number,
            number == own,
            *_pq(samples[str(number)]),
            **tests.get(str(number), {}),
            milliseconds=_quartiles(spent.get(f"{number:g}")),
        )
        for number in sorted(members)
    ]
    return Tradeoff(run, kind, tuple(steps), times)


def _number_of_run(beside: Mapping[str, Run], kind: Kind) -> float:
    """The run's own step: 1 of sizes; of layers, how many there are. Raises BadRun where runs do not agree."""
    if kind is SIZES:
        return 1.0
    counts = {str(run.info.arguments[kind.word]).partition(" of ")[2] for run in beside.values()}
    if len(counts) > 1 or not next(iter(counts)).isdigit():
        raise BadRun(f"{in_sentence(str(run.path) for run in beside.values())} are not layers of one decoder.")
    return float(counts.pop())


def _check_alike(run: Run, other: Run, kind: Kind) -> None:
    """Raises BadRun when a step is not of the run's model, data, settings and images."""
    if kind.word not in other.info.arguments:
        raise BadRun(f"{other.path} does not say which {kind.word} it is of. Move it elsewhere.")
    apart = (kind.word, "batch_size", "save_predictions", "definitions")
    different = [each for each in differing_settings(run.info, other.info, apart) if not each.startswith("model was")]
    if different:
        raise BadRun(
            f"{other.path} differs from {run.path}: {'; '.join(different)}. Make it again with --overwrite and the "
            "options of the run."
        )
    if other.faults or not np.array_equal(other.images, run.images):
        raise BadRun(
            f"{other.path} holds {len(other.images):,} of the {len(run.images):,} images of {run.path}. Continue it "
            "with the same command and --resume."
        )


def _times(path: Path, run: Run) -> dict[str, Any] | None:
    """The record of `further_runs`, if it is of the run's weights; None without one. Raises BadRun for a bad one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadRun(f"{path} cannot be read ({error}). Delete it: --resume measures again.") from error
    spent = found.get("milliseconds") if isinstance(found, dict) else None
    if not isinstance(spent, dict) or not all(isinstance(each, list) for each in spent.values()):
        raise BadRun(f"{path} is not a file of times. Delete it: --resume measures again.")
    weights = None if run.info.model is None else run.info.model.weights_sha256
    return found if found.get("weights_sha256") == weights else None


def _sample(run: Run, images: Any) -> Sample:
    sample = SampleFold(run.categories, images)
    run.fold(sample, images=images)
    return sample.result()


def _pq(sample: Sample) -> tuple[float | None, float | None, float | None]:
    """PQ of all categories and its interval."""
    table = intervals(sample, groups_only=True)
    (row,) = table[(table["group"] == "All") & (table["metric"] == "PQ")].itertuples()
    return _known(row.value), _known(row.low), _known(row.high)


def _tests(samples: Mapping[str, Sample], own: str, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """The loss of each step but the run itself, as fields of `Step`."""
    table = weigh(samples, baseline=own, reporter=reporter).differences
    of_all = table[(table["group"] == "All") & (table["metric"] == "PQ")]
    return {
        # `weigh` has the run less the baseline.
        str(row.b): {
            "lost": _known(-row.difference),
            "lost_low": _known(-row.high),
            "lost_high": _known(-row.low),
            "p": _known(row.p_holm),
            "at_floor": bool(row.at_floor),
        }
        for row in of_all.itertuples()
    }


def _quartiles(spent: Sequence[float] | None) -> tuple[float, float, float] | None:
    if not spent:
        return None
    first, median, third = np.quantile(spent, [0.25, 0.5, 0.75])
    return float(median), float(first), float(third)


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def tradeoff_grids(found: Sequence[Tradeoff], digits: int = 1) -> list[Grid]:
    """A table for each run: PQ by layer or size, what it loses, and its time."""
    return [_grid(each, digits) for each in found]


def _grid(one: Tradeoff, digits: int) -> Grid:
    whole = one.whole.milliseconds
    rows = []
    for step in one.steps:
        time = step.milliseconds
        rows.append(
            (
                f"{step.number:g}",
                percent(step.PQ, digits),
                _span(step.low, step.high, digits),
                ABSENT if step.is_run else percent(step.lost, digits),
                ABSENT if step.is_run else _span(step.lost_low, step.lost_high, digits, with_sign=True),
                ABSENT if step.p is None else corrected_p(step.p, step.at_floor),
                ABSENT if time is None else f"{time[0]:.1f}",
                ABSENT if time is None else f"[{time[1]:.1f}, {time[2]:.1f}]",
                ABSENT if time is None or whole is None else f"{whole[0] / time[0]:.2f}×",
            )
        )
    heads = (one.kind.word, "PQ", "95 % interval", "loses", "95 % interval", "p", "ms/image", "middle half", "speed")
    notes = tuple(filter(None, (_finding(one), _how_timed(one))))
    return Grid(heads, tuple(rows), words=1, title=f"{headline(one.run)}: PQ by {one.kind.word}", notes=notes)


def _finding(one: Tradeoff) -> str:
    """The first step that is not significantly worse than the run itself, in a sentence."""
    enough = one.enough
    if enough is None:
        return ""
    what = f"{one.kind.word} {enough.number:g}"
    if enough.is_run:
        return f"Every other {one.kind.word} is significantly worse than {what} (p, corrected, below 0.05)."
    return (
        f"From {what} on, no significant loss: p, corrected for all {one.kind.plural}, is 0.05 or more. That is no "
        "proof of equality: the interval says how much could be lost."
    )


def _how_timed(one: Tradeoff) -> str:
    if one.timed is None:
        return f"No times: `panbench eval --{'layers' if one.kind is LAYERS else 'size'} … --resume` measures them."
    images = max((len(spent) for spent in one.timed["milliseconds"].values()), default=0)
    what = "the network cut after each layer" if one.kind is LAYERS else "the network at each size"
    spent = "Times: CPU time" if one.timed.get("clock") == "CPU" else "Times:"
    return (
        f"{spent} of {what}, without reading and fusion; the median of {images} images, one at a time, on "
        f"{one.timed.get('device')} ({one.timed.get('threads')} threads), in {one.timed.get('precision')}"
        f"{_load(one.timed)}."
    )


def _load(timed: Mapping[str, Any]) -> str:
    """How many processes wanted to run while times were measured, where the system says it."""
    load = timed.get("load")
    return f"; load of the machine {load:.1f}" if isinstance(load, float) else ""


def _span(low: float | None, high: float | None, digits: int, *, with_sign: bool = False) -> str:
    if low is None or high is None:
        return ABSENT
    show = signed if with_sign else percent
    return f"[{show(low, digits)}, {show(high, digits)}]"


def tradeoff_record(found: Sequence[Tradeoff]) -> list[dict[str, Any]]:
    """What `tradeoffs --json` prints: fractions 0–1, milliseconds, None where there is none."""
    return [
        {
            "run": one.run.name,
            "title": None if one.run.info.model is None else one.run.info.model.title,
            "by": one.kind.word,
            "images": len(one.run.images),
            "timed_on": None
            if one.timed is None
            else {name: one.timed.get(name) for name in ("device", "threads", "precision", "clock", "load")},
            "steps": [
                {
                    one.kind.word: int(step.number) if one.kind is LAYERS else step.number,
                    **{
                        name: getattr(step, name)
                        for name in ("PQ", "low", "high", "lost", "lost_low", "lost_high", "p")
                    },
                    "milliseconds": None if step.milliseconds is None else step.milliseconds[0],
                    "milliseconds_quartiles": None if step.milliseconds is None else list(step.milliseconds[1:]),
                }
                for step in one.steps
            ],
        }
        for one in found
    ]


def tradeoff_curves(found: Sequence[Tradeoff], titles: Sequence[str]) -> pd.DataFrame:
    """A row a step: run, by, step, PQ, low, high, milliseconds, first and third quartile; NaN for what is absent."""
    rows = [
        {
            "run": title,
            "by": one.kind.word,
            "step": step.number,
            "PQ": step.PQ,
            "low": step.low,
            "high": step.high,
            **dict(zip(("milliseconds", "first", "third"), step.milliseconds or (None,) * 3, strict=True)),
        }
        for one, title in zip(found, titles, strict=True)
        for step in one.steps
    ]
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in ("run", "by")})
