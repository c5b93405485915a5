"""Simulates how often 95 % intervals hold what they are intervals of, and writes the tables of docs/simulations.md.

    python scripts/check/simulate_intervals.py [--only scores] [--draws 1000] [--seed 0] [--write]

Populations are those of simulated_population.py; a draw is a data set of N images, drawn with replacement, on which the
interval is made as panbench makes it and held against the number of the whole population. `--write` puts the tables
that were made between their marks in docs/simulations.md and, of scores, the rates into
panbench/metrics/coverage.csv, which the notes beside intervals quote.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.metrics.jackknife import MATCHED_IOU, Jackknife, differences, intervals, matched_iou
from panbench.metrics.samples import METRICS, TRUE, Sample, Stack
from panbench.metrics.uncertainty import weigh
from panbench.studies.gate.answer import Check, checks, judged
from panbench.studies.seeds.statistics import compare_seeds
from panbench.studies.unfused.instance_ap import instance_ap, jackknifed_ap
from panbench.studies.unfused.metric import AP_NAMES, UNITS
from scripts.check import simulated_trainings as small_world
from scripts.check.simulated_instances import Instances
from scripts.check.simulated_population import SIZES, Answers, Drawer, World, coco_like, shapes_like
from scripts.make import markdown_lists

Float = npt.NDArray[np.float64]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "simulations.md"
RATES = Path(__file__).resolve().parents[2] / "panbench" / "metrics" / "coverage.csv"
GROUPS = ("All", "Things", "Stuff")
OF_DIFFERENCES = (*METRICS, MATCHED_IOU)
IMAGES = (20, 50, 100, 200, 500, 2000, 5000)
SWAPS = 1000
"""Of a simulated gate."""
WEAKER, BETTER = -1.6, 0.2
"""What the weaker model lacks and the better one has, in log-odds of finding an object."""


class Populations:
    """Made when they are first asked for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._made: dict[str, World] = {}
        self._answers: dict[tuple[str, float], Answers] = {}

    def answers(self, world: str, better: float = 0.0) -> Answers:
        """Those of a model on all images of a population."""
        if world not in self._made:
            self._made[world] = {"coco": coco_like, "shapes": shapes_like}[world](self.seed)
        if (world, better) not in self._answers:
            # Models err independently of each other, given the image.
            rng = np.random.default_rng([self.seed, 1, round(1000 * abs(better)), better < 0])
            self._answers[world, better] = self._made[world].answers(rng, better)
        return self._answers[world, better]


def members_of(answers: Answers) -> dict[str, npt.NDArray[np.bool_]]:
    """Which categories All, Things and Stuff hold."""
    is_thing = np.array([category.isthing for category in answers.categories])
    return {"All": np.ones(len(is_thing), bool), "Things": is_thing, "Stuff": ~is_thing}


def truth_of(answers: Answers) -> dict[tuple[str, str], float]:
    """The population's PQ, SQ and RQ of All, Things and Stuff."""
    scores = dict(zip(METRICS, answers.quotients(), strict=True))
    return {
        (group, metric): scores[metric][own].mean() for group, own in members_of(answers).items() for metric in METRICS
    }


def true_difference(a: Answers, b: Answers) -> dict[tuple[str, str], float]:
    """The population's differences, and that of the mean IoU of matches over the categories that both match."""
    of_a, of_b = truth_of(a), truth_of(b)
    found = {at: of_b[at] - of_a[at] for at in of_a}
    sq_of_a, sq_of_b = (side.quotients()[1] for side in (a, b))
    both = (sq_of_a > 0) & (sq_of_b > 0)
    apart = sq_of_b - sq_of_a
    return found | {(group, MATCHED_IOU): apart[both & own].mean() for group, own in members_of(a).items()}


def rate(hits: float, draws: float) -> str:
    """In percent."""
    return f"{100 * hits / draws:.1f}"


