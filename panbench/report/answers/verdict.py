"""Writes which run is better, where and why: each clause is a finding of the tests or of the tables of errors.

`verdict` builds clauses; `text` joins them. A clause stores the numbers that it states, so that a test can check each
against the tables. A difference that the tests do not show is never stated.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import pandas as pd

from panbench.base.text import in_sentence
from panbench.metrics.errors import IMPERFECT_MASK
from panbench.metrics.jackknife import MATCHED_IOU
from panbench.metrics.samples import FEWEST_IMAGES
from panbench.metrics.uncertainty import Comparison, Difference
from panbench.panoptic.types import GROUPS
from panbench.report.answers.grid import format_p, percent, signed

LEAST_LOSS = 0.005
"""A cause is named if the better run loses this much less PQ to it, and at least a fifth of its total advantage."""

NAMED_CAUSES = 2
NAMED_RUNS = 3

Lost = Callable[[str, str], Mapping[str, float]]
"""(run, group) → PQ lost to each cause, as in views.causes."""

_LESS = {
    "wrong category": "mistakes one category for another less",
    "thing/stuff confusion": "confuses things and stuff less",
    "merged": "merges less",
    "split": "splits less",
    "bad mask": "has fewer masks that are far off",
    "duplicate": "finds less twice",
    "hallucinated": "hallucinates less",
    "missed": "misses less",
}


@dataclass(frozen=True)
class Clause:
    """A statement about one or two runs: its kind, its words, and the numbers behind it.

    kind: the kind of claim, one of
    alike       no significant difference of `metric` in `group` between a and b
    better      a is significantly better than b in `metric` of `group`
    highest     a has the highest PQ, without a claim about chance
    cause       in `group`, a loses less PQ to `cause` than b
    finer, coarser, no coarser   the mean IoU of a's matches in `group`, over the categories that both match, is
        significantly higher, lower, or neither, than that of b's
    explained   why a beats a run that is ahead of b, but cannot be told apart from b: values are its differences
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
    """The verdict of a comparison: sentences, each a group of clauses that are read together."""

    messages: tuple[tuple[Clause, ...], ...]

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Returns the clauses of all sentences of the verdict, in reading order."""
        return tuple(clause for message in self.messages for clause in message)

    def text(self) -> str:
        """Returns the sentences, one after the other."""
        return " ".join("".join(clause.text for clause in message) for message in self.messages)


def verdict(comparison: Comparison, names: Mapping[str, str], lost: Lost) -> Verdict | None:
    """Returns the result of a comparison's tests in words; None if no run has a PQ.

    The first sentence orders the runs, the second says on which kinds of category the two best differ, the third why.
    names: display name of each run of the comparison; lost: called only for the two best runs
    """
    facts = _VerdictFacts(comparison, names, lost)
    order = facts.order
    if not order:
        return None
    if len(order) == 1:
        return Verdict(tuple(map(tuple, _single_run_sentences(facts, order[0]))))
    if comparison.images < FEWEST_IMAGES:
        best = order[0]
        words = f"{names[best]} has the highest PQ ({_pc(facts.value(best))}), "
        words += f"but {comparison.images} images are too few to tell runs apart."
        return Verdict(((Clause("highest", words, best, values=(facts.value(best),)),),))
    messages = [*_best_against_others(facts, order), *_things_and_stuff_sentences(facts, order[0], order[1])]
    if len(order) > 2 and any(clause.p is not None and clause.p < 1 for message in messages for clause in message):
        messages.append([_correction_clause(facts, order[0])])
    return Verdict(tuple(tuple(message) for message in messages if message))


@dataclass(frozen=True)
class _VerdictFacts:
    """What the verdict is made from: the tests, the runs' names, and the PQ that a run loses to causes."""

    comparison: Comparison
    names: Mapping[str, str]
    lost: Lost

    @property
    def images_text(self) -> str:
        """Returns on how many images the runs were compared, as "5,000 images"."""
        return f"{self.comparison.images:,} images"

    @cached_property
    def least_possible_p(self) -> float:
        """Returns the smallest corrected p-value that a test of PQ can have with so few images.

        A run has it that is ahead on every image.
        2 of the 2^n swaps of n images differ as much, and the smallest of all p-values is multiplied by their number.
        """
        return min(1.0, float(self.comparisons()) * 2.0 ** (1 - self.comparison.images))

    @property
    def too_few_images_clause(self) -> str:
        """Explains that no difference can be significant with so few images; "" if one can."""
        if self.least_possible_p < 1 - self.comparison.level:
            return ""
        return (
            f"with {self.images_text} and {self.comparisons()} comparisons no difference could be significant, not "
            "even of a run that is ahead on every image"
        )

    @cached_property
    def order(self) -> list[str]:
        """Returns the runs that have a PQ, best first; equal ones in the order of the comparison."""
        of_all = {
            run: row.value
            for (run, group, metric), row in self.comparison.scores.items()
            if (group, metric) == ("All", "PQ") and row.value == row.value
        }
        return sorted(of_all, key=lambda run: -of_all[run])

    def value(self, run: str, group: str = "All", metric: str = "PQ") -> float:
        """Returns a score of a run; NaN if it has none."""
        own = self.comparison.scores.get((run, group, metric))
        return float("nan") if own is None else float(own.value)

    def test(self, a: str, b: str, group: str = "All", metric: str = "PQ") -> Difference | None:
        """Returns the test of the difference a − b; None if the two were not compared, or if one has no value."""
        found = self.comparison.between(a, b, group, metric)
        return None if found is None or math.isnan(found.p) else found

    def p_value_text(self, test: Difference) -> str:
        """Formats a test's p-value, and its uncorrected one if the test is significant only without the correction."""
        if test.significant or test.alone >= 1 - self.comparison.level:
            return _p_text(test.p)
        return f"{_p_text(test.p)}, {_p_text(test.alone)} without the correction"

    def comparisons(self, metric: str = "PQ") -> int:
        """Returns the number of tests of a metric, for which their p-values are corrected."""
        own = [row for (*_, tested), row in self.comparison.tests.items() if tested == metric]
        return sum(not pd.isna(row.p) for row in own)


