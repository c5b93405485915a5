import hashlib
import json

import numpy as np
import pytest
from support import refusal

from panbench.base.errors import BadArgument
from panbench.datasets import open_dataset
from panbench.datasets.shapes import CATEGORIES, ShapesScene, generate, make_scene
from panbench.panoptic.coco import read_id_png, read_panoptic_json

THINGS = {c["id"] for c in CATEGORIES if c["isthing"]}


def many(count: int = 60) -> list[ShapesScene]:
    return [make_scene(index) for index in range(count)]


def test_the_same_seed_gives_the_same_pixels_on_every_platform():
    digest = hashlib.sha256()
    for index in range(8):
        scene = make_scene(index, size=(96, 120))
        digest.update(scene.image.tobytes() + scene.ids.astype("<i4").tobytes())
        digest.update(json.dumps(scene.segments_info).encode())
    # Recorded once on Linux, x86-64, Python 3.11, NumPy 2.4; the trained weights depend on it.
    assert digest.hexdigest() == "862eb73f555b220ec6178747f3d4ac69d03268d3aaf83b79b29bfffb7aef2c97"


def test_scenes_differ_by_index_split_and_seed():
    first = make_scene(0).image
    others = [make_scene(1).image, make_scene(0, split="train").image, make_scene(0, seed=1).image]
    assert all((first != other).any() for other in others)


def test_segments_describe_the_id_map():
    for scene in many():
        listed = {segment["id"]: segment for segment in scene.segments_info}
        ids, counts = np.unique(scene.ids[scene.ids > 0], return_counts=True)
        assert set(listed) == set(ids.tolist())
        for segment_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
            left, top, width, height = listed[segment_id]["bbox"]
            rows, columns = np.nonzero(scene.ids == segment_id)
            assert listed[segment_id]["area"] == count
            assert (top, left, height, width) == (rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1)


def test_scenes_hold_what_makes_panoptic_scoring_hard():
    scenes = many(120)
    segments = [segment for scene in scenes for segment in scene.segments_info]
    assert len(THINGS) >= 4
    assert len(CATEGORIES) - len(THINGS) >= 3
    assert {segment["category_id"] for segment in segments} == {c["id"] for c in CATEGORIES}
    assert any(segment["iscrowd"] for segment in segments), "crowds"
    assert any((scene.ids == 0).mean() > 0.01 for scene in scenes), "void regions"
    assert max(segment["id"] for segment in segments) > 1 << 16, "ids that need all three channels"
    assert any(
        np.isin(scene.ids[0], [s["id"] for s in scene.segments_info if s["category_id"] in THINGS]).any()
        for scene in scenes
    ), "things cut by the border"
    assert all(
        len({s["category_id"] for s in scene.segments_info if s["category_id"] not in THINGS})
        == len([s for s in scene.segments_info if s["category_id"] not in THINGS])
        for scene in scenes
    ), "stuff is one segment a class"


def test_scenes_have_the_requested_size():
    scene = make_scene(0, size=(50, 333))
    assert scene.image.shape == (50, 333, 3)
    assert scene.ids.shape == (50, 333)


@pytest.mark.parametrize("size", [(16, 100), (100, 9000)])
def test_sizes_outside_the_limits_are_refused(size: tuple[int, int]):
    assert "32 to 8192" in refusal(BadArgument, make_scene, 0, size=size)


def test_an_unknown_split_is_refused():
    assert "train, val, test" in refusal(BadArgument, make_scene, 0, split="validation")


def test_a_generated_folder_is_coco_panoptic_and_is_not_generated_twice(tmp_path):
    path = generate(tmp_path, count=3, size=(64, 64))
    first = path.read_bytes()
    panoptic = read_panoptic_json(path)
    assert [len(panoptic.images), len(panoptic.annotations)] == [3, 3]
    for index, image_id in enumerate(panoptic.images):
        ids = read_id_png(panoptic.png_path(image_id))
        np.testing.assert_array_equal(ids, make_scene(index, size=(64, 64)).ids)
    assert generate(tmp_path, count=3, size=(64, 64)) == path
    assert path.read_bytes() == first


def test_an_interrupted_generation_is_resumed(tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, count: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        generate(tmp_path, count=4, size=(64, 64), progress=stop)
    assert not (tmp_path / "annotations" / "panoptic_val.json").exists()
    assert len(read_panoptic_json(generate(tmp_path, count=4, size=(64, 64))).images) == 4


@pytest.mark.slow
def test_shapes_is_opened_by_name_at_any_size(tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    dataset = open_dataset("shapes:48x64", limit=2)
    assert dataset.name == "shapes-48x64"
    assert [(scene.image.height, scene.image.width) for scene in dataset.scenes] == [(48, 64)] * 2
    assert "shapes:480x640" in refusal(BadArgument, open_dataset, "shapes:48")
