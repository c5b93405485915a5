"""Batches: the same on an index as on a JSON, for any number of ranks, each of which reads its own images alone."""

import dataclasses
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from support import evaluated

from panbench.base.errors import BadDataset
from panbench.catalog import find_model
from panbench.datasets import index as indexing
from panbench.datasets import open_dataset, shapes
from panbench.datasets.index import build_index
from panbench.datasets.scenes import IndexedScenes, in_any_order, order_sha256, pixels_of, scenes_by_id
from panbench.evaluation import plan as planning
from panbench.evaluation.plan import BatchPlan, plan_batches
from panbench.panoptic.types import ImageInfo


class Padding:
    """A model whose images are padded to multiples of 32."""

    def batch_key(self, image: ImageInfo):
        return -(-image.height // 32), -(-image.width // 32)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Row groups of four images and blocks of eight, of which three or four are in memory."""
    monkeypatch.setattr(indexing, "ROW_GROUP_IMAGES", 4)
    monkeypatch.setattr(planning, "PLAN_IMAGES", 8)
    monkeypatch.setattr(planning, "IMAGES_AT_ONCE", 3)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of scenes, 48/ and 64/."""
    root = tmp_path_factory.mktemp("sizes")
    for size, count in (((48, 64), 9), ((64, 48), 5)):
        shapes.generate(root / f"{size[0]}", count=count, size=size)
    return root


@pytest.fixture(params=["by id", "in disorder"])
def folder(request, two_sizes: Path, tmp_path: Path) -> Path:
    """Fourteen scenes of two sizes in mmdet's layout; in the JSON by ascending id, or in disorder."""
    parts = [
        (name, json.loads((two_sizes / name / "annotations/panoptic_val.json").read_text())) for name in ("48", "64")
    ]
    root, n = tmp_path / "set", 14
    ids = random.Random(1).sample(range(100, 999), n)
    merged = {"images": [], "annotations": [], "categories": list(shapes.CATEGORIES)}
    taken = iter(ids)
    for name, part in parts:
        for image, annotation in zip(part["images"], part["annotations"], strict=True):
            image_id = next(taken)
            for kind in ("val", "annotations/panoptic_val"):
                target = root / kind / f"{image_id}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((two_sizes / name / kind / image["file_name"]).read_bytes())
            merged["images"].append({**image, "id": image_id, "file_name": f"{image_id}.png"})
            merged["annotations"].append({**annotation, "image_id": image_id, "file_name": f"{image_id}.png"})
    if request.param == "by id":
        merged["images"].sort(key=lambda image: image["id"])
    path = root / "annotations" / "panoptic_val.json"
    path.write_text(json.dumps(merged))
    os.utime(path, ns=(10**18, 10**18))
    return root


def json_of(folder: Path) -> Path:
    return folder / "annotations" / "panoptic_val.json"


def test_an_indexed_dataset_has_the_scenes_of_its_json(folder):
    plain = open_dataset(folder)
    build_index([json_of(folder)])
    indexed = open_dataset(folder)
    assert isinstance(indexed.scenes, IndexedScenes)
    assert tuple(indexed.scenes) == plain.scenes
    assert [indexed.scenes[place] for place in (0, 13, 6, -1)] == [plain.scenes[place] for place in (0, 13, 6, -1)]
    assert tuple(indexed.scenes[3:9:2]) == plain.scenes[3:9:2]
    whole = dataclasses.replace(indexed, scenes=plain.scenes)
    assert whole == plain
    assert order_sha256(indexed.scenes) == order_sha256(plain.scenes)
    assert order_sha256(indexed.scenes[:5]) == order_sha256(plain.scenes[:5])
    assert pixels_of(indexed.scenes) == pixels_of(plain.scenes) == 14 * 48 * 64
    some = [scene.image.id for scene in plain.scenes[2:5]]
    assert scenes_by_id(indexed.scenes, [*some, 1]) == scenes_by_id(plain.scenes, some)
    assert sorted(s.image.id for s in in_any_order(indexed.scenes)) == sorted(s.image.id for s in plain.scenes)
    assert tuple(indexed.with_exif("ignore").scenes) == plain.with_exif("ignore").scenes


@pytest.mark.parametrize("chosen", [{"limit": 5}, {"limit": 99}, {"image_ids": True}, {"image_ids": True, "limit": 2}])
def test_a_choice_of_images_is_that_of_the_json(folder, chosen):
    if "image_ids" in chosen:
        ids = [scene.image.id for scene in open_dataset(folder).scenes]
        chosen = {**chosen, "image_ids": [ids[8], ids[2], ids[11], ids[2]]}
    plain = open_dataset(folder, **chosen)
    build_index([json_of(folder)])
    indexed = open_dataset(folder, **chosen)
    assert tuple(indexed.scenes) == plain.scenes
    assert indexed.is_whole == plain.is_whole
    assert order_sha256(indexed.scenes) == order_sha256(plain.scenes)


def refusal(folder: Path, **options) -> str:
    with pytest.raises(BadDataset) as problem:
        open_dataset(folder, **options)
    return str(problem.value)


@pytest.mark.parametrize("fault", ["unknown id", "image", "map", "annotation", "categories"])
def test_an_index_refuses_what_its_json_refuses(folder, fault):
    document = json.loads(json_of(folder).read_text())
    options = {"image_ids": [1, 2]} if fault == "unknown id" else {}
    if fault == "image":
        for image in document["images"][:2]:
            (folder / "val" / image["file_name"]).unlink()
    if fault == "map":
        (folder / "annotations" / "panoptic_val" / document["images"][3]["file_name"]).unlink()
    if fault == "annotation":
        document["annotations"] = document["annotations"][2:]
    if fault == "categories":
        document.update(categories=[], annotations=[])
    json_of(folder).write_text(json.dumps(document))
    plain = refusal(folder, **options)
    build_index([json_of(folder)])
    if fault == "image":  # an index looks by ascending id, and names them so
        assert refusal(folder).partition(":")[0] == plain.partition(":")[0]
    else:
        assert refusal(folder, **options) == plain


def test_workers_look_for_the_files_of_their_part_and_find_all_between_them(folder):
    build_index([json_of(folder)])
    (folder / "val" / open_dataset(folder).scenes[6].image.file_name).unlink()
    refused = []
    for rank in (1, 2, 3):
        try:
            open_dataset(folder, share=(rank, 3))
        except BadDataset as problem:
            refused.append(str(problem))
    (sentence,) = refused
    assert "1 of 5 images are missing" in sentence or "1 of 4 images are missing" in sentence


def ids_of(batches) -> list[list[int]]:
    return [[scene.image.id for scene in batch] for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 5, 40])