def _single_run_sentences(facts: _VerdictFacts, run: str) -> list[list[Clause]]:
    """Returns sentences on a single run: its PQ, and the cause to which it loses most."""
    name, pq = facts.names[run], facts.value(run)
    own = facts.comparison.scores[run, "All", "PQ"]
    words = f"{name} has PQ {_pc(pq)}"
    if not pd.isna(own.low):
        words += f" ({100 * facts.comparison.level:g} % interval {_pc(own.low)} to {_pc(own.high)})"
    parts = [(group, facts.value(run, group)) for group in ("Things", "Stuff")]
    known = [f"{_pc(value)} on {group.lower()}" for group, value in parts if value == value]
    words += f": {' and '.join(known)}." if len(known) == 2 else "."
    messages = [[Clause("scores", words, run, values=(pq, *(value for _, value in parts if value == value)))]]
    lost = sorted(facts.lost(run, "All").items(), key=lambda item: -item[1])
    if lost and lost[0][1] > 0:
        cause, most = lost[0]
        words = f"It loses most to {'masks that are found but not exact' if cause == IMPERFECT_MASK.name else cause}"
        words += f" ({_pc(most)} points)."
        messages.append([Clause("loses", words, run, cause=cause, values=(most,))])
    return messages


def _best_against_others(facts: _VerdictFacts, order: Sequence[str]) -> list[list[Clause]]:
    """Returns sentences that compare the best run with each other run or, with a baseline, each run with it."""
    best, *others = order
    tests = {other: test for other in others if (test := facts.test(best, other))}
    if len(tests) < len(others):
        return _against_baseline(facts, order)
    names = facts.names
    alike = [other for other, test in tests.items() if not test.significant]
    behind = [other for other, test in tests.items() if test.better]
    found: list[Clause] = []
    if len(alike) == len(others) and all(_have_equal_scores(facts, best, other) for other in others):
        words = f"There is no difference between {_joined_run_names(facts, order)} (PQ {_pc(facts.value(best))})"
        found = _clauses_of_one_text("alike", words, [(best, other, tests[other]) for other in alike])
    elif alike:
        top = [best, *alike]
        values = tuple(facts.value(run) for run in top)
        between = [test for a, b in combinations(top, 2) if (test := facts.test(a, b))]
        if any(test.significant for test in between):
            # No run can be told apart from the best, yet some differ from each other.
            words = f"{names[best]} ({_pc(values[0])}) cannot be told apart with {facts.images_text} from "
            words += f"{_joined_run_names(facts, alike)} ({', '.join(map(_pc, values[1:]))}; "
            words += f"{_p_text(min(tests[other].p for other in alike), 'p ≥ ')})"
        elif facts.too_few_images_clause:
            words = f"{_joined_run_names(facts, top)} ({', '.join(map(_pc, values))}) cannot be told apart: "
            words += facts.too_few_images_clause
        else:
            # With several runs only the smallest p-value is stated: the others are larger.
            sign = "p = " if len(alike) == 1 else "p ≥ "
            words = f"{_joined_run_names(facts, top)} cannot be told apart with {facts.images_text} "
            words += f"({', '.join(map(_pc, values))}; {_p_text(min(test.p for test in between), sign)})"
        found = _clauses_of_one_text("alike", words, [(best, other, tests[other]) for other in alike])
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
    return [[*found[:-1], _clause_with_full_stop(found[-1])], *_unequal_certainty_sentence(facts, best, tests)]


