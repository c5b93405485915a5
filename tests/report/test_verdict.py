"""Each clause of a verdict is held against the tables that it comes from."""

import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import compare_runs
from panbench.panoptic.types import Category
from panbench.report.answers.comparison import corrected_p
from panbench.report.answers.grid import percent
from panbench.report.answers.verdict import _LESS, LEAST_LOSS, _p_text, verdict

CATEGORIES = tuple(Category(index + 1, f"c{index}", index < 4, "", None) for index in range(7))


def statistics(images: int, rows: list[tuple], categories=CATEGORIES) -> ImageStatistics:
    columns = ["image_id", "category_id", "slice", "iou_sum", "TP", "FP", "FN"]
    return ImageStatistics.from_frame(np.arange(images), pd.DataFrame(rows, columns=columns), categories)


def of(found: list[int]) -> ImageStatistics:
    """Statistics of a model that finds so many of ten objects in each image."""
    rows = [(image, 1, 0, 0.8 * hits, hits, 0, 10 - hits) for image, hits in enumerate(found)]
    return statistics(len(found), rows, CATEGORIES[:1])


def made_up(rng: np.random.Generator, images: int, things: float, stuff: float, masks: float) -> ImageStatistics:
    """Statistics of a model that finds so many of the things and of the stuff, with masks of this mean IoU."""
    rows = []
    for image in range(images):
        for category in CATEGORIES:
            objects = 1 + rng.poisson(0.4)
            found = rng.binomial(objects, things if category.isthing else stuff)
            iou = float(np.clip(rng.normal(masks, 0.03, found), 0.51, 1).sum())
            rows.append((image, category.id, 0, iou, found, rng.binomial(1, 0.1), objects - found))
    return statistics(images, rows)


def compared(models: dict[str, tuple[float, float, float]], images: int = 40, seed: int = 0, baseline=None):
    """The comparison, names for its runs, and made-up losses for each cause."""
    rng = np.random.default_rng(seed)
    runs = {name: made_up(rng, images, *quality) for name, quality in models.items()}
    comparison = compare_runs(runs, baseline=baseline, permutations=999)
    losses = {
        (run, group): {cause.name: float(rng.random() / 20) for cause in CAUSES}
        for run in models
        for group in ("All", "Things", "Stuff")
    }
    return comparison, {name: name.upper() for name in models}, lambda run, group: losses[run, group]


def row_of(comparison, a: str, b: str, group: str, metric: str) -> tuple[float, float, bool]:
    """a − b, the corrected p-value and whether it is significant."""
    found = rows_of(comparison.differences, ("a", "b", "group", "metric"), ("difference", "p_holm", "significant"))
    for first, second, sign in ((b, a, 1), (a, b, -1)):
        if row := found.get((first, second, group, metric)):
            difference, p, significant = row
            return sign * difference, p, bool(significant)
    raise AssertionError(f"{a} and {b} were not compared")


def value_of(comparison, run: str, group: str, metric: str) -> float:
    (value,) = rows_of(comparison.runs, ("run", "group", "metric"), ("value",))[run, group, metric]
    return value


def rows_of(table: pd.DataFrame, keys: tuple[str, ...], columns: tuple[str, ...]) -> dict[tuple, tuple]:
    """Some columns of a table, by others."""
    names, values = (zip(*(table[name].tolist() for name in own), strict=True) for own in (keys, columns))
    return dict(zip(names, values, strict=True))


def check(comparison, lost, clause) -> None:
    """That a clause is true of the tables, of its own group."""
    a, b, group, metric = clause.a, clause.b, clause.group, clause.metric
    if clause.kind in ("alike", "better", "finer", "coarser", "no coarser"):
        difference, p, significant = row_of(comparison, a, b, group, metric)
        assert clause.p == pytest.approx(p)
        if metric == "PQ":
            assert clause.values == pytest.approx([value_of(comparison, run, group, metric) for run in (a, b)])
        assert clause.values[0] - clause.values[1] == pytest.approx(difference)
        true = {
            "alike": not significant,
            "better": significant and difference > 0,
            "finer": significant and difference > 0,
            "coarser": significant and difference < 0,
            "no coarser": not significant,
        }
        assert true[clause.kind], clause
        assert metric == ("IoU" if clause.kind in ("finer", "coarser", "no coarser") else "PQ")
    elif clause.kind == "cause":
        assert clause.values == (lost(a, group)[clause.cause], lost(b, group)[clause.cause])
        assert clause.values[1] - clause.values[0] >= LEAST_LOSS
        assert row_of(comparison, a, b, group, "PQ")[2]  # asked why only where one is better
    elif clause.kind in ("highest", "scores"):
        values = comparison.runs[(comparison.runs["group"] == "All") & (comparison.runs["metric"] == "PQ")]
        assert value_of(comparison, a, "All", "PQ") == values["value"].max()
    elif clause.kind == "explained":
        difference, _, significant = row_of(comparison, a, b, "All", "PQ")
        assert not significant
        assert clause.values[0] == pytest.approx(difference)
        assert clause.values[1] < difference
    elif clause.kind == "corrected":
        table = comparison.differences
        tested = table[table["group"].notna() & (table["metric"] == "PQ")]["p"].notna().sum()
        assert clause.values == (tested,)
        assert f" {tested} comparisons " in clause.text
    else:
        assert clause.kind == "loses"
        assert lost(a, "All")[clause.cause] == max(lost(a, "All").values()) == clause.values[0]
    if clause.text and clause.kind not in ("better", "alike", "corrected", "explained"):
        assert all(percent(value, 1) in clause.text for value in clause.values)


