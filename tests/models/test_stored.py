import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model_maps import FRAME, boxes, queries

from panbench.base.errors import BadRun
from panbench.evaluation.sinks import CandidateSink, SeenImage
from panbench.models import stored as stored_outputs
from panbench.models.candidates import Candidates, FinishedMap, Instances
from panbench.models.model import LoadedImage
from panbench.models.predict import scene_of
from panbench.models.rules import parse_rule
from panbench.models.rules.base import Rule, SegmentedMap
from panbench.models.stored import LOW_GATE, StoredOutputs, decode, encode

ABOUT = {"run": "abc", "rule": "mask2former:score=0.8"}


def settled(output: Candidates | Instances, rule: Rule) -> SegmentedMap:
    return rule.to_segments(rule.fuse(output).to_host())


def stored(output: Candidates | Instances, rule: Rule, **options: object) -> Candidates | Instances:
    return decode(encode(output, rule, ABOUT, **options))[1]


@pytest.mark.parametrize("one_step", [False, True])
def test_the_way_of_resizing_masks_is_stored_with_them(one_step):
    output, rule = queries(0), parse_rule("mask-wise")
    output = replace(output, frame=replace(output.frame, one_step=one_step))
    assert stored(output, rule).frame == output.frame
    assert_same_map(output, rule)


def assert_same_map(output: Candidates | Instances, rule: Rule) -> None:
    ids, segments = settled(stored(output, rule), rule)
    expected_ids, expected_segments = settled(output, rule)
    assert np.array_equal(ids, expected_ids)
    assert segments == expected_segments


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (queries, "mask2former"),
        (queries, "maskformer"),
        (queries, "mask2former:score=0.02,overlap=0.5"),
        (boxes, "panoptic-fpn:stuff-area=64"),
    ],
)
def test_the_default_rule_makes_the_same_map_from_stored_outputs(seed, made, rule):
    assert_same_map(made(seed), parse_rule(rule))


def test_half_precision_may_change_pixels_and_full_precision_does_not():
    # Two masks that differ by less than half precision tells.
    output = queries(0, count=2)
    masks = output.masks[:1].repeat(2, 1, 1) + 4
    masks[1] += 1e-4
    gate = np.full(2, 0.9, np.float32)
    close = Candidates(np.arange(2), gate, torch.from_numpy(gate), masks, FRAME, output.isthing)
    rule = parse_rule("maskformer:overlap=0")
    expected = settled(close, rule)[0]
    assert (settled(stored(close, rule, half=True), rule)[0] != expected).any()
    assert np.array_equal(settled(stored(close, rule), rule)[0], expected)


@pytest.mark.parametrize("seed", range(3))
def test_stored_outputs_equal_the_networks_bit_for_bit(seed):
    output = queries(seed)
    kept = (output.gate > LOW_GATE).nonzero()[0]
    again = stored(output, parse_rule("mask2former"))
    assert torch.equal(again.masks, output.masks[kept])
    assert torch.equal(again.weight, output.weight[kept])
    assert np.array_equal(again.gate, output.gate[kept])
    assert (again.labels.tolist(), again.isthing) == (output.labels[kept].tolist(), output.isthing)
    instances = boxes(seed)
    again = stored(instances, parse_rule("panoptic-fpn"))
    assert torch.equal(again.boxes, instances.boxes)
    assert torch.equal(again.masks, instances.masks)
    assert (again.labels, again.scores) == (instances.labels, instances.scores)
    channels = [instances.semantic_labels.index(label) for label in again.semantic_labels]
    assert torch.equal(again.semantic_logits, instances.semantic_logits[channels])


def test_candidates_below_the_low_gate_are_not_stored():
    output = queries(1)
    output.gate[7] = LOW_GATE / 2
    kept = stored(output, parse_rule("mask2former"))
    assert len(kept.labels) == 11
    assert kept.gate.min() > LOW_GATE


def test_half_precision_takes_fewer_bytes_than_full_and_both_are_compressed():
    output, rule = queries(2), parse_rule("mask2former")
    full, half = (len(encode(output, rule, ABOUT, half=each)) for each in (False, True))
    assert half < 0.7 * full
    assert full < output.masks.numel() * 4
    assert half < output.masks.numel() * 2.2
    kept = (output.gate > LOW_GATE).nonzero()[0]
    assert torch.equal(stored(output, rule, half=True).masks, output.masks[kept].half().float())


@pytest.fixture
def folder(tmp_path):
    """A run's candidates of the images 1, 2 and 10."""
    (tmp_path / "candidates").mkdir()
    for image_id in (1, 2, 10):
        content = encode(queries(image_id), parse_rule("mask2former"), ABOUT)
        (tmp_path / "candidates" / f"{image_id}.parquet").write_bytes(content)
    return tmp_path / "candidates"


