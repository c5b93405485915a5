"""Which run is better, where and why, in sentences: each clause is a finding of the tests or of the tables of errors.

`verdict` makes clauses; `text` joins them. A clause keeps the numbers that it states, so that a test can hold each
against the tables. What the tests do not show is never stated as a difference.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import pandas as pd

from panbench.base.text import listed
from panbench.metrics.errors import IMPERFECT_MASK
from panbench.metrics.jackknife import MATCHED_IOU
from panbench.metrics.samples import FEWEST_IMAGES
from panbench.metrics.uncertainty import Comparison
from panbench.panoptic.types import GROUPS
from panbench.report.answers.grid import deciding, percent, signed

__all__ = ["Clause", "Verdict", "verdict"]

LEAST_LOSS = 0.005
"""A cause is named where the better run loses so much less PQ to it, and at least a fifth of all that it loses less."""

NAMED_CAUSES = 2
NAMED_RUNS = 3

Lost = Callable[[str, str], Mapping[str, float]]
"""(run, group) → what each cause takes of PQ there, as views.causes has it."""

_LESS = {
    "wrong category": "mistakes one category for another less",
    "thing/stuff confusion": "takes things for stuff or stuff for things less",
    "merged": "merges less",
    "split": "splits less",
    "bad mask": "has fewer masks that are far off",
    "duplicate": "finds less twice",
    "hallucinated": "hallucinates less",
    "missed": "misses less",
}


@dataclass(frozen=True)
class Clause:
    """One statement. `kind` is the kind of claim:

    alike       no significant difference of `metric` in `group` between a and b
    better      a is significantly better than b in `metric` of `group`
    highest     a has the highest PQ; nothing is said of chance
    cause       in `group`, a loses less PQ to `cause` than b
    finer, coarser, no coarser   the mean IoU of a's matches in `group`, over the categories that both match, is
        significantly higher, lower, or neither, than that of b's
    explained   why a is better than a run that is ahead of b, and is not told apart from b: values are its differences
    corrected   the p-values are corrected for `values[0]` comparisons of a metric
    scores, loses                PQ of a alone; a loses most to `cause`
    values: the numbers stated, as fractions, of a and then of b; p: the corrected p-value of the test
    """

    kind: str
    text: str
    a: str
    b: str = ""
    group: str = "All"
    metric: str = "PQ"
    cause: str = ""
    values: tuple[float, ...] = ()
    p: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Sentences, each of clauses that are read in one breath."""

    sentences: tuple[tuple[Clause, ...], ...]

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """All of them, in reading order."""
        return tuple(clause for sentence in self.sentences for clause in sentence)

    def text(self) -> str:
        """The sentences, one after the other."""
        return " ".join("".join(clause.text for clause in sentence) for sentence in self.sentences)


def verdict(comparison: Comparison, names: Mapping[str, str], lost: Lost) -> Verdict | None:
    """The result of a comparison's tests in words; None when no run has a PQ.

    names: what to call each run of the comparison; lost: asked for the two best runs only
    The first sentence orders the runs, the second says on which kinds of category the two best differ, the third why.
    """
    facts = _Facts(comparison, names, lost)
    order = facts.order
    if not order:
        return None
    if len(order) == 1:
        return Verdict(tuple(map(tuple, _alone(facts, order[0]))))
    if comparison.images < FEWEST_IMAGES:
        best = order[0]
        words = f"{names[best]} has the highest PQ ({_pc(facts.value(best))}), "
        words += f"but {comparison.images} images are too few to tell runs apart."
        return Verdict(((Clause("highest", words, best, values=(facts.value(best),)),),))
    sentences = [*_ranking(facts, order), *_groups(facts, order[0], order[1])]
    if len(order) > 2 and any(clause.p is not None and clause.p < 1 for sentence in sentences for clause in sentence):
        sentences.append([_correction(facts, order[0])])
    return Verdict(tuple(tuple(sentence) for sentence in sentences if sentence))