QUALITIES = (0.55, 0.7, 0.72, 0.85)


@pytest.mark.parametrize("seed", range(12))
def test_every_clause_of_the_verdict_is_true_of_the_tables(seed):
    rng = np.random.default_rng(100 + seed)
    number = 1 + seed % 4
    models = {f"m{index}": (*rng.choice(QUALITIES, 2), float(rng.choice([0.8, 0.82, 0.9]))) for index in range(number)}
    comparison, names, lost = compared(models, seed=seed)
    found = verdict(comparison, names, lost)
    assert found.clauses
    for clause in found.clauses:
        check(comparison, lost, clause)
    text = found.text()
    assert text.endswith(".")
    assert "nan" not in text
    if number > 1:
        order = sorted(models, key=lambda run: -value_of(comparison, run, "All", "PQ"))
        # How the best stands to every other is said, and of the two best how they stand on each kind.
        said = {clause.b for clause in found.clauses if clause.group == "All" and clause.a == order[0]}
        assert said >= set(order[1:])
        groups = [c.group for c in found.messages[1] if {c.a, c.b} == set(order[:2])]
        assert sorted(groups) == ["Stuff", "Things"]


def test_two_models_that_differ_by_kind():
    models = {"fpn": (0.9, 0.5, 0.85), "mask": (0.55, 0.9, 0.85)}
    comparison, names, _ = compared(models, images=60)
    lost = {"fpn": {"missed": 0.02, "merged": 0.01}, "mask": {"missed": 0.2, "merged": 0.011}}
    text = verdict(comparison, names, lambda run, group: lost[run]).text()
    assert "MASK is better on stuff (+" in text or "FPN is better on things (+" in text
    assert ", FPN on things (+" in text or ", MASK on stuff (+" in text
    assert (
        "On things FPN misses less (2.0 against 20.0 points of PQ), and its masks are no coarser (mean IoU of matches "
        in text
    )


def test_indistinguishable_models_are_reported_with_their_numbers():
    comparison, names, lost = compared({"a": (0.7, 0.7, 0.85), "b": (0.7, 0.7, 0.85)}, images=30)
    first = verdict(comparison, names, lost).messages[0]
    assert [clause.kind for clause in first] == ["alike"]
    values = " ".join(percent(value_of(comparison, clause, "All", "PQ"), 1) for clause in (first[0].a, first[0].b))
    assert first[0].text.startswith(
        f"{names[first[0].a]} and {names[first[0].b]} cannot be told apart with 30 images ({values.replace(' ', ', ')};"
    )


def test_few_images_cannot_tell_runs_apart():
    comparison, names, lost = compared({"a": (0.95, 0.95, 0.9), "b": (0.3, 0.3, 0.8)}, images=4)
    assert verdict(comparison, names, lost).text() == (
        f"A has the highest PQ ({percent(value_of(comparison, 'a', 'All', 'PQ'), 1)}), "
        "but 4 images are too few to tell runs apart."
    )


def test_runs_compared_with_a_baseline_are_described_against_it():
    models = {"base": (0.7, 0.7, 0.85), "good": (0.95, 0.95, 0.9), "like": (0.7, 0.7, 0.85), "bad": (0.3, 0.3, 0.8)}
    comparison, names, lost = compared(models, images=60, baseline="base")
    found = verdict(comparison, names, lost)
    for clause in found.clauses:
        check(comparison, lost, clause)
    text = found.text()
    assert text.startswith("GOOD has the highest PQ (")
    assert "Against BASE (" in text
    assert "GOOD is better; LIKE cannot be told apart with 60 images; BAD is worse." in text