def test_every_flipped_bit_of_a_file_is_detected(tmp_path):
    """Each byte of the file has one bit flipped: what is read is as it was written, or the file is refused."""
    small = replace(queries(1, count=2), masks=queries(1, count=2).masks[:, :4, :4].contiguous())
    content = encode(small, parse_rule("mask2former"), ABOUT)
    file = tmp_path / "candidates" / "1.parquet"
    file.parent.mkdir()
    refused = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            stored = StoredOutputs(file.parent)
            found = stored.read(1)
        except BadRun:
            refused += 1
            continue
        assert stored.about == ABOUT
        assert found.frame == small.frame
        assert (found.isthing, found.activation) == (small.isthing, small.activation)
        for name in ("labels", "gate", "weight", "masks"):
            assert np.array_equal(getattr(found, name), getattr(small, name))
    assert refused > len(content) / 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("output", "floats", "masks"), [2**31, 2**20, 1], "its shapes declare"),
        (("output", "floats", "masks"), [2**70], "damaged"),
        (("output", "floats", "masks"), [-1], "its shapes declare"),
        (("output", "floats", "masks"), "x", "damaged"),
        (("output", "floats"), None, "damaged"),
        (("output", "labels"), [1], "do not fit together"),
        (("output", "kind"), "other", "damaged"),
        (("output", "frame", 2), [10**6, 10**6], "too large"),
        (("output", "frame", 2), [0, 5], r"of the size \[0, 5\]"),
        (("output", "frame"), [], "damaged"),
        (("output",), None, "damaged"),
        (("version",), 2, "of version 2; this panbench reads version 1"),
    ],
)
def test_a_stored_output_with_a_manipulated_header_is_refused(folder, path, value, message):
    table = pq.read_table(folder / "1.parquet")
    header = inner = json.loads(table.schema.metadata[b"panbench"])
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    said = json.dumps(header)
    checksum = zlib.crc32(table["values"].to_numpy().view(np.uint8), zlib.crc32(said.encode()))
    metadata = {"panbench": said, "crc32": str(checksum)}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "1.parquet")
    with pytest.raises(BadRun, match=message):
        StoredOutputs(folder)


def test_a_file_that_declares_too_much_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(stored_outputs, "MOST_VALUES", 100)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BadRun, match=r"declares 15,384 values, more than 100"):
        StoredOutputs(folder)


def test_a_finished_map_is_refused_where_candidates_are_stored():
    with pytest.raises(BadRun, match="no candidates to keep"):
        encode(FinishedMap(np.zeros((96, 128), np.int32), (), FRAME), parse_rule("given"), ABOUT)


def test_a_folder_returns_each_image(folder):
    outputs = StoredOutputs(folder)
    assert outputs.image_ids == (1, 2, 10)
    assert outputs.about == ABOUT
    kept = outputs.read(10)
    assert isinstance(kept, Candidates)
    assert np.array_equal(kept.gate, stored(queries(10), parse_rule("mask2former")).gate)
    with pytest.raises(BadRun, match="no candidates of image 5"):
        outputs.read(5)


def test_an_image_stored_twice_is_read_once(tmp_path):
    # A batch that a device has room to infer but not to fuse is inferred again in halves.
    keeper = CandidateSink(tmp_path, parse_rule("mask2former"), {"run": "abc"})
    images = [LoadedImage(scene_of(Path("photo.jpg"), n, 96, 128), torch.zeros(3, 96, 128), None) for n in (1, 2)]
    for batch in (images, images[:1], images[1:]):
        work = keeper.on_outputs(batch, [queries(image.scene.image.id) for image in batch])
        if len(batch) == 1:
            keeper.keep([later(SeenImage(batch[0], b"")) for later in work])
    keeper.close()
    assert StoredOutputs(tmp_path / "candidates").image_ids == (1, 2)
    assert CandidateSink(tmp_path, parse_rule("mask2former"), {"run": "abc"}).done == {1, 2}
    with pytest.raises(BadRun, match="made with other settings"):
        CandidateSink(tmp_path, parse_rule("mask2former"), {"run": "abc"}, half=True)


def test_a_folder_without_candidates_is_refused_with_how_to_make_them(tmp_path):
    with pytest.raises(BadRun, match="--keep-candidates"):
        StoredOutputs(tmp_path / "candidates")


def test_torn_and_foreign_files_are_refused(folder):
    file = folder / "10.parquet"
    whole = file.read_bytes()
    pq.write_table(pa.table({"values": [1.0]}), file)
    for content in (file.read_bytes(), b"", whole[: len(whole) // 2], b"not parquet at all"):
        file.write_bytes(content)
        with pytest.raises(BadRun, match=r"10\.parquet is damaged or was not written by panbench"):
            StoredOutputs(folder).read(10)
    file.write_bytes(encode(queries(1), parse_rule("mask2former"), {"run": "another"}))
    with pytest.raises(BadRun, match="of another run"):
        StoredOutputs(folder).read(10)