def _clauses_of_one_text(kind: str, words: str, tests: Sequence[tuple[str, str, Difference]]) -> list[Clause]:
    """Returns a clause for each of some tests that share one text, which only the first clause holds.

    tests: run a, run b, and the test of a − b
    """
    return [
        Clause(kind, "" if index else words, a, b, values=test.values, p=test.p)
        for index, (a, b, test) in enumerate(tests)
    ]


def _unequal_certainty_sentence(facts: _VerdictFacts, best: str, tests: Mapping[str, Difference]) -> list[list[Clause]]:
    """Explains how a run can be significantly worse than the best while one with even lower PQ is not."""
    alike = [run for run, test in tests.items() if not test.significant]
    behind = [run for run, test in tests.items() if test.better]
    if not alike or not behind:
        return []
    near, far = behind[0], alike[-1]
    sure, unsure = tests[near], tests[far]
    if facts.value(far) >= facts.value(near) or math.isnan(sure.low) or math.isnan(unsure.low):
        return []
    names = facts.names
    words = (
        f"{names[far]} is further behind than {names[near]}, but by how much is less sure: {_gap_text(unsure)} against "
        f"{_gap_text(sure)}."
    )
    return [[Clause("explained", words, best, far, values=(unsure.difference, sure.difference))]]


def _gap_text(test: Difference) -> str:
    """Formats a difference with its interval, in points of PQ."""
    return f"{signed(test.difference, 1)} ({signed(test.low, 1)} to {signed(test.high, 1)})"


def _better_than(facts: _VerdictFacts, top: Sequence[str], behind: Sequence[str], before: str) -> list[Clause]:
    """Returns clauses "… better than B (62.5; p < 0.001) and C (…)", one for each run in `behind`."""
    found = []
    for index, run in enumerate(behind):
        tests = [test for one in top if (test := facts.test(one, run))]
        p = max(test.p for test in tests)
        sign = "p = " if len(tests) == 1 else "p ≤ "
        between = before if index == 0 else " and " if index == len(behind) - 1 else ", "
        if len(facts.order) == 2:
            numbers = f"{_pc(tests[0].values[0])} against {_pc(tests[0].values[1])}"
        else:
            numbers = _pc(facts.value(run))
        words = f"{between}{facts.names[run]} ({numbers}; {_p_text(p, sign)})"
        found += _clauses_of_one_text("better", words, [(one, run, test) for one, test in zip(top, tests, strict=True)])
    return found


