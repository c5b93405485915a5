"""Each clause of a verdict is held against the tables that it comes from."""

import numpy as np
import pandas as pd
import pytest

from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import compare
from panbench.panoptic.types import Category
from panbench.report.grid import percent
from panbench.report.verdict import LEAST_LOSS, verdict

CATEGORIES = tuple(Category(index + 1, f"c{index}", index < 4, "", None) for index in range(7))


def made_up(rng: np.random.Generator, images: int, things: float, stuff: float, masks: float) -> ImageStatistics:
    """Statistics of a model that finds so many of the things and of the stuff, with masks of this mean IoU."""
    rows = []
    for image in range(images):
        for category in CATEGORIES:
            objects = 1 + rng.poisson(0.4)
            found = rng.binomial(objects, things if category.isthing else stuff)
            iou = float(np.clip(rng.normal(masks, 0.03, found), 0.51, 1).sum())
            rows.append((image, category.id, 0, iou, found, rng.binomial(1, 0.1), objects - found))
    columns = ["image_id", "category_id", "slice", "iou_sum", "TP", "FP", "FN"]
    return ImageStatistics.from_frame(np.arange(images), pd.DataFrame(rows, columns=columns), CATEGORIES)


def compared(models: dict[str, tuple[float, float, float]], images: int = 40, seed: int = 0, baseline=None):
    """The comparison, names for its runs, and made-up losses for each cause."""
    rng = np.random.default_rng(seed)
    runs = {name: made_up(rng, images, *quality) for name, quality in models.items()}
    comparison = compare(runs, baseline=baseline, resamples=200, permutations=999)
    losses = {
        (run, group): {cause.name: float(rng.random() / 20) for cause in CAUSES}
        for run in models
        for group in ("All", "Things", "Stuff")
    }
    return comparison, {name: name.upper() for name in models}, lambda run, group: losses[run, group]


def row_of(comparison, a: str, b: str, group: str, metric: str) -> tuple[float, float, bool]:
    """a − b, the corrected p-value and whether it is significant."""
    table = comparison.differences
    table = table[(table["group"] == group) & (table["metric"] == metric)]
    for first, second, sign in ((b, a, 1), (a, b, -1)):
        own = table[(table["a"] == first) & (table["b"] == second)]
        if len(own):
            row = own.iloc[0]
            return sign * row["difference"], row["p_holm"], bool(row["significant"])
    raise AssertionError(f"{a} and {b} were not compared")


def value_of(comparison, run: str, group: str, metric: str) -> float:
    table = comparison.runs.set_index(["run", "group", "metric"])["value"]
    return float(table.loc[(run, group, metric)])


def check(comparison, lost, clause) -> None:
    """That a clause is true of the tables, of its own group."""
    a, b, group, metric = clause.a, clause.b, clause.group, clause.metric
    if clause.kind in ("level", "better", "finer", "coarser", "no coarser"):
        difference, p, significant = row_of(comparison, a, b, group, metric)
        assert clause.p == pytest.approx(p)
        assert clause.values == pytest.approx([value_of(comparison, run, group, metric) for run in (a, b)])
        true = {
            "level": not significant,
            "better": significant and difference > 0,
            "finer": significant and difference > 0,
            "coarser": significant and difference < 0,
            "no coarser": not significant,
        }
        assert true[clause.kind], clause
        assert metric == ("SQ" if clause.kind in ("finer", "coarser", "no coarser") else "PQ")
    elif clause.kind == "cause":
        assert clause.values == (lost(a, group)[clause.cause], lost(b, group)[clause.cause])
        assert clause.values[1] - clause.values[0] >= LEAST_LOSS
        assert row_of(comparison, a, b, group, "PQ")[2]  # asked why only where one is better
    elif clause.kind in ("highest", "scores"):
        values = comparison.runs[(comparison.runs["group"] == "All") & (comparison.runs["metric"] == "PQ")]
        assert value_of(comparison, a, "All", "PQ") == values["value"].max()
    else:
        assert clause.kind == "loses"
        assert lost(a, "All")[clause.cause] == max(lost(a, "All").values()) == clause.values[0]
    if clause.text and clause.kind not in ("better", "level"):
        assert all(percent(value, 1) in clause.text for value in clause.values)


QUALITIES = (0.55, 0.7, 0.72, 0.85)


@pytest.mark.parametrize("seed", range(12))
def test_every_clause_is_true_of_the_tables(seed):
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
        groups = [c.group for c in found.sentences[1] if {c.a, c.b} == set(order[:2])]
        assert sorted(groups) == ["Stuff", "Things"]


def test_two_models_that_differ_by_kind():
    models = {"fpn": (0.9, 0.5, 0.85), "mask": (0.55, 0.9, 0.85)}
    comparison, names, _ = compared(models, images=60)
    lost = {"fpn": {"missed": 0.02, "merged": 0.01}, "mask": {"missed": 0.2, "merged": 0.011}}
    text = verdict(comparison, names, lambda run, group: lost[run]).text()
    assert "MASK is better on stuff (+" in text or "FPN is better on things (+" in text
    assert ", FPN on things (+" in text or ", MASK on stuff (+" in text
    assert "On things FPN misses less (2.0 against 20.0 points of PQ), and its masks are no coarser (SQ " in text


def test_level_models_are_called_level_with_their_numbers():
    comparison, names, lost = compared({"a": (0.7, 0.7, 0.85), "b": (0.7, 0.7, 0.85)}, images=30)
    first = verdict(comparison, names, lost).sentences[0]
    assert [clause.kind for clause in first] == ["level"]
    values = " ".join(percent(value_of(comparison, clause, "All", "PQ"), 1) for clause in (first[0].a, first[0].b))
    assert first[0].text.startswith(
        f"{names[first[0].a]} and {names[first[0].b]} are level ({values.replace(' ', ', ')};"
    )


def test_few_images_tell_no_runs_apart():
    comparison, names, lost = compared({"a": (0.95, 0.95, 0.9), "b": (0.3, 0.3, 0.8)}, images=4)
    assert verdict(comparison, names, lost).text() == (
        f"A has the highest PQ ({percent(value_of(comparison, 'a', 'All', 'PQ'), 1)}), "
        "but 4 images are too few to tell runs apart."
    )


def test_runs_that_were_compared_with_one_only_are_set_against_that_one():
    models = {"base": (0.7, 0.7, 0.85), "good": (0.95, 0.95, 0.9), "like": (0.7, 0.7, 0.85), "bad": (0.3, 0.3, 0.8)}
    comparison, names, lost = compared(models, images=60, baseline="base")
    found = verdict(comparison, names, lost)
    for clause in found.clauses:
        check(comparison, lost, clause)
    text = found.text()
    assert text.startswith("GOOD has the highest PQ (")
    assert "Against BASE (" in text
    assert "GOOD is better; LIKE is level; BAD is worse." in text