@dataclass(frozen=True)
class _Test:
    """The difference of a and b, read as a − b. alone: p without the correction for the other comparisons; ends: of
    the interval."""

    difference: float
    p: float
    significant: bool
    values: tuple[float, float]
    alone: float
    ends: tuple[float, float]

    @property
    def better(self) -> bool:
        return self.significant and self.difference > 0

    @property
    def worse(self) -> bool:
        return self.significant and self.difference < 0


@dataclass(frozen=True)
class _Facts:
    comparison: Comparison
    names: Mapping[str, str]
    lost: Lost

    @property
    def images(self) -> str:
        """With how many images the runs were compared."""
        return f"{self.comparison.images:,} images"

    @cached_property
    def least_p(self) -> float:
        """The smallest corrected p of PQ that these images allow: of a run that is ahead on every single one.

        2 of 2^n ways to swap n images differ as much, and the smallest of all p-values is multiplied by their number.
        """
        return min(1.0, float(self.comparisons()) * 2.0 ** (1 - self.comparison.images))

    @property
    def none_could(self) -> str:
        """Why no difference is significant, where none could be; else ""."""
        if self.least_p < 1 - self.comparison.level:
            return ""
        return (
            f"with {self.images} and {self.comparisons()} comparisons no difference could be significant, not even of "
            "a run that is ahead on every image"
        )

    @cached_property
    def order(self) -> list[str]:
        """The runs that have a PQ, the best first; equal ones as the comparison has them."""
        of_all = {
            run: row.value
            for (run, group, metric), row in self.comparison.scores.items()
            if (group, metric) == ("All", "PQ") and row.value == row.value
        }
        return sorted(of_all, key=lambda run: -of_all[run])

    def value(self, run: str, group: str = "All", metric: str = "PQ") -> float:
        own = self.comparison.scores.get((run, group, metric))
        return float("nan") if own is None else float(own.value)

    def test(self, a: str, b: str, group: str = "All", metric: str = "PQ") -> _Test | None:
        """None where the two were not compared, or one has no value."""
        for first, second, sign in ((b, a, 1), (a, b, -1)):
            row = self.comparison.tests.get((first, second, group, metric))
            if row is not None and not pd.isna(row.p_holm):
                values = float(row.value_a), float(row.value_b)
                values = values[::-1] if sign == 1 else values
                difference, p = sign * float(row.difference), float(row.p_holm)
                ends = sorted((sign * float(row.low), sign * float(row.high)))
                return _Test(difference, p, bool(row.significant), values, float(row.p), (ends[0], ends[1]))
        return None

    def said(self, test: _Test) -> str:
        """The p-value of a test, and where only the correction makes it a large one, the one without."""
        if test.significant or test.alone >= 1 - self.comparison.level:
            return _p(test.p)
        return f"{_p(test.p)}, {_p(test.alone)} without the correction"

    def comparisons(self, metric: str = "PQ") -> int:
        """How many comparisons of a metric the p-values of groups are corrected for."""
        own = [row for (*_, tested), row in self.comparison.tests.items() if tested == metric]
        return sum(not pd.isna(row.p) for row in own)


def _alone(facts: _Facts, run: str) -> list[list[Clause]]:
    name, pq = facts.names[run], facts.value(run)
    own = facts.comparison.scores[run, "All", "PQ"]
    words = f"{name} has PQ {_pc(pq)}"
    if not pd.isna(own.low):
        words += f" ({100 * facts.comparison.level:g} % interval {_pc(own.low)} to {_pc(own.high)})"
    parts = [(group, facts.value(run, group)) for group in ("Things", "Stuff")]
    known = [f"{_pc(value)} on {group.lower()}" for group, value in parts if value == value]
    words += f": {' and '.join(known)}." if len(known) == 2 else "."
    sentences = [[Clause("scores", words, run, values=(pq, *(value for _, value in parts if value == value)))]]
    lost = sorted(facts.lost(run, "All").items(), key=lambda item: -item[1])
    if lost and lost[0][1] > 0:
        cause, most = lost[0]
        words = f"It loses most to {'masks that are found but not exact' if cause == IMPERFECT_MASK.name else cause}"
        words += f" ({_pc(most)} points)."
        sentences.append([Clause("loses", words, run, cause=cause, values=(most,))])
    return sentences


