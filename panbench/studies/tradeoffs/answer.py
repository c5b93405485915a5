"""PQ against time: the steps of a run (its earlier layers, or other sizes), each with its interval and its time.

A step's PQ has the jackknife's interval; its difference to the run itself has the paired jackknife's and a p-value
corrected for all steps (metrics/uncertainty.py). Times are measured on some images, one at a time, the steps in turns;
for a layer, the network is cut after it, so the time is that of a model with so many layers.
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
from panbench.metrics.samples import Sample
from panbench.metrics.uncertainty import compare_runs
from panbench.report.answers.answer import Answer
from panbench.report.answers.comparison import corrected_p, sample_of
from panbench.report.answers.grid import ABSENT, Grid, interval_text, known, percent
from panbench.report.answers.tables import headline
from panbench.runs import Run, load_run
from panbench.runs.comparable import differing_settings
from panbench.studies.tradeoffs.steps import LAYERS, SIZES, StepKind


@dataclass(frozen=True)
class TradeoffStep:
    """PQ and time of a run at one decoder layer or image size.

    Fractions are 0–1; missing numbers are None.
    number: the layer's number, or the factor of the size; is_run: True for the run itself (the last layer, size 1)
    lost: PQ of the run itself minus this step's, with its 95 % interval and corrected p-value
    milliseconds: median, first and third quartile for an image
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
    """PQ and time of a run and of its variants with earlier decoder layers, or with other image sizes, ascending.

    timed: the record of the times, if they were measured
    """

    run: Run
    kind: StepKind
    steps: tuple[TradeoffStep, ...]
    timed: Mapping[str, Any] | None

    @property
    def own_step(self) -> TradeoffStep:
        """PQ and time of the run itself, with the last decoder layer and images at scale 1."""
        return next(step for step in self.steps if step.is_run)

    @property
    def enough(self) -> TradeoffStep | None:
        """The lowest layer or size that is not significantly worse than the run itself; None without tests."""
        if all(step.p is None for step in self.steps):
            return None
        return next(step for step in self.steps if step.is_run or not _is_significantly_worse(step))


def _is_significantly_worse(step: TradeoffStep) -> bool:
    """Returns True if PQ of an earlier decoder layer or another image scale is significantly below the run's own."""
    return bool(step.p is not None and step.p < 0.05 and step.lost is not None and step.lost > 0)


def tradeoffs(runs: Sequence[Run], *, tested: bool = True, reporter: Reporter = SILENT) -> list[Tradeoff]:
    """Reads PQ and time of each run and of its variants with an earlier decoder layer or another image size.

    Runs that are such a variant themselves are skipped.
    tested: also test differences to the run itself
    Raises BadRun for a run without steps, and for steps of another model, other data or other images.
    """
    found = []
    for run in runs:
        if _is_layer_or_size_run(run):
            continue
        run.require_images("measure")
        own = [each for kind in (LAYERS, SIZES) if (each := _tradeoff_of(run, kind, tested, reporter)) is not None]
        if not own:
            run.require_model("ask for earlier layers or other sizes")
            raise BadRun(
                f"{run.path or run.name} has no runs of other layers or sizes next to it. `panbench eval --layers all "
                "--resume`, or --size 0.5,0.75,1, with the options of the run makes them."
            )
        found += own
    if not found:
        raise BadRun("These are runs of single layers or sizes. Name the run next to them.")
    return found


def _is_layer_or_size_run(run: Run) -> bool:
    """Returns True if `eval` made a run for an earlier decoder layer (`--layers`) or for an image scale (`--size`)."""
    return any(kind.word in run.info.arguments for kind in (LAYERS, SIZES))


def _tradeoff_of(run: Run, kind: StepKind, tested: bool, reporter: Reporter) -> Tradeoff | None:
    """Reads PQ and times of a run's earlier decoder layers, or other image scales; None if there are none."""
    if run.path is None:
        return None
    home = Path(run.path)
    step_runs = {step: load_run(kind.folder(home, step)) for step in kind.steps_of(home)}
    if not step_runs:
        return None
    for other in step_runs.values():
        _check_step_alike(run, other, kind)
    times = _read_times(kind.times(home), run)
    own = _own_layer_or_size(step_runs, kind)
    members = {**{float(step): other for step, other in step_runs.items()}, own: run}
    images = run.images
    samples = {str(number): sample_of(members[number], images) for number in sorted(members)}
    tests = _losses_against_run(samples, str(own), reporter) if tested else {}
    spent = {} if times is None else times["milliseconds"]
    steps = [
        TradeoffStep(
            number,
            number == own,
            *_pq_with_interval(samples[str(number)]),
            **tests.get(str(number), {}),
            milliseconds=_quartiles(spent.get(f"{number:g}")),
        )
        for number in sorted(members)
    ]
    return Tradeoff(run, kind, tuple(steps), times)


def _own_layer_or_size(step_runs: Mapping[str, Run], kind: StepKind) -> float:
    """Returns the run's own decoder layer (the last), or image scale (1). Raises BadRun if its layers contradict."""
    if kind is SIZES:
        return 1.0
    counts = {str(run.info.arguments[kind.word]).partition(" of ")[2] for run in step_runs.values()}
    if len(counts) > 1 or not next(iter(counts)).isdigit():
        raise BadRun(f"{in_sentence(str(run.path) for run in step_runs.values())} are not layers of one decoder.")
    return float(counts.pop())


def _check_step_alike(run: Run, other: Run, kind: StepKind) -> None:
    """Raises BadRun if a run's variant (another decoder layer or image size) differs from it in anything else."""
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


