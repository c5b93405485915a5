"""Simulates how often 95 % intervals hold what they are intervals of, and writes the tables of docs/simulations.md.

    python scripts/check/simulate_intervals.py [--only scores] [--draws 1000] [--seed 0] [--write]

Populations are those of simulated_population.py; a draw is a data set of N images, drawn with replacement, on which the
interval is made as panbench makes it and held against the @@"""

import argparse
import csv
import functools
import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.metrics.jackknife import MATCHED_IOU, Jackknife, differences, intervals, matched_iou
from panbench.metrics.samples import METRICS, TRUE, Sample, Stack
from panbench.metrics.uncertainty import compare_runs
from panbench.studies.gate.answer import GateCheck, gate_checks, gate_outcome
from panbench.studies.seeds.statistics import compare_seeds
from panbench.studies.unfused.instance_ap import instance_ap, jackknifed_ap
from panbench.studies.unfused.metric import AP_NAMES, UNITS
from scripts.check import simulated_trainings as small_world
from scripts.check.simulated_instances import Instances
from scripts.check.simulated_population import SIZES, Answers, Drawer, World, coco_like, shapes_like
from scripts.make import markdown_tables

Float = npt.NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "simulations.md"
TABLES = ROOT / "results" / "simulations"
RATES = ROOT / "panbench" / "metrics" / "coverage.csv"
GROUPS = ("All", "Things", "Stuff")
OF_DIFFERENCES = (*METRICS, MATCHED_IOU)
IMAGES = (20, 50, 100, 200, 500, 2000, 5000)
SWAPS = 1000
"""Of a simulated gate."""
WEAKER, BETTER = -1.6, 0.2
"""What the weaker model lacks and the better one has, in log-odds of finding an object."""


@functools.cache
def world_of(name: str, seed: int) -> World:
    """Returns the images of a population."""
    return {"coco": coco_like, "shapes": shapes_like}[name](seed)


@functools.cache
def answers_of(world: str, seed: int, better: float) -> Answers:
    """Returns the results of a model on all images of a population."""
    # Models err independently of each other, given the image.
    rng = np.random.default_rng([seed, 1, round(1000 * abs(better)), better < 0])
    return world_of(world, seed).answers(rng, better)


def members_of(answers: Answers) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns the category indices of All, Things and Stuff."""
    is_thing = np.array([category.isthing for category in answers.categories])
    return {"All": np.ones(len(is_thing), bool), "Things": is_thing, "Stuff": ~is_thing}


def truth_of(answers: Answers) -> dict[tuple[str, str], float]:
    """Returns the population's PQ, SQ and RQ of All, Things and Stuff."""
    scores = dict(zip(METRICS, answers.quotients(), strict=True))
    return {
        (group, metric): scores[metric][own].mean() for group, own in members_of(answers).items() for metric in METRICS
    }


def true_difference(a: Answers, b: Answers) -> dict[tuple[str, str], float]:
    """Returns the true differences of two models, including the mean IoU of matches over shared categories."""
    of_a, of_b = truth_of(a), truth_of(b)
    found = {at: of_b[at] - of_a[at] for at in of_a}
    sq_of_a, sq_of_b = (side.quotients()[1] for side in (a, b))
    both = (sq_of_a > 0) & (sq_of_b > 0)
    apart = sq_of_b - sq_of_a
    return found | {(group, MATCHED_IOU): apart[both & own].mean() for group, own in members_of(a).items()}


def percentage(hits: float, draws: float) -> str:
    """Returns the share of hits in percent."""
    return f"{100 * hits / draws:.1f}"


def error_of_rate(draws: int, share: float = 0.95) -> str:
    """Returns the standard error of a rate near 95 %, in percent."""
    return f"{100 * math.sqrt(share * (1 - share) / draws):.1f}"


class Table:
    """A table of the page; rows are printed when they are added."""

    def __init__(self, *headings: str) -> None:
        self.rows = [headings]
        self.note = ""
        self.rates: list[str] = []
        """The rows of coverage.csv."""

    def add(self, *cells: str) -> None:
        """Adds a row."""
        self.rows.append(cells)
        print(f"| {' | '.join(cells)} |", flush=True)

    def with_note(self, note: str) -> "Table":
        """Sets the note below the table; returns the table."""
        self.note = textwrap.fill(note, 118)
        return self


