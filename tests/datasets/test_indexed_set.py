"""A set that is read from an index is the set of its JSON."""

import json
import pickle

import pytest

from panbench.datasets import index as index_module
from panbench.datasets.index import DatasetIndex, build_index
from panbench.datasets.indexed_set import indexed_set
from panbench.panoptic.coco import read_panoptic_json, write_panoptic_json
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment

CATEGORIES = (Category(1, "cat", True, "animal", (1, 2, 3)), Category(7, "sky", False))


def write(folder, name, ids, unannotated=()):
    """A JSON of images with these ids, in this order."""
    images = {number: ImageInfo(number, f"{number}.jpg", 10 + number, 20) for number in ids}
    annotations = {
        number: Annotation(number, f"{number}.png", (Segment(5, 7, 30, True), Segment(4, 1, 20 + number)))
        for number in ids
        if number not in unannotated
    }
    path = folder / name
    write_panoptic_json(path, PanopticSet(CATEGORIES, images, annotations, folder, path))
    return path


def as_dicts(found):
    """All that a set says, whatever the order of its images; boxes are not kept."""
    return found.categories, dict(found.images), dict(found.annotations), found.folder, found.path


def test_the_set_of_an_index_is_that_of_the_json(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "ROW_GROUP_IMAGES", 2)
    path = write(tmp_path, "gt.json", [9, 3, 12, 7, 1], unannotated=(12,))
    build_index([path])
    for folder in (None, tmp_path / "pngs"):
        found = indexed_set(path, folder)
        assert as_dicts(found) == as_dicts(read_panoptic_json(path, folder))
    assert list(found.images) == [1, 3, 7, 9, 12]
    assert list(found.annotations) == [1, 3, 7, 9]
    assert (len(found.images), len(found.annotations)) == (5, 4)
    assert found.png_path(7) == tmp_path / "pngs" / "7.png"


@pytest.mark.parametrize("absent", [12, 2, 1000, -1, "7", None])
def test_an_image_that_is_not_there_is_missing_as_from_a_dictionary(tmp_path, absent):
    path = write(tmp_path, "gt.json", [9, 3, 12], unannotated=(12,))
    build_index([path])
    found = indexed_set(path, None)
    assert absent not in found.annotations
    assert (absent in found.images) == (absent == 12)
    with pytest.raises(KeyError):
        found.annotations[absent]


def test_several_jsons_are_one_set_with_the_folders_of_each(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [write(tmp_path / "a", "gt.json", [4, 2]), write(tmp_path / "b", "gt.json", [3])]
    together = " + ".join(map(str, paths))
    assert indexed_set(together, None) is None
    build_index(paths)
    found, parsed = indexed_set(together, None), read_panoptic_json(together)
    assert {number: found.png_path(number) for number in found.annotations} == {
        number: parsed.png_path(number) for number in parsed.annotations
    }


def test_an_index_of_another_json_is_not_used(tmp_path):
    path = write(tmp_path, "gt.json", [1, 2])
    assert indexed_set(path, None) is None
    build_index([path])
    assert indexed_set(path, None) is not None
    document = json.loads(path.read_text())
    document["images"].append({"id": 5, "file_name": "5.jpg", "height": 3, "width": 4})
    path.write_text(json.dumps(document))
    assert indexed_set(path, None) is None


def test_only_the_row_groups_of_what_is_asked_for_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "ROW_GROUP_IMAGES", 2)
    path = write(tmp_path, "gt.json", range(10))
    build_index([path])
    read, rows = [], DatasetIndex.rows

    def seen(self, start=0, stop=None, **settings):
        read.append((start, stop))
        return rows(self, start, stop, **settings)

    monkeypatch.setattr(DatasetIndex, "rows", seen)
    found = indexed_set(path, None)
    assert 6 in found.images
    assert read == []
    assert [found.images[number].height for number in (6, 7, 6, 1)] == [16, 17, 16, 11]
    assert found.annotations[6].segments[1].area == 26
    assert read == [(6, 8), (0, 2)]
    assert as_dicts(pickle.loads(pickle.dumps(found))) == as_dicts(found)
