"""Batches: made over all images, shared out among shards, and resumed without being made anew."""

import random

import pytest

from panbench.evaluation.plan import plan_batches, without_finished_images
from panbench.panoptic.types import ImageInfo, Scene


class Padding:
    """A model whose images are padded to multiples of 32."""

    def batch_key(self, image: ImageInfo):
        return -(-image.height // 32), -(-image.width // 32)


@pytest.fixture
def scenes() -> list[Scene]:
    """Fourteen scenes of two sizes, in disorder."""
    rng = random.Random(1)
    sizes = [(48, 64)] * 9 + [(64, 48)] * 5
    rng.shuffle(sizes)
    ids = rng.sample(range(100, 999), 14)
    return [Scene(ImageInfo(one, f"{one}.png", *size)) for one, size in zip(ids, sizes, strict=True)]


def ids_of(batches) -> list[list[int]]:
    return [[scene.image.id for scene in batch] for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shards", [1, 2, 5, 40])
def test_shards_together_have_the_batches_of_a_single_process(scenes, batch_size, shards):
    whole = ids_of(plan_batches(scenes, batch_size, Padding()))
    shares = [plan_batches(scenes, batch_size, Padding())[number::shards] for number in range(shards)]
    taken = [ids_of(share) for share in shares]
    assert sorted(batch for share in taken for batch in share) == sorted(whole)
    assert sorted(one for batch in whole for one in batch) == sorted(scene.image.id for scene in scenes)
    assert max(map(len, whole)) == batch_size


def test_a_resumed_plan_has_the_same_batches_without_finished_images(scenes):
    plan = plan_batches(scenes, 3, Padding())
    whole = ids_of(plan)
    done = frozenset(whole[0][:2] + whole[2])
    left = [[one for one in batch if one not in done] for batch in whole]
    assert ids_of(without_finished_images(plan, done)) == [batch for batch in left if batch]
    assert sum(map(len, without_finished_images(plan, done))) == 14 - len(done)
    assert ids_of(without_finished_images(plan[1::2], done)) == [batch for batch in left[1::2] if batch]