def _ranking(facts: _Facts, order: Sequence[str]) -> list[list[Clause]]:
    """How the best compares with each other run; with a baseline, how each run compares with it."""
    best, *others = order
    tests = {other: facts.test(best, other) for other in others}
    if any(test is None for test in tests.values()):
        return _against_baseline(facts, order)
    names = facts.names
    alike = [other for other, test in tests.items() if test and not test.significant]
    behind = [other for other, test in tests.items() if test and test.better]
    found: list[Clause] = []
    if len(alike) == len(others) and all(_is_equal(facts, best, other) for other in others):
        words = f"There is no difference between {_names(facts, order)} (PQ {_pc(facts.value(best))})"
        for other in alike:
            test = tests[other]
            assert test is not None
            said = words if other == alike[0] else ""
            found.append(Clause("alike", said, best, other, values=test.values, p=test.p))
    elif alike:
        top = [best, *alike]
        values = tuple(facts.value(run) for run in top)
        between = [test for a, b in combinations(top, 2) if (test := facts.test(a, b))]
        if any(test.significant for test in between):
            # None is told apart from the best, and yet some from each other.
            sure = [test for other in alike if (test := tests[other])]
            words = f"{names[best]} ({_pc(values[0])}) cannot be told apart with {facts.images} from "
            words += f"{_names(facts, alike)} ({', '.join(map(_pc, values[1:]))}; "
            words += f"{_p(min(test.p for test in sure), 'p ≥ ')})"
        elif facts.none_could:
            words = f"{_names(facts, top)} ({', '.join(map(_pc, values))}) cannot be told apart: {facts.none_could}"
        else:
            # With several the least p-value is stated: the others are larger.
            sign = "p = " if len(alike) == 1 else "p ≥ "
            words = f"{_names(facts, top)} cannot be told apart with {facts.images} "
            words += f"({', '.join(map(_pc, values))}; {_p(min(test.p for test in between), sign)})"
        for other in alike:
            test = tests[other]
            assert test is not None
            first = other == alike[0]
            found.append(Clause("alike", words if first else "", best, other, values=test.values, p=test.p))
        behind_all = [run for run in behind if all(_is_better(facts, one, run) for one in top)]
        if behind_all:
            subject = "both" if len(top) == 2 else "all of them"
            found.extend(_better_than(facts, top, behind_all, f"; {subject} are better than "))
        behind = [run for run in behind if run not in behind_all]
        if behind:
            found.extend(_better_than(facts, [best], behind, f"; {names[best]} is better than "))
    else:
        value = f" ({_pc(facts.value(best))})" if len(others) > 1 else ""
        word = f"{names[best]} is best{value}: better than " if len(others) > 1 else f"{names[best]} is better than "
        found.extend(_better_than(facts, [best], behind, word))
    return [[*found[:-1], _ended(found[-1])], *_explained(facts, best, tests)]


def _explained(facts: _Facts, best: str, tests: Mapping[str, _Test | None]) -> list[list[Clause]]:
    """Why the best is better than one run and is not told apart from another one that is further behind."""
    alike = [run for run, test in tests.items() if test and not test.significant]
    behind = [run for run, test in tests.items() if test and test.better]
    if not alike or not behind:
        return []
    near, far = behind[0], alike[-1]
    sure, unsure = tests[near], tests[far]
    assert sure is not None
    assert unsure is not None
    if facts.value(far) >= facts.value(near) or sure.ends[0] != sure.ends[0] or unsure.ends[0] != unsure.ends[0]:
        return []
    names = facts.names
    words = (
        f"{names[far]} is further behind than {names[near]}, but by how much is less sure: {_gap(unsure)} against "
        f"{_gap(sure)}."
    )
    return [[Clause("explained", words, best, far, values=(unsure.difference, sure.difference))]]