NAME = r"M\d"
NAMES = rf"{NAME}(?:, {NAME})*(?: and {NAME})?"
SURE = r"p (?:=|≥|≤|<) [\d.]+"
ALONE = r"(?:, (p (?:=|<) [\d.]+) without the correction)?"
BEHIND = rf"{NAME} \([\d.]+; {SURE}\)"
ALL_BEHIND = rf"{BEHIND}(?:(?:, | and ){BEHIND})*"
LESS = "|".join(map(re.escape, _LESS.values()))


class Reader:
    """Reads a verdict as a person does, knowing only its words, and holds each number and claim against the tables."""

    def __init__(self, text: str, comparison, lost) -> None:
        self.text, self.comparison, self.lost = text, comparison, lost
        self.order = sorted(comparison.runs["run"].unique(), key=lambda run: -value_of(comparison, run, "All", "PQ"))

    def take(self, pattern: str) -> "re.Match[str] | None":
        """The text's next words, if they fit."""
        found = re.match(pattern, self.text)
        if found:
            self.text = self.text[found.end() :]
        return found

    def names(self, words: str) -> list[str]:
        return [name.lower() for name in re.findall(NAME, words)]

    def says(self, run: str, number: str, group: str = "All", metric: str = "PQ") -> None:
        assert percent(value_of(self.comparison, run, group, metric), 1) == number

    def sure(self, words: str, pairs: list[tuple[str, str]], group: str = "All", metric: str = "PQ") -> None:
        """That what is said of p is true of all these pairs."""
        sign, number = re.search(r"p (.) ([\d.]+)", words).groups()
        for a, b in pairs:
            p = row_of(self.comparison, a, b, group, metric)[1]
            half = 0.5 * 10 ** -len(number.split(".")[1])
            true = {"=": abs(p - float(number)) <= half + 1e-9, "<": p < float(number)}
            true |= {"≥": p >= float(number) - 1e-9, "≤": p <= float(number) + 1e-9}
            assert true[sign], (words, p)

    def alone(self, words: str | None, a: str, b: str, group: str, metric: str = "PQ") -> None:
        """That p without the correction is told where it, and only it, is significant."""
        table = self.comparison.differences
        table = table[(table["group"] == group) & (table["metric"] == metric)]
        pair = table[((table["a"] == a) & (table["b"] == b)) | ((table["a"] == b) & (table["b"] == a))].iloc[0]
        assert (words is not None) == (pair["p"] < 0.05 <= pair["p_holm"])
        if words is not None:
            assert words == _p_text(pair["p"])

    def better(self, a: str, b: str, group: str = "All", metric: str = "PQ") -> None:
        difference, _, significant = row_of(self.comparison, a, b, group, metric)
        assert significant
        assert difference > 0

    def level(self, a: str, b: str, group: str = "All", metric: str = "PQ") -> None:
        assert not row_of(self.comparison, a, b, group, metric)[2]

    def behind(self, top: list[str], words: str) -> None:
        for run, number, sure in re.findall(rf"({NAME}) \(([\d.]+); ({SURE})\)", words):
            self.says(run.lower(), number)
            self.sure(sure, [(one, run.lower()) for one in top])
            for one in top:
                self.better(one, run.lower())

    def first_sentence(self) -> None:
        best = self.order[0]
        said = {best}
        if found := self.take(rf"({NAMES}) cannot be told apart with [\d,]+ images \(([\d., ]+); ({SURE})\)"):
            top = self.names(found[1])
            for run, number in zip(top, found[2].split(", "), strict=True):
                self.says(run, number)
            self.sure(found[3], list(combinations(top, 2)))
            for a, b in combinations(top, 2):
                self.level(a, b)
        elif found := self.take(
            rf"({NAME}) \(([\d.]+)\) cannot be told apart with [\d,]+ images from ({NAMES}) \(([\d., ]+); ({SURE})\)"
        ):
            top = [best, *self.names(found[3])]
            self.says(best, found[2])
            for run, number in zip(top[1:], found[4].split(", "), strict=True):
                self.says(run, number)
                self.level(best, run)
            self.sure(found[5], [(best, run) for run in top[1:]])
        elif found := self.take(rf"({NAME}) is best \(([\d.]+)\): better than ({ALL_BEHIND})"):
            top = self.names(found[1])
            self.says(best, found[2])
            self.behind(top, found[3])
            said |= set(self.names(found[3]))
        else:
            found = self.take(rf"({NAME}) is better than ({NAME}) \(([\d.]+) against ([\d.]+); ({SURE})\)")
            top, other = self.names(found[1]), found[2].lower()
            self.says(best, found[3])
            self.says(other, found[4])
            self.sure(found[5], [(best, other)])
            self.better(best, other)
            said.add(other)
        assert top[0] == best
        said |= set(top)
        while found := self.take(rf"; (both are|all of them are|{NAME} is) better than ({ALL_BEHIND})"):
            subject = top if found[1] in ("both are", "all of them are") else self.names(found[1])
            assert found[1] != "both are" or len(top) == 2
            self.behind(subject, found[2])
            said |= set(self.names(found[2]))
        # Nobody is passed over.
        assert said == set(self.order)

    def second_sentence(self) -> list[tuple[str, str, str]]:
        a, b = self.order[:2]
        won, groups, last = [], [], ""
        if found := self.take(rf" ({NAME}) is better(?: than ({NAME}))? on "):
            last = found[1].lower()
            assert found[2] in (None, (b if last == a else a).upper())
        else:
            found = self.take(rf" ({NAME}) and ({NAME}) cannot be told apart on ")
            assert [found[1].lower(), found[2].lower()] == [a, b]
        while True:
            if found := self.take(r"(things|stuff) \(\+([\d.]+)\)"):
                group, other = found[1].capitalize(), b if last == a else a
                self.better(last, other, group)
                assert f"{100 * row_of(self.comparison, last, other, group, 'PQ')[0]:.1f}" == found[2]
                won.append((last, other, group))
            else:
                found = self.take(rf"(things|stuff) \(([\d.]+), ([\d.]+); ({SURE}){ALONE}\)")
                group = found[1].capitalize()
                self.level(a, b, group)
                self.says(a, found[2], group)
                self.says(b, found[3], group)
                self.sure(found[4], [(a, b)], group)
                self.alone(found[5], a, b, group)
            groups.append(group)
            if found := self.take(rf"(?:, ({NAME}) on | and on |; not told apart on )"):
                last = found[1].lower() if found[1] else last
            else:
                break
        assert sorted(groups) == ["Stuff", "Things"]
        return won

    def why(self, winner: str, loser: str, group: str) -> None:
        if not self.text.startswith(f" On {group.lower()} "):
            return
        self.take(f" On {group.lower()} ")
        masks = r"(finer|coarser|no coarser) \(mean IoU of matches ([\d.]+) against ([\d.]+); ({SURE})\)".replace(
            "{SURE})", f"{SURE}){ALONE}"
        )
        found = self.take(rf"the masks of {winner.upper()} are {masks}")
        if not found:
            assert self.take(winner.upper())
            while found := self.take(rf"(?: and)? ({LESS}) \(([\d.]+) against ([\d.]+)(?: points of PQ)?\)"):
                cause = next(name for name, words in _LESS.items() if words == found[1])
                own, other = self.lost(winner, group)[cause], self.lost(loser, group)[cause]
                assert own < other
                assert [percent(own, 1), percent(other, 1)] == [found[2], found[3]]
            found = self.take(rf", (?:and|but) its masks are {masks}")
        if found:
            difference, _, significant = row_of(self.comparison, winner, loser, group, "IoU")
            true = {"finer": significant and difference > 0, "coarser": significant and difference < 0}
            assert true.get(found[1], not significant)
            shown = self.comparison.differences.query("metric == 'IoU' and group == @group")
            shown = shown[shown["a"].isin([winner, loser]) & shown["b"].isin([winner, loser])].iloc[0]
            of = {shown["a"]: shown["value_a"], shown["b"]: shown["value_b"]}
            assert [percent(of[winner], 1), percent(of[loser], 1)] == [found[2], found[3]]
            self.sure(found[4], [(winner, loser)], group, "IoU")
            self.alone(found[5], winner, loser, group, "IoU")
        assert self.take(r"\.")


