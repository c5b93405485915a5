import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table, summarise
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.rules import parse_rule
from panbench.models.rules.base import SegmentedMap
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Category, PanopticPrediction, Segment
from panbench.studies.fusing.oracle import STEPS, oracle_maps

CATEGORIES = (Category(11, "cat", True), Category(12, "dog", True), Category(90, "grass", False))
IDS = (11, 12, 90)
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


def settled(output: Candidates | Instances, rule) -> SegmentedMap:
    return rule.to_segments(rule.fuse(output).to_host())


def predicted(fused: SegmentedMap) -> PanopticPrediction:
    return PanopticPrediction(0, fused[0], tuple(Segment(one.id, IDS[one.label], one.area) for one in fused[1]))


def steps(output: Candidates | Instances, rule=RULE) -> dict[str, float]:
    """PQ of the rule and of each step."""
    ids, segments = truth()
    fused = settled(output, rule)
    maps = oracle_maps(output, fused, IDS, ids, segments)
    assert tuple(maps) == STEPS
    return {"rule": pq(predicted(fused)), **{step: pq(prediction) for step, prediction in maps.items()}}


def masks_of_truth() -> list[np.ndarray]:
    ids, segments = truth()
    return [ids == segment.id for segment in segments]


def test_the_labels_step_corrects_a_wrong_label():
    scores = steps(candidates(masks_of_truth(), [0, 1, 2], [0.9, 0.9, 0.9]))
    assert scores["rule"] < 1
    assert scores["labels"] == scores["all"] == pytest.approx(1.0)
    assert scores["order"] == scores["rule"]


def test_the_selection_step_finds_a_dropped_mask():
    scores = steps(candidates(masks_of_truth(), [0, 0, 2], [0.9, 0.3, 0.9]))
    assert scores["rule"] < 1
    assert scores["labels"] == scores["rule"]
    assert scores["selection"] == scores["all"] == pytest.approx(1.0)


def test_the_order_step_resolves_overlaps():
    left, right, grass = masks_of_truth()
    wide = left.copy()
    wide[2:8, 2:9] = True
    scores = steps(candidates([wide, right, grass], [0, 0, 2], [0.95, 0.9, 0.9]), parse_rule("mask2former:overlap=0.5"))
    assert scores["rule"] < 1
    assert scores["order"] == pytest.approx(1.0)
    assert scores["all"] == pytest.approx(1.0)


def test_no_step_finds_an_object_without_a_mask():
    scores = steps(candidates(masks_of_truth()[2:], [2], [0.9]))
    assert max(scores.values()) == pytest.approx(0.5)


def test_an_empty_output_has_empty_maps():
    output = candidates([np.zeros((12, 16), np.bool_)], [0], [0.1])
    assert set(steps(output).values()) == {0.0}


def test_the_steps_work_for_boxes_and_stuff():
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


OTHERS = tuple(map(parse_rule, ("maskformer", "argmax", "detr", "mask-wise", "maskdino")))


def soft_scene(seed: int) -> tuple[Candidates, np.ndarray, list[Segment]]:
    """Up to five rectangles as truth, and candidates that are the same ones shifted, softened and mislabelled."""
    random = np.random.default_rng(seed)
    ids = np.zeros((12, 16), np.int32)

    def rectangle() -> np.ndarray:
        top, left = random.integers(0, 9), random.integers(0, 12)
        mask = np.zeros((12, 16), np.bool_)
        mask[top : top + random.integers(2, 8), left : left + random.integers(2, 10)] = True
        return mask

    masks, labels, segments = [], [], []
    for number in range(1, random.integers(2, 6)):
        mask = rectangle()
        ids[mask] = number
        label = int(random.integers(0, 3))
        segments.append(Segment(number, IDS[label], 0))
        for _ in range(random.integers(1, 3)):
            masks.append(np.roll(mask, random.integers(-1, 2, 2), (0, 1)))
            labels.append(label if random.random() < 0.8 else int(random.integers(0, 3)))
    masks += [rectangle() for _ in range(2)]
    labels += [0, 2]
    segments = [replace(each, area=int((ids == each.id).sum())) for each in segments if (ids == each.id).any()]
    logits = torch.from_numpy(np.stack(masks).astype(np.float32) * 4 - 2 + random.normal(0, 1.5, (len(masks), 12, 16)))
    gate = random.uniform(0.3, 1, len(masks)).astype(np.float32)
    return (
        Candidates(np.array(labels), gate, torch.from_numpy(gate.copy()), logits.float(), FRAME, (True, True, False)),
        ids,
        segments,
    )


