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

from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import METRICS, TRUE, Sample, Stack
from panbench.metrics.uncertainty import percentiles, resampled, weigh
from panbench.studies.gate.answer import Check, checks, judged
from panbench.studies.seeds.statistics import compare_seeds
from scripts.check import simulate_coverage as small_world
from scripts.check.simulated_population import SIZES, Answers, Drawer, World, coco_like, shapes_like
from scripts.make import markdown_lists

Float = npt.NDArray[np.float64]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "simulations.md"
RATES = Path(__file__).resolve().parents[2] / "panbench" / "metrics" / "coverage.csv"
GROUPS = ("All", "Things", "Stuff")
OF_SLICES = ("PQ", "RQ")
IMAGES = (20, 50, 100, 200, 500, 2000, 5000)
DRAWN = (1000, 1000)
"""Resamples and swaps of a simulated gate."""
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


def truth_of(answers: Answers) -> dict[tuple[str, str], float]:
    """The population's PQ, SQ and RQ of All, Things and Stuff."""
    is_thing = np.array([category.isthing for category in answers.categories])
    members = {"All": np.ones(len(is_thing), bool), "Things": is_thing, "Stuff": ~is_thing}
    scores = dict(zip(METRICS, answers.quotients(), strict=True))
    return {(group, metric): scores[metric][own].mean() for group, own in members.items() for metric in METRICS}


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
        "mean PQ − population's | half the interval of PQ | percentile, PQ All |",
        "| --- " * 14 + "|",
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
            old, tried = 0, 0
            for index, sample in enumerate(drawn(rng, population, images, number)):
                table = intervals(sample, groups_only=True)
                for row in table.itertuples():
                    hits[row.group, row.metric] += row.low <= truth[row.group, row.metric] <= row.high
                values.append(table["value"].iloc[0])
                halves.append((table["high"] - table["low"]).iloc[0] / 2)
                if index % 10 == 0:
                    low, high = percentiles(resampled(Stack.of([sample]), 300, index)[0, 0, 0], 0.95)
                    old += int(low <= truth["All", "PQ"] <= high)
                    tried += 1
            cells = [rate(hits[group, metric], number) for metric in METRICS for group in GROUPS]
            bias = 100 * (np.mean(values) - truth["All", "PQ"])
            half = 100 * np.mean(halves)
            lines.append(
                f"| {name} | {images:,} | {' | '.join(cells)} | {bias:+.2f} | {half:.2f} | {rate(old, tried)} |"
            )
            print(lines[-1], flush=True)
            for metric in METRICS:
                for group in GROUPS:
                    rates.append(f"{label},{images},{group},{metric},{hits[group, metric] / number:.4f},{number}")
    lines += [
        "",
        f"{draws:,} draws a line ({draws // 2:,} of 5,000 images; percentiles: a tenth of them, 300 resamples each), "
        f"standard error {error(draws)} points near 95 %; seed {populations.seed}.",
    ]
    return lines