def _against_baseline(facts: _VerdictFacts, order: Sequence[str]) -> list[list[Clause]]:
    """Returns sentences on which runs are better or worse than the baseline, if not all pairs were tested."""
    best = order[0]
    first = f"{facts.names[best]} has the highest PQ ({_pc(facts.value(best))})."
    messages = [[Clause("highest", first, best, values=(facts.value(best),))]]
    base = next((run for run in order if all(facts.test(other, run) for other in order if other != run)), None)
    if base is None:
        return messages
    kinds: dict[str, list[tuple[str, Difference]]] = {"better": [], "alike": [], "worse": []}
    for run in order:
        if run != base and (test := facts.test(run, base)):
            kinds["better" if test.better else "worse" if test.worse else "alike"].append((run, test))
    words = {kind: (f"is {kind}", f"are {kind}") for kind in ("better", "worse")}
    words["alike"] = ("cannot be told apart",) * 2
    found: list[Clause] = []
    start = f"Against {facts.names[base]} ({_pc(facts.value(base))}) "
    for kind, members in kinds.items():
        if not members:
            continue
        subject = _joined_run_names(facts, [run for run, _ in members])
        text = f"{'; ' if found else start}{subject} {words[kind][len(members) > 1]}"
        if kind == "worse":
            tests = [(base, run, test) for run, _ in members if (test := facts.test(base, run))]
            found += _clauses_of_one_text("better", text, tests)
        else:
            text += f" with {facts.images_text}" if kind == "alike" else ""
            found += _clauses_of_one_text(kind, text, [(run, base, test) for run, test in members])
    return [*messages, [*found[:-1], _clause_with_full_stop(found[-1])]] if found else messages


def _things_and_stuff_sentences(facts: _VerdictFacts, a: str, b: str) -> list[list[Clause]]:
    """Returns sentences on which run is better on things and on stuff, and why."""
    names = facts.names
    tests = {group: facts.test(a, b, group) for group in ("Things", "Stuff")}
    if _have_equal_scores(facts, a, b):
        return []
    known = {group: test for group, test in tests.items() if test}
    if len(known) < 2:
        return []
    winners = {test.better for test in known.values() if test.significant}
    parts: list[Clause] = []
    last = ""
    # First the groups where a is better, then where b is, then where they cannot be told apart.
    for group, test in sorted(known.items(), key=lambda item: (not item[1].better, not item[1].worse)):
        where = group.lower()
        if test.significant:
            winner, loser = (a, b) if test.better else (b, a)
            by = signed(abs(test.difference), 1)
            before = " and on " if winner == last else f", {names[winner]} on "
            # With one winner, name the other run too, unless the first sentence named only these two.
            than = f" than {names[loser]}" if len(winners) == 1 and len(facts.order) > 2 else ""
            before = before if parts else f"{names[winner]} is better{than} on "
            values = test.values if test.better else test.values[::-1]
            parts.append(Clause("better", f"{before}{where} ({by})", winner, loser, group, values=values, p=test.p))
            last = winner
        else:
            numbers = f"({', '.join(map(_pc, test.values))}; {facts.p_value_text(test)})"
            before = f"{names[a]} and {names[b]} cannot be told apart on " if not parts else "; not told apart on "
            before = " and on " if parts and not last else before
            parts.append(Clause("alike", f"{before}{where} {numbers}", a, b, group, values=test.values, p=test.p))
    messages = [[*parts[:-1], _clause_with_full_stop(parts[-1])]]
    for clause in parts:
        if clause.kind == "better":
            messages.extend(_reason_sentence(facts, clause.a, clause.b, clause.group))
    return messages