def found_in(ids: np.ndarray, segments: list[Segment], prediction: PanopticPrediction) -> tuple[dict[int, float], int]:
    """The IoU of each true segment that is matched, counted pixel by pixel, and the number of false positives."""
    matched, false = {}, 0
    for one in prediction.segments:
        mask = prediction.ids == one.id
        on_void = mask & (ids == 0)
        for segment in segments:
            true = ids == segment.id
            iou = (mask & true).sum() / ((mask | true) & ~on_void).sum()
            if iou > 0.5 and segment.category_id == one.category_id:
                matched[segment.id] = iou
                break
        else:
            false += on_void.sum() <= 0.5 * mask.sum()
    return matched, false


@pytest.mark.parametrize("rule", [RULE, *OTHERS], ids=str)
def test_no_rule_finds_more_than_the_oracle_in_any_image(rule):
    """Of each of 50 scenes: whatever a rule matches is matched, as well at least, and nothing beside it is painted."""
    found = 0
    for seed in range(50):
        output, ids, segments = soft_scene(seed)
        maps = {str(each): settled(output, each) for each in (rule, RULE, *OTHERS)}
        others = [made for name, made in maps.items() if name != str(rule)]
        made = oracle_maps(output, maps[str(rule)], IDS, ids, segments, others=others)
        best, false = found_in(ids, segments, made["all"])
        assert false == 0, seed
        compared = {**{name: predicted(one) for name, one in maps.items()}, **made}
        for name, prediction in compared.items():
            for segment, iou in found_in(ids, segments, prediction)[0].items():
                assert best.get(segment, 0) >= iou - 1e-12, (seed, name)
                found += 1
    assert found > 250


@pytest.mark.parametrize("step", STEPS)
def test_no_step_of_the_oracle_is_worse_than_the_rule_in_any_image(step):
    better = 0
    for seed, rule in itertools.product(range(30), (RULE, *OTHERS)):
        output, ids, segments = soft_scene(seed)
        fused = settled(output, rule)
        before, false_before = found_in(ids, segments, predicted(fused))
        after, false_after = found_in(ids, segments, oracle_maps(output, fused, IDS, ids, segments)[step])
        assert false_after <= false_before, (seed, str(rule))
        assert all(after.get(segment, 0) >= iou - 1e-12 for segment, iou in before.items()), (seed, str(rule))
        better += after != before or false_after < false_before
    assert better > 5


def test_every_segment_of_the_oracle_is_part_of_one_mask_or_segment_of_a_rule():
    """Else it would be no map that a fusion could have made."""
    for seed in range(50):
        output, ids, segments = soft_scene(seed)
        others = [settled(output, each) for each in OTHERS]
        fused = settled(output, RULE)
        made = oracle_maps(output, fused, IDS, ids, segments, others=others)
        shapes = list((output.masks.sigmoid() >= 0.5).numpy())
        shapes += [drawn == one.id for drawn, listed in (fused, *others) for one in listed]
        shapes += [made["order"].ids == one.id for one in made["order"].segments]
        for one in made["all"].segments:
            mask = made["all"].ids == one.id
            assert any((mask & ~shape).sum() == 0 for shape in shapes), seed


def test_a_mask_that_matches_nothing_is_dropped():
    """It was painted for the segment that it fits best: a false positive beside the miss."""
    left, right, grass = masks_of_truth()
    sliver = left & (np.arange(16) < 4)[None]
    assert sliver.sum() / left.sum() == 0.4
    output = candidates([sliver, right, grass], [0, 0, 2], [0.9, 0.9, 0.9])
    ids, segments = truth()
    made = oracle_maps(output, settled(output, RULE), IDS, ids, segments)
    for step in ("selection", "all"):
        assert sorted(one.category_id for one in made[step].segments) == [11, 90]