def _read_times(path: Path, run: Run) -> dict[str, Any] | None:
    """Reads the record of times; None if there is none for the run's weights. Raises BadRun for a damaged file."""
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


def _pq_with_interval(sample: Sample) -> tuple[float | None, float | None, float | None]:
    """Returns PQ of all categories with the ends of its interval."""
    table = intervals(sample, groups_only=True)
    (row,) = table[(table["group"] == "All") & (table["metric"] == "PQ")].itertuples()
    return known(row.value), known(row.low), known(row.high)


def _losses_against_run(samples: Mapping[str, Sample], own: str, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Tests PQ of each decoder layer or image scale against the run's own; returns each loss, its interval and p."""
    table = compare_runs(samples, baseline=own, reporter=reporter).differences
    of_all = table[(table["group"] == "All") & (table["metric"] == "PQ")]
    return {
        # `compare_runs` returns step − run.
        str(row.b): {
            "lost": known(-row.difference),
            "lost_low": known(-row.high),
            "lost_high": known(-row.low),
            "p": known(row.p_holm),
            "at_floor": bool(row.at_floor),
        }
        for row in of_all.itertuples()
    }


def _quartiles(spent: Sequence[float] | None) -> tuple[float, float, float] | None:
    """Returns the median, the first and the third quartile of times; None without times."""
    if not spent:
        return None
    first, median, third = np.quantile(spent, [0.25, 0.5, 0.75])
    return float(median), float(first), float(third)


@dataclass(frozen=True)
class TradeoffAnswer(Answer):
    """The answer of `compare --tradeoffs`, as tables and JSON.

    digits: decimals of percentages
    """

    found: tuple[Tradeoff, ...]
    digits: int = 2

    @property
    def grids(self) -> list[Grid]:
        """A table per run: PQ by layer or size, its loss against the run, and its time."""
        return [_tradeoff_grid(each, self.digits) for each in self.found]

    def record(self) -> list[dict[str, Any]]:
        """Returns the output of --json: fractions 0–1 and milliseconds, None for missing numbers."""
        return [_tradeoff_record(one) for one in self.found]

    def table(self) -> pd.DataFrame:
        """Returns one row per decoder layer or image scale: PQ as fraction 0–1 with interval, and milliseconds."""
        return tradeoff_curves(self.found, [one.run.name for one in self.found])


def _tradeoff_grid(one: Tradeoff, digits: int) -> Grid:
    """Tabulates PQ, loss, p and time of each layer or size of a run."""
    own_time = one.own_step.milliseconds
    rows = []
    for step in one.steps:
        time = step.milliseconds
        rows.append(
            (
                f"{step.number:g}",
                percent(step.PQ, digits),
                interval_text(step.low, step.high, digits),
                ABSENT if step.is_run else percent(step.lost, digits),
                ABSENT if step.is_run else interval_text(step.lost_low, step.lost_high, digits, with_sign=True),
                ABSENT if step.p is None else corrected_p(step.p, step.at_floor),
                ABSENT if time is None else f"{time[0]:.1f}",
                ABSENT if time is None else f"[{time[1]:.1f}, {time[2]:.1f}]",
                ABSENT if time is None or own_time is None else f"{own_time[0] / time[0]:.2f}×",
            )
        )
    heads = (one.kind.word, "PQ", "95 % interval", "loses", "95 % interval", "p", "ms/image", "middle half", "speed")
    notes = tuple(filter(None, (_no_loss_sentence(one), _timing_sentence(one))))
    return Grid(heads, tuple(rows), words=1, title=f"{headline(one.run)}: PQ by {one.kind.word}", notes=notes)


def _no_loss_sentence(one: Tradeoff) -> str:
    """Returns a sentence on the earliest decoder layer, or smallest image scale, without a significant loss of PQ."""
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


def _timing_sentence(one: Tradeoff) -> str:
    """Returns a sentence on how the times were measured, or how to measure them."""
    if one.timed is None:
        return f"No times: `panbench eval --{'layers' if one.kind is LAYERS else 'size'} … --resume` measures them."
    images = max((len(spent) for spent in one.timed["milliseconds"].values()), default=0)
    what = "the network cut after each layer" if one.kind is LAYERS else "the network at each size"
    spent = "Times: CPU time" if one.timed.get("clock") == "CPU" else "Times:"
    return (
        f"{spent} of {what}, without reading and fusion; the median of {images} images, one at a time, on "
        f"{one.timed.get('device')} ({one.timed.get('threads')} threads), in {one.timed.get('precision')}"
        f"{_machine_load_clause(one.timed)}."
    )


def _machine_load_clause(timed: Mapping[str, Any]) -> str:
    """Returns a clause with the machine's load (runnable processes) during timing, if it was recorded."""
    load = timed.get("load")
    return f"; load of the machine {load:.1f}" if isinstance(load, float) else ""


def _tradeoff_record(one: Tradeoff) -> dict[str, Any]:
    """Returns one run's PQ and time by decoder layer or image size, as `compare --tradeoffs --json` prints them."""
    return {
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
                **{name: getattr(step, name) for name in ("PQ", "low", "high", "lost", "lost_low", "lost_high", "p")},
                "milliseconds": None if step.milliseconds is None else step.milliseconds[0],
                "milliseconds_quartiles": None if step.milliseconds is None else list(step.milliseconds[1:]),
            }
            for step in one.steps
        ],
    }


def tradeoff_curves(found: Sequence[Tradeoff], titles: Sequence[str]) -> pd.DataFrame:
    """Returns a table with PQ, its interval and time, one row per run and decoder layer or image size.

    Columns: run, by (layer or size), step (its number), PQ, low, high, milliseconds, first, third (their quartiles).
    """
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