def _gap(test: _Test) -> str:
    low, high = test.ends
    return f"{signed(test.difference, 1)} ({signed(low, 1)} to {signed(high, 1)})"


def _better_than(facts: _Facts, top: Sequence[str], behind: Sequence[str], before: str) -> list[Clause]:
    """Clauses "… better than B (62.5; p < 0.001) and C (…)": one for each pair, said once for each of `behind`."""
    found = []
    for place, run in enumerate(behind):
        tests = [test for one in top if (test := facts.test(one, run))]
        p = max(test.p for test in tests)
        sign = "p = " if len(tests) == 1 else "p ≤ "
        between = before if place == 0 else " and " if place == len(behind) - 1 else ", "
        if len(facts.order) == 2:
            numbers = f"{_pc(tests[0].values[0])} against {_pc(tests[0].values[1])}"
        else:
            numbers = _pc(facts.value(run))
        words = f"{between}{facts.names[run]} ({numbers}; {_p(p, sign)})"
        for one, test in zip(top, tests, strict=True):
            said = words if one == top[0] else ""
            found.append(Clause("better", said, one, run, values=test.values, p=test.p))
    return found


def _against_baseline(facts: _Facts, order: Sequence[str]) -> list[list[Clause]]:
    """Beyond a few runs each was compared with one only: what the tests say of that one."""
    best = order[0]
    first = f"{facts.names[best]} has the highest PQ ({_pc(facts.value(best))})."
    sentences = [[Clause("highest", first, best, values=(facts.value(best),))]]
    base = next((run for run in order if all(facts.test(other, run) for other in order if other != run)), None)
    if base is None:
        return sentences
    kinds: dict[str, list[tuple[str, _Test]]] = {"better": [], "alike": [], "worse": []}
    for run in order:
        if run != base and (test := facts.test(run, base)):
            kinds["better" if test.better else "worse" if test.worse else "alike"].append((run, test))
    words = {kind: (f"is {kind}", f"are {kind}") for kind in ("better", "worse")}
    words["alike"] = ("cannot be told apart",) * 2
    found: list[Clause] = []
    start = f"Against {facts.names[base]} ({_pc(facts.value(base))}) "
    for kind, members in kinds.items():
        for place, (run, test) in enumerate(members):
            said = ""
            if place == 0:
                verb = words[kind][len(members) > 1]
                said = f"{'; ' if found else start}{_names(facts, [one for one, _ in members])} {verb}"
                said += f" with {facts.images}" if kind == "alike" else ""
            a, b = (run, base) if kind != "worse" else (base, run)
            values = test.values if kind != "worse" else test.values[::-1]
            found.append(Clause("better" if kind == "worse" else kind, said, a, b, values=values, p=test.p))
    return [*sentences, [*found[:-1], _ended(found[-1])]] if found else sentences


def _groups(facts: _Facts, a: str, b: str) -> list[list[Clause]]:
    """On things and on stuff: who is better, and of the better one why."""
    names = facts.names
    tests = {group: facts.test(a, b, group) for group in ("Things", "Stuff")}
    if _is_equal(facts, a, b):
        return []
    known = {group: test for group, test in tests.items() if test}
    if len(known) < 2:
        return []
    winners = {test.better for test in known.values() if test.significant}
    parts: list[Clause] = []
    last = ""
    # What a is better on comes first, then what b is better on, then where they cannot be told apart.
    for group, test in sorted(known.items(), key=lambda item: (not item[1].better, not item[1].worse)):
        where = group.lower()
        if test.significant:
            winner, loser = (a, b) if test.better else (b, a)
            by = signed(abs(test.difference), 1)
            before = " and on " if winner == last else f", {names[winner]} on "
            # With one winner the sentence must say of whom it is better, unless the first has named only the two.
            than = f" than {names[loser]}" if len(winners) == 1 and len(facts.order) > 2 else ""
            before = before if parts else f"{names[winner]} is better{than} on "
            values = test.values if test.better else test.values[::-1]
            parts.append(Clause("better", f"{before}{where} ({by})", winner, loser, group, values=values, p=test.p))
            last = winner
        else:
            numbers = f"({', '.join(map(_pc, test.values))}; {facts.said(test)})"
            before = f"{names[a]} and {names[b]} cannot be told apart on " if not parts else "; not told apart on "
            before = " and on " if parts and not last else before
            parts.append(Clause("alike", f"{before}{where} {numbers}", a, b, group, values=test.values, p=test.p))
    sentences = [[*parts[:-1], _ended(parts[-1])]]
    for clause in parts:
        if clause.kind == "better":
            sentences.extend(_why(facts, clause.a, clause.b, clause.group))
    return sentences