def test_the_oracle_may_use_a_segment_of_another_rule():
    """MaskFormer's rule keeps pixels of which the winner is less than half sure."""
    left, right, grass = masks_of_truth()
    unsure = candidates([left, right, grass], [0, 0, 2], [0.9, 0.9, 0.9])
    unsure.masks[1] = torch.from_numpy(np.where(right & (np.arange(16) < 9)[None], 8.0, np.where(right, -0.2, -8.0)))
    unsure.masks[2] = unsure.masks[2] - 4
    rule = parse_rule("maskformer:overlap=0")
    scores = steps(unsure, rule)
    assert scores["rule"] == scores["all"] == pytest.approx(1.0)
    assert steps(unsure, parse_rule("mask2former:overlap=0"))["all"] < 1.0


PIXELS = 7


def line_scene(seed: int) -> tuple[Candidates, np.ndarray, list[Segment]]:
    """Seven pixels in a line, two or three true segments, and four masks of one label each that cover stretches."""
    random = np.random.default_rng(seed)
    ends = np.sort(random.choice(np.arange(2, PIXELS - 1), random.integers(1, 3), replace=False))
    ids = 1 + np.searchsorted(ends, np.arange(PIXELS), side="right").astype(np.int32)[None]
    segments = [Segment(int(one), 20 + int(one), int((ids == one).sum())) for one in np.unique(ids)]
    masks = np.zeros((4, 1, PIXELS), np.bool_)
    for mask in masks:
        start = random.integers(0, PIXELS - 1)
        mask[0, start : start + random.integers(2, 6)] = True
    logits = torch.from_numpy(np.where(masks, random.uniform(1, 6, masks.shape), -8.0).astype(np.float32))
    gate = random.uniform(0.5, 1, len(masks)).astype(np.float32)
    frame = Frame((1, PIXELS), (1, PIXELS), (1, PIXELS))
    output = Candidates(np.arange(4), gate, torch.from_numpy(gate.copy()), logits, frame, (True,) * 4)
    return output, ids, segments


def best_of_all(output: Candidates, ids: np.ndarray, segments: list[Segment]) -> float:
    """Σ IoU of the best map that these masks allow, of all ways to give each pixel to a true segment or to nothing.

    A way counts if what each segment is given lies within one mask; what matches nothing is left out.
    """
    covers = output.masks.numpy().reshape(len(output.masks), PIXELS) > 0
    true = np.stack([ids.ravel() == one.id for one in segments])
    ways = np.array(list(itertools.product(range(len(segments) + 1), repeat=PIXELS)))
    total = np.zeros(len(ways))
    allowed = np.ones(len(ways), np.bool_)
    for place, of_true in enumerate(true):
        given = ways == place
        allowed &= (~given[:, None] | covers[None]).all(axis=2).any(axis=1)
        iou = (given & of_true).sum(axis=1) / (given | of_true).sum(axis=1)
        total += np.where(iou > 0.5, iou, 0.0)
    return float(total[allowed].max())


def test_on_tiny_scenes_the_oracle_is_between_the_rule_and_the_best_of_all_maps():
    """'At least': the oracle is a map between the rule's and the best one, found by trying all."""
    category_ids = (21, 22, 23, 24)
    totals = np.zeros(4)
    for seed in range(30):
        output, ids, segments = line_scene(seed)
        fused = settled(output, RULE)
        drawn = PanopticPrediction(0, fused[0], tuple(Segment(s.id, category_ids[s.label], s.area) for s in fused[1]))
        made = oracle_maps(output, fused, category_ids, ids, segments)
        sums = [sum(found_in(ids, segments, one)[0].values()) for one in (drawn, made["labels"], made["all"])]
        sums.append(best_of_all(output, ids, segments))
        assert (np.diff(sums) >= -1e-12).all(), (seed, sums)
        totals += sums
    # Neither is the oracle the rule's map, nor is it a bound: the best map finds more, here an eighth.
    assert (np.diff(totals) > 0).all()
    assert 1.1 < totals[3] / totals[2] < 1.15