def categories(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of single categories hold them, by how many images show them."""
    bins = [(10, 14), (15, 19), (20, 49), (50, 199), (200, 10**9)]
    hits, number = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    old = Counter[int]()
    answers = populations.answers("coco")
    population = answers.sample()
    truth = dict(zip(METRICS, answers.quotients(), strict=True))
    for images, share in ((200, 8), (500, 8), (2000, 20)):
        rng = np.random.default_rng([populations.seed, 3, images])
        for index, sample in enumerate(drawn(rng, population, images, max(draws // share, 10))):
            stack = Stack.of([sample])
            true = (sample.held >= TRUE).sum(axis=1)
            table = intervals(sample)
            low, high = percentiles(resampled(stack, 300, index)[0, 0, 3:], 0.95)
            for row in table[table["group"].isna() & table["low"].notna()].itertuples():
                place = next(at for at, (start, stop) in enumerate(bins) if start <= true[row.category_id] <= stop)
                hits[place, row.metric] += row.low <= truth[row.metric][row.category_id] <= row.high
                number[place, row.metric] += 1
                if row.metric == "PQ":
                    old[place] += low[row.category_id] <= truth["PQ"][row.category_id] <= high[row.category_id]
    lines = ["| images with the category | intervals of PQ | PQ | SQ | RQ | percentile, PQ |", "| --- " * 6 + "|"]
    for place, (start, stop) in enumerate(bins):
        label = f"{start}–{stop}" if stop < 10**9 else f"{start} and more"
        cells = [rate(hits[place, metric], max(number[place, metric], 1)) for metric in METRICS]
        was = rate(old[place], max(number[place, "PQ"], 1))
        lines.append(f"| {label} | {number[place, 'PQ']:,} | {' | '.join(cells)} | {was} |")
        print(lines[-1], flush=True)
    return [*lines, "", f"COCO-like, data sets of 200, 500 and 2,000 images; seed {populations.seed}."]


def slices(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of slices by size hold them."""
    answers = populations.answers("coco")
    population, truth = answers.sample(by_size=True), np.nanmean(answers.quotients(by_size=True), axis=-1)
    lines = [
        f"| images | {' | '.join(f'{metric} {size}' for metric in ('PQ', 'RQ') for size in SIZES)} |",
        "| --- " * 7 + "|",
    ]
    number = max(draws // 2, 10)
    for images in (100, 200, 500, 2000):
        rng = np.random.default_rng([populations.seed, 4, images])
        hits = Counter[tuple[str, str]]()
        for sample in drawn(rng, population, images, number):
            for row in intervals(sample).itertuples():
                of = truth[METRICS.index(row.metric), SIZES.index(row.group)]
                hits[row.group, row.metric] += row.low <= of <= row.high
        cells = [rate(hits[size, metric], number) for metric in OF_SLICES for size in SIZES]
        lines.append(f"| {images:,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"COCO-like; {number:,} draws a line, standard error {error(number)} points; seed {populations.seed}.",
    ]


def differences(populations: Populations, draws: int, rates: list[str]) -> list[str]:
    """How often intervals of the difference of two models hold it."""
    lines = ["| population | images | true ΔPQ | All | Things | Stuff |", "| --- " * 6 + "|"]
    number = max(draws // 4, 10)
    for label, world in (("COCO-like", "coco"), ("shapes-like", "shapes")):
        sides = {name: populations.answers(world, better) for name, better in (("a", 0.0), ("b", BETTER))}
        of_a, of_b = (truth_of(side) for side in sides.values())
        truth = {group: of_b[group, "PQ"] - of_a[group, "PQ"] for group in GROUPS}
        drawers = {name: Drawer(side.sample()) for name, side in sides.items()}
        n_images = sides["a"].TP.shape[-1]
        for images in (12, 30, 100, 200, 500, 2000):
            rng = np.random.default_rng([populations.seed, 5, images])
            hits = Counter[str]()
            for index in range(number):
                chosen = rng.integers(0, n_images, images)
                runs = {name: drawer.take(chosen) for name, drawer in drawers.items()}
                table = weigh(runs, resamples=400, permutations=1, seed=index).differences
                for row in table[(table["metric"] == "PQ") & table["group"].notna()].itertuples():
                    hits[row.group] += row.low <= truth[row.group] <= row.high
            cells = [rate(hits[group], number) for group in GROUPS]
            lines.append(f"| {label} | {images:,} | {100 * truth['All']:+.2f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    note = (
        f"{number:,} draws a line, 400 resamples each, standard error {error(number)} points; seed {populations.seed}."
    )
    return [*lines, "", note]


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
        f"and {draws // 6:,} with a drop; {DRAWN[0]:,} resamples and {DRAWN[1]:,} swaps each. Standard error of a rate "
        f"of 2.5 %: {error(2 * draws, 0.025)} points, of a drop at most {error(draws // 6, 0.5)}; "
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
        check = checks(runs, [("All", "all")], "PQ", 0.0, DRAWN, seed=index)[0]
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
    return checks(runs, [("All", "all")], "PQ", 0.0, DRAWN, seed=seed)[0]


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
            for index in range(number):
                images = small_world.Images.sample(rng, 500)
                runs = [Sample.of(run) for run in small_world.seeds_of_model(rng, images, trained, luck)]
                for row in compare_seeds({"a": runs}, resamples=200, seed=index).models.itertuples():
                    hits[row.group] += row.low <= of[row.group] <= row.high
            lines.append(f"| {luck:g} | {trained} | {' | '.join(rate(hits[group], number) for group in GROUPS)} |")
            print(lines[-1], flush=True)
    note = f"500 images, {number:,} draws a line, standard error {error(number)} points; seed {populations.seed}."
    return [*lines, "", note]


PARTS: dict[str, Callable[[Populations, int, list[str]], list[str]]] = {
    "scores": scores,
    "categories": categories,
    "slices": slices,
    "differences": differences,
    "gate": gates,
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