def _why(facts: _Facts, winner: str, loser: str, group: str) -> list[list[Clause]]:
    """Explains one group: the causes to which the better run loses less, and whether its masks are finer."""
    own, other = facts.lost(winner, group), facts.lost(loser, group)
    less = {cause: other[cause] - own[cause] for cause in own if cause != IMPERFECT_MASK.name and cause in other}
    total = sum(gap for gap in less.values() if gap > 0)
    chosen = sorted((cause for cause, gap in less.items() if gap >= max(LEAST_LOSS, total / 5)), key=lambda c: -less[c])
    clauses: list[Clause] = []
    start = f"On {group.lower()} {facts.names[winner]} "
    for place, cause in enumerate(chosen[:NAMED_CAUSES]):
        verb = _LESS.get(cause, f"loses less to {cause}")
        values = (own[cause], other[cause])
        numbers = " against ".join(map(_pc, values)) + ("" if place else " points of PQ")
        words = f"{' and ' if place else start}{verb} ({numbers})"
        clauses.append(Clause("cause", words, winner, loser, group, "lost", cause, values))
    masks = facts.test(winner, loser, group, MATCHED_IOU)
    if masks is not None:
        kind = "finer" if masks.better else "coarser" if masks.worse else "no coarser"
        numbers = f"(mean IoU of matches {' against '.join(map(_pc, masks.values))}; {facts.said(masks)})"
        joined = ", but its masks are " if kind == "coarser" else ", and its masks are "
        before = joined if clauses else f"On {group.lower()} the masks of {facts.names[winner]} are "
        words = f"{before}{kind} {numbers}"
        clauses.append(Clause(kind, words, winner, loser, group, MATCHED_IOU, "", masks.values, masks.p))
    return [[*clauses[:-1], _ended(clauses[-1])]] if clauses else []


def _correction(facts: _Facts, best: str) -> Clause:
    """Why a pair's p-value is larger here than among fewer runs."""
    number = facts.comparisons()
    words = (
        f"Each p is corrected for {number} comparisons (Holm); among fewer models the same pair can have a smaller one."
    )
    return Clause("corrected", words, best, values=(float(number),))


def _is_better(facts: _Facts, a: str, b: str) -> bool:
    test = facts.test(a, b)
    return test is not None and test.better


def _is_equal(facts: _Facts, a: str, b: str) -> bool:
    """Whether PQ, SQ and RQ of the two are the same, of all, things and stuff."""
    tests = [facts.test(a, b, group, metric) for group in GROUPS for metric in ("PQ", "SQ", "RQ")]
    return tests[0] is not None and all(test is None or test.difference == 0 for test in tests)


def _names(facts: _Facts, runs: Sequence[str]) -> str:
    names = [facts.names[run] for run in runs]
    if len(names) > NAMED_RUNS + 1:
        return listed(names, NAMED_RUNS)
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _ended(clause: Clause) -> Clause:
    return Clause(**{**vars(clause), "text": clause.text + "."})


def _pc(value: float) -> str:
    return percent(value, 1)


def _p(p: float, sign: str = "p = ") -> str:
    """A p-value; a bound is rounded to the side on which it stays true."""
    if p < 0.001:
        return "p < 0.001"
    if p > 0.995:
        # No p-value is larger, and corrected ones often get there.
        return "p = 1.00"
    return sign + deciding(p, 3 if p < 0.01 else 2, rounding={"p ≥ ": math.floor, "p ≤ ": math.ceil}.get(sign, round))