def draw_samples(rng: np.random.Generator, sides: Sequence[Sample], images: int, draws: int) -> Iterator[list[Sample]]:
    """Draws data sets of that many images, the same images for each model."""
    drawers = [Drawer(side) for side in sides]
    for _ in range(draws):
        chosen = rng.integers(0, drawers[0].n_images, images)
        yield [drawer.take(chosen) for drawer in drawers]


def scores(seed: int, draws: int) -> Table:
    """Measures how often intervals of PQ, SQ and RQ cover the population's."""
    named = [f"{metric} {group}" for metric in METRICS for group in GROUPS]
    table = Table("population", "images", *named, "mean PQ − population's", "half the interval of PQ")
    for label, world, better in (
        ("COCO-like", "coco", 0.0),
        ("COCO-like (weaker model)", "coco", WEAKER),
        ("shapes-like", "shapes", 0.0),
    ):
        answers = answers_of(world, seed, better)
        population, truth = answers.sample(), truth_of(answers)
        for images in IMAGES if world == "coco" else IMAGES[:-1]:
            number = draws if images < 5000 else draws // 2
            rng = np.random.default_rng([seed, 2, images])
            hits, values, halves = Counter[tuple[str, str]](), [], []
            for (sample,) in draw_samples(rng, [population], images, number):
                found = intervals(sample, groups_only=True)
                for row in found.itertuples():
                    hits[row.group, row.metric] += row.low <= truth[row.group, row.metric] <= row.high
                values.append(found["value"].iloc[0])
                halves.append((found["high"] - found["low"]).iloc[0] / 2)
            cells = [percentage(hits[group, metric], number) for metric in METRICS for group in GROUPS]
            bias = 100 * (np.mean(values) - truth["All", "PQ"])
            name = f"{label}, PQ {100 * truth['All', 'PQ']:.1f}"
            table.add(name, f"{images:,}", *cells, f"{bias:+.2f}", f"{100 * np.mean(halves):.2f}")
            for metric in METRICS:
                for group in GROUPS:
                    share = f"{hits[group, metric] / number:.4f}"
                    table.rates.append(f"{label},{images},{group},{metric},{share},{number}")
    return table.with_note(
        f"{draws:,} draws a line ({draws // 2:,} of 5,000 images), standard error {error_of_rate(draws)} points "
        f"near 95 %; seed {seed}."
    )