def _reason_sentence(facts: _VerdictFacts, winner: str, loser: str, group: str) -> list[list[Clause]]:
    """Explains in a sentence why one run beats another: which errors cost it less PQ, and whose masks are finer."""
    own, other = facts.lost(winner, group), facts.lost(loser, group)
    less = {cause: other[cause] - own[cause] for cause in own if cause != IMPERFECT_MASK.name and cause in other}
    total = sum(gap for gap in less.values() if gap > 0)
    chosen = sorted((cause for cause, gap in less.items() if gap >= max(LEAST_LOSS, total / 5)), key=lambda c: -less[c])
    clauses: list[Clause] = []
    start = f"On {group.lower()} {facts.names[winner]} "
    for index, cause in enumerate(chosen[:NAMED_CAUSES]):
        verb = _LESS.get(cause, f"loses less to {cause}")
        values = (own[cause], other[cause])
        numbers = " against ".join(map(_pc, values)) + ("" if index else " points of PQ")
        words = f"{' and ' if index else start}{verb} ({numbers})"
        clauses.append(Clause("cause", words, winner, loser, group, "lost", cause, values))
    masks = facts.test(winner, loser, group, MATCHED_IOU)
    if masks is not None:
        kind = "finer" if masks.better else "coarser" if masks.worse else "no coarser"
        numbers = f"(mean IoU of matches {' against '.join(map(_pc, masks.values))}; {facts.p_value_text(masks)})"
        joined = ", but its masks are " if kind == "coarser" else ", and its masks are "
        before = joined if clauses else f"On {group.lower()} the masks of {facts.names[winner]} are "
        words = f"{before}{kind} {numbers}"
        clauses.append(Clause(kind, words, winner, loser, group, MATCHED_IOU, "", masks.values, masks.p))
    return [[*clauses[:-1], _clause_with_full_stop(clauses[-1])]] if clauses else []


def _correction_clause(facts: _VerdictFacts, best: str) -> Clause:
    """Returns a sentence on why a pair's p-value is larger here than among fewer runs."""
    number = facts.comparisons()
    words = (
        f"Each p is corrected for {number} comparisons (Holm); among fewer models the same pair can have a smaller one."
    )
    return Clause("corrected", words, best, values=(float(number),))


def _is_better(facts: _VerdictFacts, a: str, b: str) -> bool:
    """Returns whether run a is significantly better than run b."""
    test = facts.test(a, b)
    return test is not None and test.better


def _have_equal_scores(facts: _VerdictFacts, a: str, b: str) -> bool:
    """Returns whether two runs have equal PQ, SQ and RQ over all, things and stuff."""
    tests = [facts.test(a, b, group, metric) for group in GROUPS for metric in ("PQ", "SQ", "RQ")]
    return tests[0] is not None and all(test is None or test.difference == 0 for test in tests)


def _joined_run_names(facts: _VerdictFacts, runs: Sequence[str]) -> str:
    """Joins the names of runs as in a sentence; of many it names only the first."""
    names = [facts.names[run] for run in runs]
    return in_sentence(names, NAMED_RUNS if len(names) > NAMED_RUNS + 1 else len(names))


def _clause_with_full_stop(clause: Clause) -> Clause:
    """Returns the clause with a full stop."""
    return Clause(**{**vars(clause), "text": clause.text + "."})


def _pc(value: float) -> str:
    """Formats a fraction as percent with one decimal."""
    return percent(value, 1)


def _p_text(p: float, sign: str = "p = ") -> str:
    """Formats a p-value; a bound (p ≤, p ≥) is rounded to the side on which it stays true."""
    if p < 0.001:
        return "p < 0.001"
    if p > 0.995:
        # p-values end at 1, and corrected ones often reach it.
        return "p = 1.00"
    return sign + format_p(p, 3 if p < 0.01 else 2, rounding={"p ≥ ": math.floor, "p ≤ ": math.ceil}.get(sign, round))
