"""Each rule on recorded outputs, held against what its authors' own code made of them: every pixel."""

import dataclasses

import numpy as np
import pytest
import torch

from panbench.models.candidates import (
    NO_LABEL,
    Candidates,
    Frame,
    Instances,
    pair_candidates,
    sigmoid_candidates,
    softmax_candidates,
)
from panbench.models.rules import parse_rule, resize
from panbench.models.rules.detr import nearest_index
from tests.models.rules.conftest import FOLDER

ISTHING = (True,) * 80 + (False,) * 53
STUFF = tuple(range(80, 133))


@pytest.fixture(scope="module")
def queries(recorded) -> list[Candidates]:
    return softmax_candidates(*recorded, ISTHING)


@pytest.mark.parametrize(
    ("rule", "original"),
    [
        ("mask2former", "mask2former"),
        ("oneformer", "mask2former"),
        ("eomt", "transformers_eomt"),
        ("maskformer", "maskformer"),
        ("argmax", "pixelwise_argmax_weighted"),
        ("argmax:weighted=false", "pixelwise_argmax"),
        ("transformers", "transformers_mask2former"),
        ("transformers:score=0.8", "transformers_mask2former_t08"),
        ("transformers:processor=maskformer", "transformers_maskformer"),
    ],
)
def test_softmax_queries_equal_the_original_codes_maps(rule, original, queries, pixels_that_differ):
    assert pixels_that_differ(parse_rule(rule), queries, original) == [0] * 6


@pytest.mark.parametrize(("rule", "original"), [("detr", "detr"), ("detr:score=0.5", "detr_t05")])
def test_detr_equals_its_original_on_masks_without_padding(rule, original, queries, pixels_that_differ):
    replace = dataclasses.replace
    unpadded = [replace(each, frame=replace(each.frame, padded=each.frame.resized)) for each in queries]
    assert pixels_that_differ(parse_rule(rule), unpadded, original) == [0] * 6


@pytest.mark.parametrize(("temperature", "original"), [(0.06, "maskdino"), (None, "maskdino_no_transform")])
def test_mask_dino_equals_its_original_with_and_without_sharpened_scores(
    temperature, original, recorded, pixels_that_differ
):
    class_logits, mask_logits, frames = recorded
    candidates = sigmoid_candidates(class_logits[..., :-1] - 4, mask_logits, frames, ISTHING, temperature=temperature)
    assert pixels_that_differ(parse_rule("maskdino"), candidates, original) == [0] * 6


@pytest.fixture(scope="module")
def segformers() -> list[Candidates]:
    with np.load(FOLDER / "panoptic_segformer_inputs.npz") as stored:
        things, stuff = (torch.from_numpy(stored[f"{side}_mask_codes"]).float() / 64 for side in ("thing", "stuff"))
        size = (things.shape[-2], things.shape[-1])
        return [
            pair_candidates(
                torch.from_numpy(stored["thing_logits"][index]),
                things[index],
                torch.from_numpy(stored["stuff_logits"][index]),
                stuff[index],
                Frame(size, size, (int(original[0]), int(original[1]))),
                ISTHING,
            )
            for index, original in enumerate(stored["original"])
        ]


@pytest.mark.parametrize(
    ("rule", "original"), [("mask-wise", "panoptic_segformer"), ("mask-wise:quality=0.3", "panoptic_segformer_030")]
)
def test_panoptic_segformer_equals_its_original_merging(rule, original, segformers, pixels_that_differ):
    assert pixels_that_differ(parse_rule(rule), segformers, original) == [0] * 6


@pytest.fixture(scope="module")
def instances() -> list[Instances]:
    found = []
    with np.load(FOLDER / "panoptic_fpn_inputs.npz") as stored:
        for index in range(6):
            masks, scores, labels, semantic = (
                stored[f"in_{name}_{index}"] for name in ("masks", "scores", "classes", "semantic")
            )
            size = semantic.shape
            order = np.argsort(-scores, kind="stable")
            masks = np.unpackbits(masks, axis=2, count=size[1])[order]
            channels = torch.nn.functional.one_hot(torch.from_numpy(semantic).long(), 54).permute(2, 0, 1).float()
            of_each = tuple(labels[order].tolist()), tuple(scores[order].tolist())
            frame, of_channels = Frame(size, size, size), (NO_LABEL, *STUFF)
            found.append(Instances(None, torch.from_numpy(masks).float(), *of_each, channels, of_channels, frame))
    return found


@pytest.mark.parametrize(
    ("rule", "original"),
    [("panoptic-fpn", "panoptic_fpn_d2"), ("panoptic-fpn:score=0.05,stuff_area=256", "panoptic_fpn_d2_small")],
)
def test_the_rule_detectron2_equals_its_original(rule, original, instances, pixels_that_differ):
    assert pixels_that_differ(parse_rule(rule), instances, original) == [0] * 6


def test_rules_that_differ_give_maps_that_differ(queries, segformers, pixels_that_differ):
    """So that the zeros above say something."""
    assert sum(pixels_that_differ(parse_rule("maskformer"), queries, "mask2former")) > 1000
    assert sum(pixels_that_differ(parse_rule("transformers"), queries, "mask2former")) > 1000
    assert sum(pixels_that_differ(parse_rule("mask-wise"), segformers, "panoptic_segformer_030")) > 1000


def test_ids_collide_as_in_the_original(queries, answers):
    """transformers issue 23461: on scene 1 segments share ids, and there are fewer segments than were accepted."""
    assert [bool(answers[f"transformers_mask2former_collision_{index}"]) for index in range(6)] == [0, 1, 0, 0, 0, 0]
    own, upstream = parse_rule("mask2former:score=0.5"), parse_rule("transformers")
    assert len(upstream.to_segments(upstream.fuse(queries[1]))[1]) < len(own.to_segments(own.fuse(queries[1]))[1])


@pytest.mark.parametrize(
    "rule", ["mask2former", "detr", "mask-wise", "kmax", "argmax", "transformers", "maskformer:overlap=0"]
)
def test_blocks_of_one_mask_give_the_same_map(rule, queries, monkeypatch):
    rule = parse_rule(rule)
    whole = rule.to_segments(rule.fuse(queries[0]))
    monkeypatch.setattr(resize, "ELEMENTS_AT_ONCE", 1)
    monkeypatch.setattr("panbench.models.rules.transformers.ELEMENTS_AT_ONCE", 1)
    ids, segments = rule.to_segments(rule.fuse(queries[0]))
    assert len(segments) > 2
    # The softmax's denominator is added up in another order.
    assert (ids != whole[0]).mean() <= (1e-3 if rule.name == "kmax" else 0)


def test_nearest_neighbour_resizing_equals_pillows():
    from PIL import Image

    generator = np.random.default_rng(0)
    for _ in range(30):
        source, target = (tuple(generator.integers(1, 300, 2).tolist()) for _ in range(2))
        image = generator.integers(0, 256, source, np.uint8)
        expected = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.NEAREST))
        rows, columns = nearest_index(source, target, torch.device("cpu"))
        assert np.array_equal(image[rows.numpy(), columns.numpy()], expected)