def categories(seed: int, draws: int) -> Table:
    """Measures how often intervals of categories, and of their differences, cover the truth, by number of images."""
    bins = [(10, 14), (15, 19), (20, 49), (50, 199), (200, 10**9)]
    hits, number = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    sides = [answers_of("coco", seed, better) for better in (0.0, BETTER)]
    truths = [side.quotients() for side in sides]
    apart = np.concatenate([truths[1] - truths[0], (truths[1] - truths[0])[1:2]])
    names = [*METRICS, *(f"Δ{metric}" for metric in OF_DIFFERENCES)]
    truth = dict(zip(names, [*truths[0], *apart], strict=True))
    for images, share in ((200, 8), (500, 8), (2000, 20)):
        rng = np.random.default_rng([seed, 3, images])
        for samples in draw_samples(rng, [side.sample() for side in sides], images, max(draws // share, 10)):
            stack = Stack.of(samples)
            true, groups = (stack.held[0] >= TRUE).sum(axis=1), len(stack.members)
            found = intervals(samples[0])
            single = found[found["group"].isna()].pivot_table(
                index="category_id", columns="metric", values=["low", "high"], dropna=False
            )
            low, high = ([single[side][metric].to_numpy() for metric in METRICS] for side in ("low", "high"))
            ends = differences(stack, 0, 1).estimate.ends(0.95)
            enough = stack.enough([0, 1])[groups:]
            of_pair = [np.where(enough, end[:, groups:], np.nan) for end in ends]
            bounds = zip(names, [*low, *of_pair[0]], [*high, *of_pair[1]], strict=True)
            for name, least, most in bounds:
                for place, (start, stop) in enumerate(bins):
                    own = (true >= start) & (true <= stop) & ~np.isnan(least)
                    number[place, name] += int(own.sum())
                    hits[place, name] += int(((least <= truth[name]) & (truth[name] <= most))[own].sum())
    table = Table("images with the category", "intervals of PQ", *names)
    for place, (start, stop) in enumerate(bins):
        label = f"{start}–{stop}" if stop < 10**9 else f"{start} and more"
        cells = [percentage(hits[place, name], max(number[place, name], 1)) for name in names]
        table.add(label, f"{number[place, 'PQ']:,}", *cells)
    note = f"COCO-like, data sets of 200, 500 and 2,000 images; seed {seed}."
    return table.with_note(f"{note} Δ: of two models' differences.")


def slices(seed: int, draws: int) -> Table:
    """Measures how often intervals of slices by size, and of their differences, cover the truth."""
    sides = [answers_of("coco", seed, better) for better in (0.0, BETTER)]
    of_sides = [side.quotients(by_size=True) for side in sides]
    truth = np.nanmean(of_sides[0], axis=-1)
    both = (of_sides[0][1] > 0) & (of_sides[1][1] > 0)
    apart = np.nanmean(of_sides[1], axis=-1) - truth
    of_iou = np.where(both, of_sides[1][1] - of_sides[0][1], 0).sum(axis=-1) / both.sum(axis=-1)
    wanted = {"PQ": truth[0], "RQ": truth[2], "ΔPQ": apart[0], "ΔRQ": apart[2], "ΔIoU": of_iou}
    table = Table("images", *(f"{name} {size}" for name in wanted for size in SIZES))
    number = max(draws // 2, 10)
    for images in (100, 200, 500, 2000):
        rng = np.random.default_rng([seed, 4, images])
        hits = {name: np.zeros(len(SIZES)) for name in wanted}
        for samples in draw_samples(rng, [side.sample(by_size=True) for side in sides], images, number):
            single = intervals(samples[0])
            low, high = differences(Stack.of(samples), 0, 1).estimate.ends(0.95)
            found = {f"Δ{name}": (low[row], high[row]) for row, name in enumerate(OF_DIFFERENCES)}
            for name in ("PQ", "RQ"):
                own = single[single["metric"] == name]
                found[name] = own["low"].to_numpy(), own["high"].to_numpy()
            for name, of in wanted.items():
                hits[name] += (found[name][0] <= of) & (of <= found[name][1])
        table.add(f"{images:,}", *(percentage(one, number) for name in wanted for one in hits[name]))
    note = f"COCO-like; {number:,} draws a line, standard error {error_of_rate(number)} points; seed {seed}."
    return table.with_note(note)


def of_differences(seed: int, draws: int) -> Table:
    """Measures how often intervals of the difference of two models cover it."""
    table = Table("population", "images", *(f"{metric} {group}" for metric in OF_DIFFERENCES for group in GROUPS))
    for label, world, better in (
        ("COCO-like", "coco", BETTER),
        ("COCO-like, far apart", "coco", WEAKER),
        ("shapes-like", "shapes", BETTER),
    ):
        sides = [answers_of(world, seed, gain) for gain in (0.0, better)]
        truth = true_difference(*sides)
        wanted = np.array([[truth[group, metric] for group in GROUPS] for metric in OF_DIFFERENCES])
        for images in (20, 50, 100, 200, 500, 2000):
            rng = np.random.default_rng([seed, 5, images])
            hits = np.zeros(wanted.shape)
            for samples in draw_samples(rng, [side.sample() for side in sides], images, draws):
                stack = Stack.of(samples)
                scores = Jackknife.of(stack, 1) - Jackknife.of(stack, 0)
                ends = [each.estimate().ends(0.95) for each in (scores, matched_iou(stack, 0, 1)[1])]
                low, high = (np.vstack(side) for side in zip(*ends, strict=True))
                hits += (low <= wanted) & (wanted <= high)
            name = f"{label}, ΔPQ {100 * truth['All', 'PQ']:+.2f}"
            table.add(name, f"{images:,}", *(percentage(one, draws) for one in hits.ravel()))
    return table.with_note(
        f"{draws:,} draws a line, standard error {error_of_rate(draws)} points near 95 %; seed {seed}. "
        "IoU: the mean IoU of matches, over the categories that both models match."
    )


def gates(seed: int, draws: int) -> Table:
    """Measures how often `gate` calls a run worse, by its interval alone and with the swap test.

    Exchangeable runs: on each image a coin decides whose answer is whose. Drops: the baseline's model is truly better.
    """
    weak, better, best = (answers_of("shapes", seed, by) for by in (0.0, BETTER, 4 * BETTER))
    drops = [100 * (truth_of(side)["All", "PQ"] - truth_of(weak)["All", "PQ"]) for side in (better, best)]
    of_drops = (cell for drop in drops for cell in (f"drop of {drop:.1f}: interval", "gate"))
    table = Table("images", "exchangeable: interval", "gate", *of_drops)
    for images in (12, 30, 100):
        rng = np.random.default_rng([seed, 6, images])
        cells = _exchangeable(rng, (weak, better), images, draws)
        for side in (better, best):
            cells += _rates_of_worse(rng, (side, weak), images, max(draws // 6, 10))
        table.add(f"{images}", *cells)
    return table.with_note(
        f"Two models on scenes of shapes; {draws:,} exchangeable data sets a line, each judged both ways, "
        f"and {draws // 6:,} with a drop; {SWAPS:,} swaps each. Standard error of a rate of 2.5 %: "
        f"{error_of_rate(2 * draws, 0.025)} points, of a drop at most {error_of_rate(draws // 6, 0.5)}; "
        f"seed {seed}."
    )


def _exchangeable(rng: np.random.Generator, answers: tuple[Answers, Answers], images: int, number: int) -> list[str]:
    """Returns the share of exchangeable runs called worse by the interval alone, and by the gate."""
    one, other = answers
    n_images = one.TP.shape[-1]
    side_by_side = Drawer(_images_of_both(one.sample(), other.sample()))
    by_interval = by_gate = 0
    for index in range(number):
        # A coin for each image of each data set: whose answer is the first run's.
        chosen, coin = rng.integers(0, n_images, images), rng.integers(0, 2, images)
        check = _gate_check([side_by_side.take(chosen + n_images * side) for side in (coin, 1 - coin)], index)
        if check.difference is None or check.low is None or check.high is None:
            continue
        by_interval += (check.high < 0) + (check.low > 0)
        # The other run against this one has the mirrored numbers.
        mirrored = gate_outcome(-check.difference, -check.high, -check.low, check.p, 0.0)
        by_gate += (check.outcome == "worse") + (mirrored == "worse")
    return [percentage(by_interval, 2 * number), percentage(by_gate, 2 * number)]


def _images_of_both(one: Sample, other: Sample) -> Sample:
    """Concatenates the images of two runs."""
    sums, held = (
        scipy.sparse.csr_array(scipy.sparse.hstack([getattr(one, name), getattr(other, name)]))
        for name in ("sums", "held")
    )
    return replace(one, image_ids=np.arange(2 * len(one.image_ids)), sums=sums, held=held)


def _rates_of_worse(rng: np.random.Generator, answers: tuple[Answers, Answers], images: int, number: int) -> list[str]:
    """Returns the share of truly worse runs called worse by the interval alone, and by the gate."""
    runs = draw_samples(rng, [side.sample() for side in answers], images, number)
    found = [_gate_check(pair, index) for index, pair in enumerate(runs)]
    by_interval = sum(check.high is not None and check.high < 0 for check in found)
    return [percentage(by_interval, number), percentage(sum(check.outcome == "worse" for check in found), number)]


def _gate_check(runs: list[Sample], seed: int) -> GateCheck:
    """Gates the second run against the first one as baseline."""
    return gate_checks(runs, [("All", "all")], "PQ", 0.0, SWAPS, seed=seed)[0]


def seeds(seed: int, draws: int) -> Table:
    """Measures how often the interval over seeds and images covers the mean PQ over trainings and all images."""
    table = Table("luck", "seeds", *GROUPS)
    number = max(draws // 4, 10)
    is_thing = np.array([category.isthing for category in small_world.CATEGORIES])
    for luck in (0.0, 0.3):
        truth = small_world.true_categories_over_seeds(seed, luck, 0.0)
        of = {"All": truth.mean(), "Things": truth[is_thing].mean(), "Stuff": truth[~is_thing].mean()}
        for trained in (1, 3, 5):
            rng = np.random.default_rng([seed, 7, trained])
            hits = Counter[str]()
            for _ in range(number):
                images = small_world.Images.sample(rng, 500)
                runs = [Sample.of(run) for run in small_world.seeds_of_model(rng, images, trained, luck)]
                for row in compare_seeds({"a": runs}).models.itertuples():
                    hits[row.group] += row.low <= of[row.group] <= row.high
            table.add(f"{luck:g}", f"{trained}", *(percentage(hits[group], number) for group in GROUPS))
    note = f"500 images, {number:,} draws a line, standard error {error_of_rate(number)} points; seed {seed}."
    return table.with_note(note)


def tests(seed: int, draws: int) -> Table:
    """Measures how often p < 0.05 without a difference, and how often a true difference is found and covered."""
    cases: dict[str, tuple[dict[str, float], dict[str, float]]] = {
        "the same model twice": ({}, {}),
        "same PQ, one steadier from image to image": ({"swing": 0.8}, {"swing": 0.8, "spread": 0.2}),
        "one a little better": ({}, {"better": 0.15}),
        "one clearly better": ({}, {"better": 0.5}),
    }
    heads = ("p < 0.05 for All", "a category is significant", "masks: p < 0.05 for All", "interval of ΔPQ covers it")
    table = Table("models", "images", *heads)
    rng, number = np.random.default_rng([seed, 8]), max(draws * 3 // 4, 10)
    for label, models in cases.items():
        truth = np.diff([small_world.true_pq(seed, **model).mean() for model in models])[0]
        for n in (50, 200, 1000):
            hits = np.zeros(4)
            for sample in range(number):
                images = small_world.Images.sample(rng, n)
                runs = {
                    name: small_world.statistics_of(small_world.sums_of_model(rng, images, **model))
                    for name, model in zip("ab", models, strict=True)
                }
                found = compare_runs(runs, permutations=SWAPS, seed=sample).differences
                of_pq = found[found["metric"] == "PQ"]
                overall = of_pq[of_pq["group"] == "All"].iloc[0]
                masks = found[(found["metric"] == MATCHED_IOU) & (found["group"] == "All")].iloc[0]
                any_category = bool(of_pq.loc[of_pq["group"].isna(), "significant"].any())
                covers = overall["low"] <= truth <= overall["high"]
                hits += (overall["p"] < 0.05, any_category, masks["p"] < 0.05, covers)
            table.add(f"{label}, ΔPQ {100 * truth:+.2f}", f"{n}", *(percentage(one, number) for one in hits))
    note = f"{number:,} data sets a line, {SWAPS:,} swaps each; standard error 1.3 points at 5 %, "
    return table.with_note(f"{note}{error_of_rate(number)} at 95 %; seed {seed}.")


def trainings(seed: int, draws: int) -> Table:
    """Measures how often intervals of a difference cover it, by number of seeds and their influence."""
    heads = ("interval over seeds and images", "p < 0.05", "first seeds, images alone")
    table = Table("luck", "seeds of each", "spread, points", "true ΔPQ", *heads)
    rng, number = np.random.default_rng([seed, 9]), max(draws * 3 // 8, 10)
    for better, luck in ((0.0, 0.0), (0.0, 0.3), (0.15, 0.3)):
        of_models = [small_world.true_pq_over_seeds(seed, luck, gain) for gain in (0.0, better)]
        truth = of_models[1] - of_models[0]
        for seeds_each in (2, 3, 5, 10):
            hits, spreads = np.zeros(3), []
            for _ in range(number):
                images = small_world.Images.sample(rng, 500)
                models = {
                    name: [Sample.of(run) for run in small_world.seeds_of_model(rng, images, seeds_each, luck, gain)]
                    for name, gain in (("a", 0.0), ("b", better))
                }
                found = compare_seeds(models)
                row = found.differences[found.differences["group"] == "All"].iloc[0]
                spreads.append(found.models.loc[found.models["group"] == "All", "spread"].pow(2).mean())
                alone = differences(Stack.of([runs[0] for runs in models.values()]), 0, 1).estimate.ends(0.95)
                first = alone[0][0, 0] <= truth <= alone[1][0, 0]
                hits += (row["low"] <= truth <= row["high"], row["p"] < 0.05, first)
            spread = f"{100 * math.sqrt(np.mean(spreads)):.2f}"
            cells = (percentage(one, number) for one in hits)
            table.add(f"{luck:g}", f"{seeds_each}", spread, f"{100 * truth:+.2f}", *cells)
    note = f"500 images, {number:,} draws a line; standard error {error_of_rate(number)} points near 95 %, "
    return table.with_note(f"{note}{error_of_rate(number, 0.6)} near 60 %; seed {seed}.")


def instances(seed: int, draws: int) -> Table:
    """Measures how often intervals of AP_pan, and of the difference of two models, cover the population's."""
    world = coco_like(seed)
    things = [place for place, category in enumerate(world.categories) if category.isthing]
    sides = [
        Instances.of(world, np.random.default_rng([seed, 11, side]), better)
        for side, better in enumerate((0.0, 2 * BETTER))
    ]
    every = np.arange(world.objects.shape[-1])
    truths = [np.array([*instance_ap(side.take(every), things).as_record().values()], np.float64) for side in sides]
    wanted = np.concatenate([truths[0], truths[1] - truths[0]])
    heads = (f"{delta}{name}" for delta in ("", "Δ") for name in AP_NAMES)
    table = Table("images", *heads, "mean AP − population's")
    for images in (50, 100, 200, 500):
        rng = np.random.default_rng([seed, 12, images])
        hits, values = np.zeros(len(wanted)), []
        for _ in range(draws):
            chosen = rng.integers(0, len(every), images)
            units = min(images, UNITS)
            found = [jackknifed_ap(side.take(chosen), things, np.arange(images), units) for side in sides]
            single, apart = found[0].estimate().interval(0.95), (found[1] - found[0]).estimate().ends(0.95)
            low, high = (np.concatenate(ends) for ends in zip(single, apart, strict=True))
            hits += (low <= wanted) & (wanted <= high)
            values.append(found[0].value[0])
        bias = 100 * (np.mean(values) - truths[0][0])
        table.add(f"{images}", *(percentage(one, draws) for one in hits), f"{bias:+.2f}")
    return table.with_note(
        f"COCO-like things, AP {100 * truths[0][0]:.1f} and {100 * truths[1][0]:.1f}; {draws:,} draws a line, standard "
        f"error {error_of_rate(draws)} points near 95 %; seed {seed}."
    )


PARTS: dict[str, tuple[Callable[[int, int], Table], Sequence[int], Sequence[str]]] = {
    "scores": (scores, (0, 1, 2, 5, 8, 11, 12), ("20", "200", "500", "5,000")),
    "categories": (categories, (0, 1, 2, 3, 4, 5), ()),
    "slices": (slices, (0, 1, 2, 3, 7, 8, 9), ()),
    "differences": (of_differences, (0, 1, 2, 5, 8, 11), ("20", "200", "2,000")),
    "gate": (gates, (0, 1, 2, 3, 4, 5, 6), ()),
    "instances": (instances, (0, 1, 2, 3, 7, 13), ()),
    "tests": (tests, (0, 1, 2, 3, 4, 5), ("50", "1000")),
    "trainings": (trainings, (0, 1, 3, 4, 5, 6), ("2", "10")),
    "seeds": (seeds, (0, 1, 2, 3, 4), ()),
}
"""Each table, the columns of it that the page shows, and of its rows those with these values in the second column."""


def markdown_table(name: str) -> str:
    """Formats a CSV file as the page's table; a first cell equal to the one above is left empty."""
    _, columns, chosen = PARTS[name]
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        headings, *rows = csv.reader(file)
    cells = [[row[column] for column in columns] for row in rows if not chosen or row[1] in chosen]
    above = ["", *(row[0] for row in cells)]
    merged = [["" if row[0] == last else row[0], *row[1:]] for row, last in zip(cells, above, strict=False)]
    return markdown_tables.table([headings[column] for column in columns], merged)


def write(name: str, table: Table) -> None:
    """Writes a table to its CSV file, and into the page between its marks."""
    with (TABLES / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table.rows)
    begin, end = (f"<!-- {slash}simulated: {name} -->" for slash in ("", "/"))
    markdown_tables.write_between(DOCS, begin, end, f"{markdown_table(name)}\n\n{table.note}")
    if table.rates:
        RATES.write_text("\n".join(["population,images,group,metric,covered,draws", *table.rates]) + "\n")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="data sets a line of scores; other tables take a part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(PARTS), help="one of the tables instead of all")
    parser.add_argument("--write", action="store_true", help="into the docs and coverage.csv, too")
    arguments = parser.parse_args()
    start = time.process_time()
    for name, (part, *_) in PARTS.items():
        if arguments.only not in (None, name):
            continue
        table = part(arguments.seed, arguments.draws)
        print(table.note, flush=True)
        if arguments.write:  # after each, so that what is done stays
            write(name, table)
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
