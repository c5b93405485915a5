"""Rules on scenes that a person can check by eye; for kmax there is no recorded original."""

import numpy as np
import pytest
import torch

from panbench.models.candidates import NO_LABEL, Candidates, Frame, NonFiniteOutput, softmax_candidates
from panbench.models.rules import RULES, parse_rule

THING, STUFF = 0, 1
ISTHING = (True, False)


def scene(rows: list[list[float]], labels: list[int], gate: list[float], activation: str = "sigmoid") -> Candidates:
    """Masks of one line of pixels, one row a candidate."""
    masks = torch.tensor(rows)[:, None, :]
    size = (1, masks.shape[-1])
    gates, frame = np.array(gate, np.float32), Frame(size, size, size)
    return Candidates(np.array(labels), gates, torch.tensor(gate), masks, frame, ISTHING, activation)


def fused(rule: str, candidates: Candidates) -> tuple[list[int], list[int]]:
    """The ids of the line of pixels, and the label of each segment."""
    ids, segments = parse_rule(rule).to_segments(parse_rule(rule).fuse(candidates))
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    return ids[0].tolist(), [segment.label for segment in segments]


def test_kmax_puts_confident_masks_first_and_leaves_uncertain_pixels_void():
    # Pixel by pixel the two queries share 1 : 0, 1 : 0, ½ : ½, 0 : 1, 0 : 1.
    line = scene([[9, 9, 0, -9, -9], [-9, -9, 0, 9, 9.0]], [THING, THING], [0.8, 0.9])
    assert fused("kmax:free=0.5", line) == ([1, 1, 2, 2, 2], [THING, THING]), "the half pixel goes to the surer one"
    assert fused("kmax", line) == ([0, 0, 1, 1, 1], [THING]), "of the other only two thirds are free"
    assert fused("kmax:pixel=0.6", line) == ([1, 1, 0, 2, 2], [THING, THING])


def test_kmax_drops_a_mask_of_which_too_little_is_free():
    # All five pixels are shared; the second query's whole mask is covered by the first's.
    line = scene([[0, 0, 0, 0, 0.0], [0, 0, 0, -9, -9]], [THING, THING], [0.9, 0.8])
    assert fused("kmax", line) == ([1, 1, 1, 1, 1], [THING])


def test_kmax_has_a_higher_threshold_for_things_and_joins_stuff():
    line = scene([[9, 9, -9, -9], [-9, -9, 9, -9.0], [-9, -9, -9, 9]], [STUFF, THING, STUFF], [0.6, 0.6, 0.55])
    assert fused("kmax", line) == ([1, 1, 0, 1], [STUFF])


def test_kmax_takes_the_best_class_even_if_no_object_is_likelier():
    class_logits = torch.log(torch.tensor([[[0.42, 0.13, 0.45]]]))
    size = Frame((1, 2), (1, 2), (1, 2))
    usual = softmax_candidates(class_logits, torch.ones(1, 1, 1, 2), [size], ISTHING)
    kmax = softmax_candidates(class_logits, torch.ones(1, 1, 1, 2), [size], ISTHING, nothing_wins=False)
    assert usual[0].labels.tolist() == [NO_LABEL]
    assert kmax[0].labels.tolist() == [THING]
    assert fused("kmax:things=0.4", kmax[0]) == ([1, 1], [THING])


def test_mask_wise_orders_by_score_times_quality_squared():
    # 0.9 × 0.6² = 0.32 < 0.8 × 0.9² = 0.65: the second is painted first, and covers half of the first.
    line = scene([[0.6] * 80, [0.0] * 40 + [0.9] * 40], [THING, THING], [0.9, 0.8], "identity")
    assert fused("mask-wise:overlap_things=0.5", line)[0] == [2] * 40 + [1] * 40
    assert fused("mask-wise", line)[0] == [0] * 40 + [1] * 40, "a thing may be covered up to 40 %"


def test_argmax_leaves_no_pixel_void_and_drops_nothing():
    line = scene([[1, -1, -3], [0, -2, -2.0]], [THING, STUFF], [0.9, 0.9])
    assert fused("argmax", line) == ([1, 1, 2], [THING, STUFF])
    assert fused("mask2former", line) == ([1, 0, 0], [THING])


def test_argmax_weights_by_score_by_default():
    line = scene([[0.2], [0.0]], [THING, STUFF], [0.86, 0.99])
    assert fused("argmax", line)[1] == [STUFF]
    assert fused("argmax:weighted=false", line)[1] == [THING]


def test_detr_gives_the_pixels_of_tiny_segments_to_others():
    line = scene([[5.0] * 8, [-9] * 7 + [9], [4.0] * 8], [THING, THING, STUFF], [0.9] * 3)
    assert fused("detr", line) == ([1] * 8, [THING])
    assert fused("detr:small=0", line) == ([1] * 7 + [2], [THING, THING])


def test_a_rule_with_its_own_gate_admits_candidates_that_compete_by_weight():
    line = scene([[9.0, 9.0], [9.0, 9.0]], [THING, STUFF], [0.3, 0.9])
    sharpened = Candidates(line.labels, line.gate, torch.tensor([0.99, 0.5]), line.masks, line.frame, ISTHING)
    assert fused("maskdino:overlap=0", line)[1] == [STUFF]
    assert fused("maskdino:overlap=0", sharpened)[1] == [THING]


QUERY_RULES = [name for name, rule in RULES.items() if rule.takes is Candidates]


@pytest.mark.parametrize("name", QUERY_RULES)
def test_an_image_in_which_nothing_is_found_is_void(name):
    nothing = scene([[9.0, 9.0]], [NO_LABEL], [1.0])
    assert fused(name, nothing) == ([0, 0], [])
    assert fused(name, scene([[9.0, 9.0]], [THING], [0.0])) == ([0, 0], [])


@pytest.mark.parametrize("name", QUERY_RULES)
def test_every_rule_refuses_nan_masks(name):
    broken = scene([[9.0, float("nan")]], [THING], [1.0])
    with pytest.raises(NonFiniteOutput):
        fused(name, broken)


@pytest.mark.parametrize("name", QUERY_RULES)
def test_stuff_is_decided_by_the_table_and_not_by_label_order(name):
    line = scene([[9, 9, 9, 9, 9, -9, -9, -9, -9, -9], [-9, -9, -9, -9, -9, 9, 9, 9, 9, 9.0]], [0, 0], [0.95, 0.95])
    turned = Candidates(line.labels, line.gate, line.weight, line.masks, line.frame, (False, True))
    assert len(fused(name, line)[1]) == 2
    # DETR and transformers decide in their own ways, but all join stuff of one class.
    assert len(fused(name, turned)[1]) == 1