@pytest.mark.parametrize("seed", range(30))
def test_the_verdict_is_true_without_its_numbers(seed):
    rng = np.random.default_rng(1000 + seed)
    # Of more than four that are level not all are named.
    number = 2 + seed % 3
    models = {
        f"m{index}": (*rng.choice(QUALITIES, 2), float(rng.choice([0.8, 0.805, 0.82]))) for index in range(number)
    }
    comparison, names, lost = compared(models, images=int(rng.choice([15, 40, 80])), seed=seed)
    told = verdict(comparison, names, lost)
    reader = Reader(told.text(), comparison, lost)
    reader.first_sentence()
    assert reader.take(r"\.")
    won = reader.second_sentence()
    assert reader.take(r"\.")
    for winner, loser, group in won:
        reader.why(winner, loser, group)
    if found := reader.take(r" Each p is corrected for (\d+) comparisons \(Holm\); .* smaller one\."):
        assert int(found[1]) == 3 * number * (number - 1) // 2
    assert (found is not None) == (number > 2 and any(clause.p < 1 for clause in told.clauses if clause.p is not None))
    assert reader.text == ""


def test_a_pair_reads_differently_among_more_runs_only_with_the_reason():
    """The same two runs, first by themselves and then among five: corrected for 3 comparisons and for 30."""
    rng = np.random.default_rng(12)
    runs = {"b": made_up(rng, 60, 0.9, 0.9, 0.807), "a": made_up(rng, 60, 0.6, 0.6, 0.8)}
    more = runs | {name: made_up(rng, 60, 0.3, 0.3, 0.8) for name in "cde"}
    lost = {cause.name: 0.0 for cause in CAUSES}
    said = {}
    for some in (runs, more):
        comparison = compare_runs(some)
        said[len(some)] = verdict(comparison, {name: name.upper() for name in some}, lambda run, group: lost).text()
    assert re.search(r"On things the masks of B are finer \(mean IoU of matches [^;]*; p = 0\.0\d+\)", said[2])
    assert re.search(
        r"B are no coarser \(mean IoU of matches [^;]*; p = 0\.\d+, p = 0\.0\d+ without the correction\)", said[5]
    )
    assert "corrected for 30 comparisons" in said[5]
    assert "corrected" not in said[2]