def error(draws: int, share: float = 0.95) -> str:
    """The standard error of a rate near 95 %, in percent."""
    return f"{100 * math.sqrt(share * (1 - share) / draws):.1f}"


def drawn(rng: np.random.Generator, population: Sample, images: int, draws: int) -> Iterator[Sample]:
    """Data sets of so many images."""
    drawer = Drawer(population)
    for _ in range(draws):
        yield drawer.take(rng.integers(0, len(population.image_ids), images))


def scores(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of PQ, SQ and RQ hold those of the population."""
    lines = [
        f"| population | images | {' | '.join(f'{metric} {group}' for metric in METRICS for group in GROUPS)} | "
        "mean PQ − population's | half the interval of PQ |",
        "| --- " * 13 + "|",
    ]
    for label, world, better in (
        ("COCO-like", "coco", 0.0),
        ("COCO-like (weaker model)", "coco", WEAKER),
        ("shapes-like", "shapes", 0.0),
    ):
        answers = populations.answers(world, better)
        population, truth = answers.sample(), truth_of(answers)
        name = f"{label}, PQ {100 * truth['All', 'PQ']:.1f}"
        for images in IMAGES if world == "coco" else IMAGES[:-1]:
            number = draws if images < 5000 else draws // 2
            rng = np.random.default_rng([populations.seed, 2, images])
            hits, values, halves = Counter[tuple[str, str]](), [], []
            for sample in drawn(rng, population, images, number):
                table = intervals(sample, groups_only=True)
                for row in table.itertuples():
                    hits[row.group, row.metric] += row.low <= truth[row.group, row.metric] <= row.high
                values.append(table["value"].iloc[0])
                halves.append((table["high"] - table["low"]).iloc[0] / 2)
            cells = [rate(hits[group, metric], number) for metric in METRICS for group in GROUPS]
            bias = 100 * (np.mean(values) - truth["All", "PQ"])
            half = 100 * np.mean(halves)
            lines.append(f"| {name} | {images:,} | {' | '.join(cells)} | {bias:+.2f} | {half:.2f} |")
            print(lines[-1], flush=True)
            for metric in METRICS:
                for group in GROUPS:
                    rates.append(f"{label},{images},{group},{metric},{hits[group, metric] / number:.4f},{number}")
    lines += [
        "",
        f"{draws:,} draws a line ({draws // 2:,} of 5,000 images), standard error {error(draws)} points near 95 %; "
        f"seed {populations.seed}.",
    ]
    return lines


def categories(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of single categories, and of their differences, hold them, by how many images show them."""
    bins = [(10, 14), (15, 19), (20, 49), (50, 199), (200, 10**9)]
    hits, number = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    sides = [populations.answers("coco", better) for better in (0.0, BETTER)]
    truths = [side.quotients() for side in sides]
    apart = np.concatenate([truths[1] - truths[0], (truths[1] - truths[0])[1:2]])
    names = [*METRICS, *(f"Δ{metric}" for metric in OF_DIFFERENCES)]
    truth = dict(zip(names, [*truths[0], *apart], strict=True))
    drawers = [Drawer(side.sample()) for side in sides]
    for images, share in ((200, 8), (500, 8), (2000, 20)):
        rng = np.random.default_rng([populations.seed, 3, images])
        for _ in range(max(draws // share, 10)):
            chosen = rng.integers(0, drawers[0].n_images, images)
            stack = Stack.of([drawer.take(chosen) for drawer in drawers])
            true, groups = (stack.held[0] >= TRUE).sum(axis=1), len(stack.members)
            table = intervals(drawers[0].take(chosen))
            single = table[table["group"].isna()].pivot_table(
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
    lines = [f"| images with the category | intervals of PQ | {' | '.join(names)} |", "| --- " * 9 + "|"]
    for place, (start, stop) in enumerate(bins):
        label = f"{start}–{stop}" if stop < 10**9 else f"{start} and more"
        cells = [rate(hits[place, name], max(number[place, name], 1)) for name in names]
        lines.append(f"| {label} | {number[place, 'PQ']:,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    note = f"COCO-like, data sets of 200, 500 and 2,000 images; seed {populations.seed}."
    return [*lines, "", f"{note} Δ: of two models' differences."]


def slices(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of slices by size, and of their differences, hold them."""
    sides = [populations.answers("coco", better) for better in (0.0, BETTER)]
    of_sides = [side.quotients(by_size=True) for side in sides]
    truth = np.nanmean(of_sides[0], axis=-1)
    both = (of_sides[0][1] > 0) & (of_sides[1][1] > 0)
    apart = np.nanmean(of_sides[1], axis=-1) - truth
    of_iou = np.where(both, of_sides[1][1] - of_sides[0][1], 0).sum(axis=-1) / both.sum(axis=-1)
    wanted = {"PQ": truth[0], "RQ": truth[2], "ΔPQ": apart[0], "ΔRQ": apart[2], "ΔIoU": of_iou}
    drawers = [Drawer(side.sample(by_size=True)) for side in sides]
    lines = [f"| images | {' | '.join(f'{name} {size}' for name in wanted for size in SIZES)} |", "| --- " * 16 + "|"]
    number = max(draws // 2, 10)
    for images in (100, 200, 500, 2000):
        rng = np.random.default_rng([populations.seed, 4, images])
        hits = {name: np.zeros(len(SIZES)) for name in wanted}
        for _ in range(number):
            chosen = rng.integers(0, drawers[0].n_images, images)
            samples = [drawer.take(chosen) for drawer in drawers]
            table = intervals(samples[0])
            low, high = differences(Stack.of(samples), 0, 1).estimate.ends(0.95)
            found = {f"Δ{name}": (low[row], high[row]) for row, name in enumerate(OF_DIFFERENCES)}
            for name in ("PQ", "RQ"):
                own = table[table["metric"] == name]
                found[name] = own["low"].to_numpy(), own["high"].to_numpy()
            for name, of in wanted.items():
                hits[name] += (found[name][0] <= of) & (of <= found[name][1])
        lines.append(f"| {images:,} | {' | '.join(rate(one, number) for name in wanted for one in hits[name])} |")
        print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"COCO-like; {number:,} draws a line, standard error {error(number)} points; seed {populations.seed}.",
    ]


def of_differences(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of the difference of two models hold it."""
    named = [f"{metric} {group}" for metric in OF_DIFFERENCES for group in GROUPS]
    lines = [f"| population | images | true ΔPQ | {' | '.join(named)} |", "| --- " * 15 + "|"]
    for label, world, better in (
        ("COCO-like", "coco", BETTER),
        ("COCO-like, far apart", "coco", WEAKER),
        ("shapes-like", "shapes", BETTER),
    ):
        sides = [populations.answers(world, gain) for gain in (0.0, better)]
        truth = true_difference(*sides)
        wanted = np.array([[truth[group, metric] for group in GROUPS] for metric in OF_DIFFERENCES])
        drawers = [Drawer(side.sample()) for side in sides]
        for images in (20, 50, 100, 200, 500, 2000):
            rng = np.random.default_rng([populations.seed, 5, images])
            hits = np.zeros(wanted.shape)
            for _ in range(draws):
                chosen = rng.integers(0, drawers[0].n_images, images)
                stack = Stack.of([drawer.take(chosen) for drawer in drawers])
                scores = Jackknife.of(stack, 1) - Jackknife.of(stack, 0)
                ends = [each.estimate().ends(0.95) for each in (scores, matched_iou(stack, 0, 1)[1])]
                low, high = (np.vstack(side) for side in zip(*ends, strict=True))
                hits += (low <= wanted) & (wanted <= high)
            cells = [rate(one, draws) for one in hits.ravel()]
            lines.append(f"| {label} | {images:,} | {100 * truth['All', 'PQ']:+.2f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    note = (
        f"{draws:,} draws a line, standard error {error(draws)} points near 95 %; seed {populations.seed}. "
        "IoU: the mean IoU of matches, over the categories that both models match."
    )
    return [*lines, "", markdown_lists.wrapped(note)]


def gates(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often `gate` calls a run worse, by its interval alone and with the swap test as well.

    Exchangeable runs: on each image a coin decides whose answer is whose. Drops: the baseline's model is truly better.
    """
    weak, better, best = (populations.answers("shapes", by) for by in (0.0, BETTER, 4 * BETTER))
    drops = [f"{100 * (truth_of(side)['All', 'PQ'] - truth_of(weak)['All', 'PQ']):.1f}" for side in (better, best)]
    lines = [
        "| images | exchangeable, interval alone: worse | with the swap test | "
        + " | ".join(f"drop of {drop}, interval alone: worse | with the swap test" for drop in drops)
        + " |",
        "| --- " * 7 + "|",
    ]
    for images in (12, 30, 100):
        rng = np.random.default_rng([populations.seed, 6, images])
        cells = _exchangeable(rng, (weak, better), images, draws)
        for side in (better, best):
            cells += _dropped(rng, (side, weak), images, max(draws // 6, 10))
        lines.append(f"| {images} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    note = (
        f"In percent. Two models on scenes of shapes; {draws:,} exchangeable data sets a line, each judged both ways, "
        f"and {draws // 6:,} with a drop; {SWAPS:,} swaps each. Standard error of a rate of 2.5 %: "
        f"{error(2 * draws, 0.025)} points, of a drop at most {error(draws // 6, 0.5)}; "
        f"seed {populations.seed}."
    )
    return [*lines, "", markdown_lists.wrapped(note)]


def _exchangeable(rng: np.random.Generator, answers: tuple[Answers, Answers], images: int, number: int) -> list[str]:
    """The share of runs that are called worse by the interval alone, and by the gate."""
    one, other = answers
    n_images = one.TP.shape[-1]
    side_by_side = Drawer(_joined(one.sample(), other.sample()))
    by_interval = by_gate = 0
    for index in range(number):
        # A coin for each image of each data set: whose answer is the first run's.
        chosen, coin = rng.integers(0, n_images, images), rng.integers(0, 2, images)
        runs = [side_by_side.take(chosen + n_images * side) for side in (coin, 1 - coin)]
        check = checks(runs, [("All", "all")], "PQ", 0.0, SWAPS, seed=index)[0]
        if check.difference is None or check.low is None or check.high is None:
            continue
        by_interval += (check.high < 0) + (check.low > 0)
        # The other run against this one has the mirrored numbers.
        mirrored = judged(-check.difference, -check.high, -check.low, check.p, 0.0)
        by_gate += (check.outcome == "worse") + (mirrored == "worse")
    return [rate(by_interval, 2 * number), rate(by_gate, 2 * number)]


def _joined(one: Sample, other: Sample) -> Sample:
    """The images of one run, then those of the other."""
    sums, held = (
        scipy.sparse.csr_array(scipy.sparse.hstack([getattr(one, name), getattr(other, name)]))
        for name in ("sums", "held")
    )
    return replace(one, image_ids=np.arange(2 * len(one.image_ids)), sums=sums, held=held)


def _dropped(rng: np.random.Generator, answers: tuple[Answers, Answers], images: int, number: int) -> list[str]:
    """The share of runs of a weaker model that are called worse by the interval alone, and by the gate."""
    sides = [Drawer(side.sample()) for side in answers]
    found = [_check(rng, sides, images, index) for index in range(number)]
    by_interval = sum(check.high is not None and check.high < 0 for check in found)
    return [rate(by_interval, number), rate(sum(check.outcome == "worse" for check in found), number)]


def _check(rng: np.random.Generator, sides: list[Drawer], images: int, seed: int) -> Check:
    """What the gate says of the second side on some images; the first is the baseline."""
    chosen = rng.integers(0, sides[0].n_images, images)
    runs = [side.take(chosen) for side in sides]
    return checks(runs, [("All", "all")], "PQ", 0.0, SWAPS, seed=seed)[0]


def seeds(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often the interval of a model's PQ over seeds and images holds its mean PQ over trainings and all images."""
    lines = ["| luck | seeds | All | Things | Stuff |", "| --- " * 5 + "|"]
    number = max(draws // 4, 10)
    is_thing = np.array([category.isthing for category in small_world.CATEGORIES])
    for luck in (0.0, 0.3):
        truth = small_world.true_categories_over_seeds(populations.seed, luck, 0.0)
        of = {"All": truth.mean(), "Things": truth[is_thing].mean(), "Stuff": truth[~is_thing].mean()}
        for trained in (1, 3, 5):
            rng = np.random.default_rng([populations.seed, 7, trained])
            hits = Counter[str]()
            for _ in range(number):
                images = small_world.Images.sample(rng, 500)
                runs = [Sample.of(run) for run in small_world.seeds_of_model(rng, images, trained, luck)]
                for row in compare_seeds({"a": runs}).models.itertuples():
                    hits[row.group] += row.low <= of[row.group] <= row.high
            lines.append(f"| {luck:g} | {trained} | {' | '.join(rate(hits[group], number) for group in GROUPS)} |")
            print(lines[-1], flush=True)
    note = f"500 images, {number:,} draws a line, standard error {error(number)} points; seed {populations.seed}."
    return [*lines, "", note]


def tests(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often p < 0.05 where there is no difference, and how often a true difference is seen and covered."""
    cases: dict[str, tuple[dict[str, float], dict[str, float]]] = {
        "the same model twice": ({}, {}),
        "same PQ, one steadier from image to image": ({"swing": 0.8}, {"swing": 0.8, "spread": 0.2}),
        "one a little better": ({}, {"better": 0.15}),
        "one clearly better": ({}, {"better": 0.5}),
    }
    heads = ("p < 0.05 for All", "a category is significant", "masks: p < 0.05 for All", "interval of ΔPQ covers it")
    lines = [f"| models | images | true ΔPQ | {' | '.join(heads)} |", "| --- " * 7 + "|"]
    rng, number = np.random.default_rng([populations.seed, 8]), max(draws * 3 // 4, 10)
    for label, models in cases.items():
        truth = np.diff([small_world.true_pq(populations.seed, **model).mean() for model in models])[0]
        for n in (50, 200, 1000):
            hits = np.zeros(4)
            for sample in range(number):
                images = small_world.Images.sample(rng, n)
                runs = {
                    name: small_world.statistics_of(small_world.sums_of_model(rng, images, **model))
                    for name, model in zip("ab", models, strict=True)
                }
                table = weigh(runs, permutations=SWAPS, seed=sample).differences
                of_pq = table[table["metric"] == "PQ"]
                overall = of_pq[of_pq["group"] == "All"].iloc[0]
                masks = table[(table["metric"] == MATCHED_IOU) & (table["group"] == "All")].iloc[0]
                any_category = bool(of_pq.loc[of_pq["group"].isna(), "significant"].any())
                covers = overall["low"] <= truth <= overall["high"]
                hits += (overall["p"] < 0.05, any_category, masks["p"] < 0.05, covers)
            cells = " | ".join(rate(one, number) for one in hits)
            lines.append(f"| {label} | {n} | {100 * truth:+.2f} | {cells} |")
            print(lines[-1], flush=True)
    note = f"{number:,} data sets a line, {SWAPS:,} swaps each; in percent, standard error 1.3 points at 5 %, "
    return [*lines, "", f"{note}{error(number)} at 95 %; seed {populations.seed}."]


def trainings(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often 95 % intervals of the difference of two models cover it, by seeds and how much these matter."""
    heads = ("interval over seeds and images", "p < 0.05", "first seeds, images alone")
    lines = [
        f"| luck | seeds of each | spread, points | true ΔPQ | {' | '.join(heads)} |",
        "| --- " * 7 + "|",
    ]
    rng, number = np.random.default_rng([populations.seed, 9]), max(draws * 3 // 8, 10)
    for better, luck in ((0.0, 0.0), (0.0, 0.3), (0.15, 0.3)):
        of_models = [small_world.true_pq_over_seeds(populations.seed, luck, gain) for gain in (0.0, better)]
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
            cells = " | ".join(rate(one, number) for one in hits)
            spread = 100 * math.sqrt(np.mean(spreads))
            lines.append(f"| {luck:g} | {seeds_each} | {spread:.2f} | {100 * truth:+.2f} | {cells} |")
            print(lines[-1], flush=True)
    note = f"500 images, {number:,} draws a line; in percent, standard error {error(number)} points near 95 %, "
    return [*lines, "", f"{note}{error(number, 0.6)} near 60 %; seed {populations.seed}."]


def instances(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of AP_pan, and of the difference of two models, hold those of the population."""
    world = coco_like(populations.seed)
    things = [place for place, category in enumerate(world.categories) if category.isthing]
    sides = [
        Instances.of(world, np.random.default_rng([populations.seed, 11, side]), better)
        for side, better in enumerate((0.0, 2 * BETTER))
    ]
    every = np.arange(world.objects.shape[-1])
    truths = [np.array([*instance_ap(side.take(every), things).as_record().values()], np.float64) for side in sides]
    wanted = np.concatenate([truths[0], truths[1] - truths[0]])
    heads = [f"{delta}{name}" for delta in ("", "Δ") for name in AP_NAMES]
    lines = [f"| images | {' | '.join(heads)} | mean AP − population's |", "| --- " * 14 + "|"]
    for images in (50, 100, 200, 500):
        rng = np.random.default_rng([populations.seed, 12, images])
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
        lines.append(f"| {images} | {' | '.join(rate(one, draws) for one in hits)} | {bias:+.2f} |")
        print(lines[-1], flush=True)
    note = (
        f"COCO-like things, AP {100 * truths[0][0]:.1f} and {100 * truths[1][0]:.1f}; {draws:,} draws a line, standard "
        f"error {error(draws)} points near 95 %; seed {populations.seed}."
    )
    return [*lines, "", markdown_lists.wrapped(note)]


PARTS: dict[str, Callable[[Populations, int, list[str]], list[str]]] = {
    "scores": scores,
    "categories": categories,
    "slices": slices,
    "differences": of_differences,
    "gate": gates,
    "instances": instances,
    "tests": tests,
    "trainings": trainings,
    "seeds": seeds,
}


def write(name: str, lines: list[str]) -> None:
    """Puts a table between its marks in the docs."""
    text = DOCS.read_text(encoding="utf-8")
    start, end = (f"<!-- {slash}simulated: {name} -->" for slash in ("", "/"))
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    DOCS.write_text(f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="data sets a line of scores; other tables take a part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(PARTS), help="one of the tables instead of all")
    parser.add_argument("--write", action="store_true", help="into the docs and coverage.csv, too")
    arguments = parser.parse_args()
    start = time.process_time()
    populations = Populations(arguments.seed)
    for name, part in PARTS.items():
        if arguments.only not in (None, name):
            continue
        rates: list[str] = []
        lines = part(populations, arguments.draws, rates)
        print("\n".join(lines[-1:]), flush=True)
        if arguments.write:  # after each, so that what is done stays
            write(name, lines)
            if rates:
                RATES.write_text("\n".join(["population,images,group,metric,covered,draws", *rates]) + "\n")
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
