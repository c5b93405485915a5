import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from panbench.base.errors import BadRun
from panbench.models.candidates import Candidates, FinishedMap, Frame, Instances
from panbench.models.keeping import CandidateKeeper
from panbench.models.predict import scene_of
from panbench.models.rules import parse_rule
from panbench.models.rules.base import Rule, SettledMap
from panbench.models.stored import LOW_GATE, StoredOutputs, decode, encode, write_block

FRAME = Frame(padded=(128, 160), resized=(120, 160), original=(96, 128))


def queries(seed: int, count: int = 12) -> Candidates:
    """Smooth random masks, so that many boundaries are near ties."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, 5, 6), generator=random) * 3
    masks = torch.nn.functional.interpolate(coarse[None], size=(32, 40), mode="bicubic")[0]
    gate = torch.rand(count, generator=random).numpy().astype(np.float32)
    gate[:6] = 0.85 + gate[:6] / 10
    labels = np.arange(count) % 4
    return Candidates(labels, gate, torch.from_numpy(gate.copy()), masks, FRAME, (True, True, False, False))


def boxes(seed: int, count: int = 8) -> Instances:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=random) * 60
    extent = 10 + torch.rand((count, 2), generator=random) * 40
    scores = sorted(torch.rand(count, generator=random).tolist(), reverse=True)
    return Instances(
        boxes=torch.cat([corner, corner + extent], dim=1),
        masks=torch.rand((count, 28, 28), generator=random),
        labels=tuple(number % 3 for number in range(count)),
        scores=tuple(scores),
        semantic_logits=torch.nn.functional.interpolate(
            torch.randn((1, 5, 6, 7), generator=random) * 2, size=(32, 40), mode="bicubic"
        )[0],
        semantic_labels=(3, 4, 5, 6, -1),
        frame=FRAME,
    )


def settled(output: Candidates | Instances, rule: Rule) -> SettledMap:
    return rule.settle(rule.fuse(output).to_host())


def stored(output: Candidates | Instances, rule: Rule, **options: object) -> Candidates | Instances:
    encoded = encode(output, rule, **options)
    return decode(encoded.header, encoded.payload)


@pytest.mark.parametrize("one_step", [False, True])
def test_how_masks_are_brought_to_size_is_stored_with_them(one_step):
    output, rule = queries(0), parse_rule("mask-wise")
    output = replace(output, frame=replace(output.frame, one_step=one_step))
    again = stored(output, rule)
    assert again.frame == output.frame
    assert settled(again, rule)[1] == settled(output, rule)[1]
    np.testing.assert_array_equal(settled(again, rule)[0], settled(output, rule)[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", ["mask2former", "maskformer", "mask2former:score=0.02,overlap=0.5"])
def test_the_default_rule_makes_the_same_map_from_stored_queries(seed, rule):
    output, default = queries(seed), parse_rule(rule)
    ids, segments = settled(stored(output, default), default)
    expected_ids, expected_segments = settled(output, default)
    assert np.array_equal(ids, expected_ids)
    assert segments == expected_segments


@pytest.mark.parametrize("seed", range(6))
def test_the_default_rule_makes_the_same_map_from_stored_instances(seed):
    output, default = boxes(seed), parse_rule("panoptic-fpn:stuff-area=64")
    ids, segments = settled(stored(output, default), default)
    expected_ids, expected_segments = settled(output, default)
    assert np.array_equal(ids, expected_ids)
    assert segments == expected_segments


def test_half_precision_alone_changes_pixels_and_says_how_many():
    # Two masks that differ by less than half precision tells: the winner is decided by what exactness keeps.
    output = queries(0, count=2)
    masks = output.masks[:1].repeat(2, 1, 1) + 4
    masks[1] += 1e-4
    close = Candidates(
        np.array([0, 1]),
        np.array([0.9, 0.9], np.float32),
        torch.tensor([0.9, 0.9]),
        masks,
        FRAME,
        output.isthing,
    )
    rule = parse_rule("maskformer:overlap=0")
    expected = settled(close, rule)[0]
    coarse = encode(close, rule, exact=False)
    changed = int((settled(decode(coarse.header, coarse.payload), rule)[0] != expected).sum())
    assert changed > 0
    assert coarse.differing == changed
    assert np.array_equal(settled(stored(close, rule), rule)[0], expected)


def test_candidates_below_the_low_gate_are_not_kept():
    output = queries(1)
    output.gate[7] = LOW_GATE / 2
    kept = stored(output, parse_rule("mask2former"))
    assert len(kept.labels) == 11
    assert kept.gate.min() > LOW_GATE


def test_masks_take_less_than_a_byte_and_a_half_a_cell():
    output = queries(2)
    noise = torch.randn(output.masks.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(output, masks=output.masks + 0.1 * noise)
    assert encode(noisy, parse_rule("mask2former")).size < noisy.masks.numel() * 1.5


def test_masks_for_other_rules_are_exact_to_eight_bits():
    output, rule = queries(3), parse_rule("mask2former")
    kept = (output.gate > LOW_GATE).nonzero()[0]
    assert torch.allclose(stored(output, rule).masks, output.masks[kept], rtol=2**-8, atol=1e-30)
    assert torch.allclose(stored(output, rule, exact=False).masks, output.masks[kept], rtol=2**-11, atol=1e-6)


def test_no_flipped_bit_of_a_file_changes_what_is_read(tmp_path):
    """Each byte of the file has one bit flipped: what is read is as it was written, or the file is refused."""
    small = replace(queries(1, count=2), masks=queries(1, count=2).masks[:, :4, :4].contiguous())
    encoded = encode(small, parse_rule("mask2former"))
    block = tmp_path / "0000-000000.arrow"
    write_block(block, [(1, encoded)], {"run": "abc", "rule": "mask2former:score=0.8"})
    content, about = block.read_bytes(), {"run": "abc", "rule": "mask2former:score=0.8"}
    right = StoredOutputs(tmp_path).read(1)
    refused = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        block.write_bytes(flipped)
        try:
            stored = StoredOutputs(tmp_path)
            found = stored.read(1)
        except BadRun:
            refused += 1
            continue
        assert stored.about == about
        assert found.frame == right.frame
        assert (found.isthing, found.activation) == (right.isthing, right.activation)
        for name in ("labels", "gate", "weight", "masks"):
            assert np.array_equal(getattr(found, name), getattr(right, name))
    assert refused > len(encoded.payload) + len(json.dumps(encoded.header))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("arrays", 0, "shape"), [2**31, 2**40], "more than 2,147,483,648"),
        (("arrays", 0, "shape"), [2**70], "more than 2,147,483,648"),
        (("arrays", 0, "shape"), [-1], "declared as"),
        (("arrays", 0, "shape"), ["x"], "declared as"),
        (("arrays", 0, "dtype"), "O", "declared as object"),
        (("arrays", 0, "dtype"), "nonsense", "damaged at image 1"),
        (("arrays", 0, "name"), "other", "damaged at image 1"),
        (("arrays",), None, "damaged at image 1"),
        (("frame", "original"), [10**6, 10**6], "too large"),
        (("frame", "original"), [0, 5], r"of the size \[0, 5\]"),
        (("frame",), [], "damaged at image 1"),
        (("kind",), "other", "damaged at image 1"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path, path, value, sentence):
    encoded = encode(queries(1), parse_rule("mask2former"))
    header = json.loads(json.dumps(encoded.header))
    inner = header
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    write_block(tmp_path / "0000-000000.arrow", [(1, replace(encoded, header=header))], {"run": "abc"})
    with pytest.raises(BadRun, match=sentence):
        StoredOutputs(tmp_path).read(1)


def test_a_flipped_byte_is_found(folder):
    block = folder / "0000-000000.arrow"
    payload = encode(queries(1), parse_rule("mask2former")).payload
    content = bytearray(block.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 1
    block.write_bytes(content)
    with pytest.raises(BadRun, match="damaged at image 1"):
        StoredOutputs(folder).read(1)


def test_finished_maps_have_no_candidates():
    with pytest.raises(BadRun, match="no candidates to keep"):
        encode(FinishedMap(np.zeros((96, 128), np.int32), (), FRAME), parse_rule("given"))


@pytest.fixture
def folder(tmp_path):
    rule = parse_rule("mask2former")
    for block in range(2):
        images = [(10 * block + number, encode(queries(number), rule)) for number in range(3)]
        write_block(tmp_path / f"0000-{block:06d}.arrow", images, {"run": "abc"})
    return tmp_path


def test_blocks_give_each_image_back(folder):
    outputs = StoredOutputs(folder)
    assert outputs.image_ids == (0, 1, 2, 10, 11, 12)
    assert outputs.about["run"] == "abc"
    kept = outputs.read(11)
    assert isinstance(kept, Candidates)
    assert np.array_equal(kept.gate, stored(queries(1), parse_rule("mask2former")).gate)
    with pytest.raises(BadRun, match="no candidates of image 5"):
        outputs.read(5)


def test_an_image_that_comes_twice_is_kept_once(tmp_path):
    # A batch that a device has room to infer but not to fuse is inferred again in halves.
    keeper = CandidateKeeper(tmp_path / "candidates", parse_rule("mask2former"), {"run": "abc"})
    for image_id in (1, 2, 1, 2):
        keeper.hear(scene_of(Path("photo.jpg"), image_id, 96, 128), queries(image_id))
    keeper.close()
    assert StoredOutputs(tmp_path / "candidates").image_ids == (1, 2)


def test_a_folder_without_candidates_says_how_to_make_them(tmp_path):
    with pytest.raises(BadRun, match="--keep-candidates"):
        StoredOutputs(tmp_path / "candidates")


def test_torn_and_foreign_blocks_are_refused(folder):
    block = folder / "0000-000001.arrow"
    whole = block.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not arrow at all"):
        block.write_bytes(content)
        with pytest.raises(BadRun, match="damaged"):
            StoredOutputs(folder)
    write_block(block, [(1, encode(queries(1), parse_rule("mask2former")))], {"run": "another"})
    with pytest.raises(BadRun, match="of another run"):
        StoredOutputs(folder)
    write_block(block, [(1, encode(queries(1), parse_rule("mask2former")))], {"run": "abc"})
    with pytest.raises(BadRun, match="repeats image 1"):
        StoredOutputs(folder)


def test_candidates_of_another_version_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("panbench.models.stored.VERSION", 2)
        write_block(tmp_path / "0000-000000.arrow", [(1, encode(queries(1), parse_rule("mask2former")))], {"run": "a"})
    with pytest.raises(BadRun, match="version 2; this panbench reads version 1"):
        StoredOutputs(tmp_path)
