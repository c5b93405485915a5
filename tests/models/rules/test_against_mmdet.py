"""Rules against mmdet's own fusion heads, on planted outputs. tests/models/mmdet/test_model.py runs whole models."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from panbench.models.candidates import NO_LABEL, Candidates, Frame, Instances, NonFiniteOutput, softmax_candidates
from panbench.models.mmdet import operators
from panbench.models.rules import resize
from panbench.models.rules.compete import Mask2Former, MaskFormer, candidates_above
from panbench.models.rules.panoptic_fpn import PanopticFPN
from panbench.models.rules.resize import neighbourhood_extreme, possible_winning_channels, semantic_argmax, upsample

operators.install()

NUM_THINGS, NUM_STUFF = 3, 10
NUM_CLASSES = NUM_THINGS + NUM_STUFF
ISTHING = (True,) * NUM_THINGS + (False,) * NUM_STUFF


def fused_by(rule, output):
    """The id map and segments of one output."""
    return rule.to_segments(rule.fuse(output))


def sure_candidates(scores: list[float], labels: list[int], masks: torch.Tensor, frame: Frame, isthing=ISTHING):
    return Candidates(np.array(labels), np.array(scores, np.float32), torch.tensor(scores), masks, frame, isthing)


def smooth(generator: torch.Generator, *shape: int, scale: float = 6.0) -> torch.Tensor:
    """Logits in blobs, as models give them, so that masks overlap and compete."""
    coarse = torch.randn(*shape[:-2], 5, 6, generator=generator) * scale
    return F.interpolate(coarse.reshape(1, -1, 5, 6), size=shape[-2:], mode="bicubic").reshape(shape)


def as_partition(ids: np.ndarray, segments) -> list[tuple[int, bytes]]:
    """The segments as (label, mask), in an order that does not depend on their ids."""
    return sorted((segment.label, (ids == segment.id).tobytes()) for segment in segments)


def mmdets_partition(panoptic: np.ndarray) -> list[tuple[int, bytes]]:
    return sorted(
        (int(value) % 1000, (panoptic == value).tobytes()) for value in np.unique(panoptic) if value != NUM_CLASSES
    )


FRAMES = [
    Frame((64, 96), (64, 96), (64, 96)),
    Frame((64, 96), (60, 90), (60, 90)),
    Frame((64, 96), (60, 90), (120, 181)),
    Frame((64, 96), (64, 80), (33, 41)),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: "-".join(map(str, frame.original)))
@pytest.mark.parametrize(("drop", "threshold"), [(True, 0.8), (False, 0.5)])
def test_queries_merge_as_in_mmdet(frame: Frame, drop: bool, threshold: float):
    from mmdet.models.seg_heads import MaskFormerFusionHead
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(3)
    test_cfg = {"object_mask_thr": threshold, "iou_thr": 0.3, "filter_low_score": drop}
    head = MaskFormerFusionHead(NUM_THINGS, NUM_STUFF, test_cfg=test_cfg)
    rule = (Mask2Former if drop else MaskFormer)(score=threshold, overlap=0.3)
    kept = 0
    for _ in range(6):
        class_logits = torch.randn(2, 30, NUM_CLASSES + 1, generator=generator) * 3
        mask_logits = smooth(generator, 2, 30, 16, 24)
        upsampled = F.interpolate(mask_logits, size=frame.padded, mode="bilinear", align_corners=False)
        samples = [DetDataSample(metainfo={"img_shape": frame.resized, "ori_shape": frame.original})] * 2
        expected = head.predict(class_logits, upsampled, samples, rescale=True)
        for candidates, result in zip(
            softmax_candidates(class_logits, mask_logits, [frame, frame], ISTHING), expected, strict=True
        ):
            ids, segments = fused_by(rule, candidates)
            assert ids.shape == frame.original
            assert as_partition(ids, segments) == mmdets_partition(result["pan_results"].sem_seg[0].numpy())
            kept += len(segments)
    assert kept > 12, "the planted outputs must leave segments to compare"


def test_queries_in_many_blocks_give_the_same_map(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rule = Mask2Former(score=0.2, overlap=0.1)
    frame = FRAMES[2]
    class_logits = torch.randn(1, 30, NUM_CLASSES + 1, generator=generator) * 3
    mask_logits = smooth(generator, 1, 30, 16, 24)
    (candidates,) = softmax_candidates(class_logits, mask_logits, [frame], ISTHING)
    assert len(candidates_above(candidates, rule.score)) > 8
    whole = rule.fuse(candidates)
    monkeypatch.setattr(resize, "ELEMENTS_AT_ONCE", 3 * 120 * 181)
    parts = rule.fuse(candidates)
    assert torch.equal(whole.codes, parts.codes)
    assert torch.equal(whole.mask_areas, parts.mask_areas)


@pytest.mark.parametrize("count", [200, 300])
def test_more_than_255_queries_stay_distinct(count: int):
    """Each query claims its own pixel; beyond 254 candidates codes need two bytes."""
    masks = torch.full((count, 20, 20), -20.0)
    masks.view(count, -1)[torch.arange(count), torch.arange(count)] = 20.0
    frame = Frame((20, 20), (20, 20), (20, 20))
    candidates = sure_candidates([0.9] * count, [0] * count, masks, frame, (True,))
    ids, segments = fused_by(Mask2Former(score=0.5, overlap=0.5), candidates)
    assert len(segments) == count
    assert (np.unique(ids[ids > 0], return_counts=True)[1] == 1).all()
    assert (ids == 0).sum() == 400 - count


def test_stuff_of_one_class_is_one_segment_and_scores_its_best_query():
    masks = torch.full((3, 4, 6), -9.0)
    masks[0, :, :2], masks[1, :, 2:4], masks[2, :, 4:] = 9.0, 9.0, 9.0
    frame = Frame((4, 6), (4, 6), (4, 6))
    candidates = sure_candidates([0.6, 0.9, 0.7], [5, 0, 5], masks, frame)
    ids, segments = fused_by(Mask2Former(score=0.5), candidates)
    np.testing.assert_array_equal(ids, [[1, 1, 2, 2, 1, 1]] * 4)
    assert [(s.label, s.area) for s in segments] == [(5, 16), (0, 8)]
    assert [s.score for s in segments] == [float(np.float32(0.7)), float(np.float32(0.9))]


def test_an_image_without_queries_is_all_void():
    frame = FRAMES[2]
    rule = Mask2Former()
    logits = torch.zeros(1, 4, NUM_CLASSES + 1)
    (candidates,) = softmax_candidates(logits, torch.zeros(1, 4, 8, 8), [frame], ISTHING)
    ids, segments = fused_by(rule, candidates)
    assert segments == ()
    assert ids.shape == frame.original
    assert not ids.any()


def test_nan_outputs_are_refused():
    frame = FRAMES[0]
    rule = Mask2Former(score=0.1, overlap=0.1)
    logits = torch.zeros(1, 4, NUM_CLASSES + 1)
    logits[0, 0, 2] = 9.0
    masks = torch.zeros(1, 4, 16, 24)
    with pytest.raises(NonFiniteOutput, match="class logits"):
        softmax_candidates(logits * torch.nan, masks, [frame], ISTHING)
    masks[0, 0, 3, 3] = torch.inf
    (candidates,) = softmax_candidates(logits, masks, [frame], ISTHING)
    with pytest.raises(NonFiniteOutput, match="mask logits"):
        fused_by(rule, candidates)


def planted_instances(generator: torch.Generator, frame: Frame, count: int):
    height, width = frame.original
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    size = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner - size / 2, corner + size / 2], dim=1)
    boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
    masks = smooth(generator, max(count, 1), 28, 28, scale=3)[:count].sigmoid()
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, NUM_THINGS, (count,), generator=generator)
    return boxes, masks, scores, labels


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: "-".join(map(str, frame.original)))
@pytest.mark.parametrize("count", [0, 1, 12])
def test_instances_and_stuff_merge_as_in_mmdet(frame: Frame, count: int):
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.seg_heads import HeuristicFusionHead
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(5 + count)
    rule = PanopticFPN(score=0.0, overlap=0.5, stuff_area=60)
    test_cfg = ConfigDict(mask_overlap=rule.overlap, stuff_area_limit=rule.stuff_area)
    head = HeuristicFusionHead(NUM_THINGS, NUM_STUFF, test_cfg=test_cfg)
    mask_head = FCNMaskHead(num_convs=0, num_classes=1, class_agnostic=True, in_channels=1, conv_out_channels=1)
    for _ in range(4):
        boxes, masks, scores, labels = planted_instances(generator, frame, count)
        semantic = smooth(generator, NUM_STUFF + 1, 16, 24)
        found = InstanceData(bboxes=boxes.clone(), scores=scores, labels=labels)
        meta = {"ori_shape": frame.original, "scale_factor": (1.0, 1.0)}
        found.masks = (
            mask_head._predict_by_feat_single(
                torch.logit(masks)[:, None], boxes.clone(), labels, meta, ConfigDict(mask_thr_binary=0.5), rescale=True
            )
            if count
            else torch.zeros((0, *frame.original), dtype=torch.bool)
        )
        upsampled = upsample(semantic, frame)
        expected = head._predict_single(found, upsampled).sem_seg[0].numpy()
        order = torch.argsort(-scores)
        of_each = tuple(labels[order].tolist()), tuple(scores[order].tolist())
        channels = (*range(NUM_THINGS, NUM_CLASSES), NO_LABEL)
        instances = Instances(boxes[order], torch.logit(masks)[order].sigmoid(), *of_each, semantic, channels, frame)
        ids, segments = fused_by(rule, instances)
        assert as_partition(ids, segments) == mmdets_partition(expected)
        assert [segment.area for segment in segments] == [int((ids == segment.id).sum()) for segment in segments]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: "-".join(map(str, frame.original)))
def test_semantic_channels_left_out_of_stored_outputs_win_no_pixel(frame: Frame):
    generator = torch.Generator().manual_seed(1)
    logits = smooth(generator, 40, 16, 24)
    logits[10:] -= 12.0
    possible = possible_winning_channels(logits)
    assert possible is not None
    assert 2 <= len(possible) < 40, "some channels must be ruled out for this to show anything"
    assert torch.equal(semantic_argmax(logits, frame), upsample(logits, frame).argmax(dim=0))


def test_a_semantic_channel_that_wins_only_after_upsampling_is_stored():
    """Of two neighbours, one prefers channel 0, the other channel 1; half way between them channel 2 is highest."""
    logits = torch.full((8, 1, 2), -5.0)
    logits[0, 0], logits[1, 0], logits[2, 0] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor(0.9)
    assert not (logits.argmax(dim=0) == 2).any()
    assert possible_winning_channels(logits).tolist() == [0, 1, 2]
    assert (semantic_argmax(logits, Frame((4, 8), (4, 8), (4, 8))) == 2).any()


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (5, 7)])
def test_extremes_of_3x3_neighbourhoods_equal_max_pooling(size: tuple[int, int]):
    maps = torch.randn(4, *size, generator=torch.Generator().manual_seed(5))
    maps[0, 0, 0] = torch.nan
    highest = F.max_pool2d(maps[None], 3, stride=1, padding=1)[0]
    lowest = -F.max_pool2d(-maps[None], 3, stride=1, padding=1)[0]
    for extreme, expected in ((torch.maximum, highest), (torch.minimum, lowest)):
        assert torch.equal(neighbourhood_extreme(maps, extreme).nan_to_num(7.0), expected.nan_to_num(7.0))
