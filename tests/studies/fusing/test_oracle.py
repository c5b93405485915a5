import numpy as np
import pytest
import torch

from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table, summarise
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.rules import parse_rule
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Category, PanopticPrediction, Segment
from panbench.studies.fusing.oracle import STEPS, oracle_maps

CATEGORIES = (Category(11, "cat", True), Category(12, "dog", True), Category(90, "grass", False))
IDS = (11, 12, 90)
ISTHING = {category.id: category.isthing for category in CATEGORIES}
FRAME = Frame((12, 16), (12, 16), (12, 16))
RULE = parse_rule("mask2former")


def truth() -> tuple[np.ndarray, list[Segment]]:
    """Two cats side by side on grass."""
    ids = np.full((12, 16), 300, np.int32)
    ids[2:8, 2:7] = 70000
    ids[2:8, 7:13] = 5
    return ids, [Segment(70000, 11, 30), Segment(5, 11, 36), Segment(300, 90, int((ids == 300).sum()))]


def candidates(masks: list[np.ndarray], labels: list[int], scores: list[float]) -> Candidates:
    logits = torch.from_numpy(np.where(np.stack(masks), 8.0, -8.0).astype(np.float32))
    gate = np.array(scores, np.float32)
    return Candidates(np.array(labels), gate, torch.from_numpy(gate.copy()), logits, FRAME, (True, True, False))


def pq(prediction: PanopticPrediction) -> float:
    ids, segments = truth()
    table = overlap_table(0, ids, segments, prediction.ids, prediction.segments)
    return summarise(pq_table(Matched.of(table), CATEGORIES))["All"]["PQ"]


def steps(output: Candidates | Instances, rule=RULE) -> dict[str, float]:
    """PQ of the rule and of each step."""
    ids, segments = truth()
    fused = rule.settle(rule.fuse(output).to_host())
    own = PanopticPrediction(
        0, fused[0], tuple(Segment(one.id, IDS[one.label], one.area, score=one.score) for one in fused[1])
    )
    maps = oracle_maps(output, fused, IDS, ids, segments, ISTHING, rule=rule)
    assert tuple(maps) == STEPS
    return {"rule": pq(own), **{step: pq(prediction) for step, prediction in maps.items()}}


def masks_of_truth() -> list[np.ndarray]:
    ids, segments = truth()
    return [ids == segment.id for segment in segments]


def test_a_wrong_label_is_what_the_labels_step_mends():
    scores = steps(candidates(masks_of_truth(), [0, 1, 2], [0.9, 0.9, 0.9]))
    assert scores["rule"] < 1
    assert scores["labels"] == scores["all"] == pytest.approx(1.0)
    assert scores["order"] == scores["rule"]


def test_a_mask_that_was_dropped_is_what_the_selection_step_finds():
    scores = steps(candidates(masks_of_truth(), [0, 0, 2], [0.9, 0.3, 0.9]))
    assert scores["rule"] < 1
    assert scores["labels"] == scores["rule"]
    assert scores["selection"] == scores["all"] == pytest.approx(1.0)


def test_overlaps_are_what_the_order_step_resolves():
    left, right, grass = masks_of_truth()
    wide = left.copy()
    wide[2:8, 2:9] = True
    scores = steps(candidates([wide, right, grass], [0, 0, 2], [0.95, 0.9, 0.9]), parse_rule("mask2former:overlap=0.5"))
    assert scores["rule"] < 1
    assert scores["order"] == pytest.approx(1.0)
    assert scores["all"] == pytest.approx(1.0)


def test_masks_that_are_not_there_are_beyond_every_step():
    scores = steps(candidates(masks_of_truth()[2:], [2], [0.9]))
    assert max(scores.values()) == pytest.approx(0.5)


def test_an_empty_answer_has_empty_maps():
    output = candidates([np.zeros((12, 16), np.bool_)], [0], [0.1])
    assert set(steps(output).values()) == {0.0}


def test_boxes_and_stuff_have_the_same_steps():
    _, _, grass = masks_of_truth()
    instances = Instances(
        boxes=torch.tensor([[2.0, 2.0, 7.0, 8.0], [7.0, 2.0, 13.0, 8.0]]),
        masks=torch.ones((2, 28, 28)),
        labels=(0, 1),
        scores=(0.9, 0.3),
        semantic_logits=torch.from_numpy(np.stack([grass, ~grass]).astype(np.float32)),
        semantic_labels=(2, -1),
        frame=FRAME,
    )
    scores = steps(instances, parse_rule("panoptic-fpn:stuff-area=1"))
    # The second cat has too low a score and the wrong label.
    assert scores["rule"] < scores["all"] == pytest.approx(1.0)