def test_ranks_share_the_batches_of_one_go(folder, batch_size, ranks):
    whole = ids_of(plan_batches(open_dataset(folder).scenes, batch_size, Padding()))
    build_index([json_of(folder)])
    for dataset in (open_dataset(folder), dataclasses.replace(open_dataset(folder), scenes=())):
        scenes = dataset.scenes or tuple(open_dataset(folder).scenes)
        shares = [BatchPlan(scenes, batch_size, Padding()).share(rank, ranks) for rank in range(ranks)]
        taken = [ids_of(share) for share in shares]
        assert sorted(batch for share in taken for batch in share) == sorted(whole)
        assert [len(share) for share in shares] == [len(batches) for batches in taken]
        assert [share.images for share in shares] == [sum(map(len, batches)) for batches in taken]
    if batch_size > 1:
        assert max(map(len, whole)) == batch_size


def test_a_resumed_plan_has_the_same_batches_without_what_is_done(folder):
    build_index([json_of(folder)])
    scenes = open_dataset(folder).scenes
    whole = ids_of(BatchPlan(scenes, 3, Padding()))
    done = frozenset(whole[0][:2] + whole[2])
    left = [[one for one in batch if one not in done] for batch in whole]
    plan = BatchPlan(scenes, 3, Padding()).without(done)
    assert ids_of(plan) == [batch for batch in left if batch]
    assert plan.images == 14 - len(done)


def test_a_rank_reads_the_row_groups_of_its_share_alone(folder, monkeypatch):
    build_index([json_of(folder)])
    dataset = open_dataset(folder)
    read, table = set(), indexing.DatasetIndex._table

    def watched(index, start, stop, columns):
        starts = index.row_starts
        read.update(range(int(np.searchsorted(starts, start, side="right")) - 1, int(np.searchsorted(starts, stop))))
        return table(index, start, stop, columns)

    monkeypatch.setattr(indexing.DatasetIndex, "_table", watched)
    list(BatchPlan(dataset.scenes.by_id(), 1, Padding()).share(0, 2))
    assert read == {0, 1}


def test_a_run_on_an_index_is_that_on_the_json(folder, tmp_path):
    spec = find_model("mask2former-tiny")
    plain = evaluated(spec, open_dataset(folder), tmp_path / "plain", batch_size=2)
    build_index([json_of(folder)])
    indexed = evaluated(spec, open_dataset(folder), tmp_path / "indexed", batch_size=2)
    assert indexed.table.to_arrow().equals(plain.table.to_arrow())
    assert indexed.summary() == plain.summary()
    assert indexed.info.dataset == plain.info.dataset
    assert indexed.info.dataset.rows is not None
    assert dict(indexed.info.arguments) == dict(plain.info.arguments)