def test_runs_that_differ_from_each_other_but_not_from_the_best_are_named():
    """The best is better on some images and worse on others; the second is a little better than the third on all."""
    runs = {"best": of([9, 3] * 20), "second": of([6] * 38 + [5] * 2), "third": of([5] * 40)}
    comparison = compare_runs(runs, permutations=999)
    lost = {cause.name: 0.0 for cause in CAUSES}
    said = verdict(comparison, {name: name for name in runs}, lambda run, group: lost).text()
    assert said.startswith("best (60.0) cannot be told apart with 40 images from second and third (59.7, 53.3; p ≥ ")
    assert "second and third cannot" not in said


def test_a_bound_is_rounded_so_that_it_stays_true():
    assert [_p_text(0.0466, "p ≥ "), _p_text(0.0466, "p ≤ "), _p_text(0.0466)] == ["p ≥ 0.04", "p ≤ 0.047", "p = 0.047"]
    assert [_p_text(0.0012, "p ≥ "), _p_text(0.0012, "p ≤ "), _p_text(0.0002, "p ≤ ")] == [
        "p ≥ 0.001",
        "p ≤ 0.002",
        "p < 0.001",
    ]
    assert [_p_text(0.07, "p ≤ "), _p_text(0.29, "p ≥ ")] == ["p ≤ 0.07", "p ≥ 0.29"]


def test_a_p_value_has_enough_digits_to_differ_from_the_level():
    told = {0.0534: "p = 0.053", 0.0496: "p = 0.0496", 0.04996: "p = 0.04996", 0.05: "p = 0.05"}
    assert {p: _p_text(p) for p in told} == told
    assert [corrected_p(p, False) for p in (0.0496, 0.0504, 0.0512)] == ["0.0496", "0.0504", "0.051"]


def test_the_verdict_says_if_no_difference_could_be_significant():
    """Of 9 images or fewer there are no intervals; of 11 and many runs the smallest p is too large, corrected."""
    models = {f"m{index}": (0.4 + 0.1 * index, 0.5, 0.85) for index in range(5)}
    comparison, names, lost = compared(models, images=10)
    said = verdict(comparison, names, lost).messages[0][0].text
    assert "cannot be told apart: with 10 images and 30 comparisons no difference could be significant" in said
    assert "p =" not in said


def test_a_larger_but_less_certain_difference_is_explained():
    runs = {"best": of([6] * 40), "near": of([6] * 10 + [5] * 30), "far": of([9, 0] * 20)}
    comparison = compare_runs(runs, permutations=999)
    found = verdict(comparison, {name: name for name in runs}, lambda run, group: {})
    (clause,) = (clause for clause in found.clauses if clause.kind == "explained")
    check(comparison, None, clause)
    assert clause.text.startswith("far is further behind than near, but by how much is less sure: +")
