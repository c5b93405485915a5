"""`compare --pixels`: which pixels and segments differ between the maps of two runs."""

import json

import numpy as np
import pytest
from support import panbench, ran, refusal, refused

from panbench.base.errors import BadRun
from panbench.panoptic.coco import write_id_png
from panbench.runs import load_run
from panbench.studies.agreement.answer import agreement

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]


def scored(folder, name, maps):
    """A run of a person's own maps: each a (H, W) array of ids and the category of each id."""
    for what in ("gt", name):
        annotations = []
        for image_id, (ids, categories) in enumerate(maps if what == name else TRUTH, start=1):
            write_id_png(folder / what / f"{image_id}.png", np.array(ids, np.int32))
            segments = [
                {"id": number, "category_id": category, "area": int((np.array(ids) == number).sum()), "iscrowd": 0}
                for number, category in categories.items()
            ]
            annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
        images = [{"id": n, "file_name": f"{n}.jpg", "height": 2, "width": 6} for n in range(1, len(annotations) + 1)]
        document = {"annotations": annotations, "categories": CATEGORIES, "images": images}
        (folder / f"{what}.json").write_text(json.dumps(document))
    ran("score", "--gt", folder / "gt.json", "--pred", folder / f"{name}.json", "--out", folder / "runs" / name)
    return load_run(folder / "runs" / name)


SEGMENTS = ("segments_0", "flipped_0", "segments_1", "flipped_1")
SKY = [[2] * 6, [2] * 6]
TRUTH = [([[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2]], {1: 1, 2: 2}), (SKY, {2: 2})]


@pytest.fixture
def runs(tmp_path):
    """b numbers its segments otherwise, gives the cat two pixels less, and calls the second image void and cat."""
    a = scored(tmp_path, "a", TRUTH)
    smaller = [[9, 9, 9, 7, 7, 7], [9, 9, 9, 7, 7, 7]]
    other = [[0, 0, 0, 5, 5, 5], [0, 0, 0, 5, 5, 5]]
    return a, scored(tmp_path, "b", [(smaller, {9: 1, 7: 2}), (other, {5: 1})])


def test_pixels_differ_where_segments_have_no_partner(runs):
    found = agreement(*runs)
    assert found.to_dict("records") == [
        # The cats share 6 of 8 pixels, the skies 4 of 6: partners both. Two pixels are cat here and sky there.
        {"image_id": 1, "pixels": 12, "differing": 2, "segments_0": 2, "flipped_0": 0, "segments_1": 2, "flipped_1": 0},
        # A sky that became void and a cat: nothing is the same.
        {"image_id": 2, "pixels": 12, "differing": 12, **dict.fromkeys(SEGMENTS, 1)},
    ]


def test_a_run_agrees_with_itself_and_agreement_is_symmetric(runs):
    a, b = runs
    assert agreement(a, a)[["differing", "flipped_0", "flipped_1"]].sum().sum() == 0
    there, back = agreement(a, b), agreement(b, a)
    assert there["differing"].equals(back["differing"])
    assert there["flipped_0"].equals(back["flipped_1"])


def test_compare_prints_agreement_below_its_table_and_in_json(runs, tmp_path):
    text = ran("compare", tmp_path / "runs" / "a", tmp_path / "runs" / "b", "--pixels").stdout
    for words in ("a and b, pixel by pixel", "all 2 images", "14", "583.333"):
        assert words in text
    assert text.index("image 2") < text.index("image 1")
    records = json.loads(ran("compare", tmp_path / "runs" / "a", tmp_path / "runs" / "b", "--pixels", "--json").stdout)
    assert [record["maps"][1]["differing"] for record in records] == [12, 12]
    assert "equal, pixel for pixel" in ran("compare", runs[0].path, runs[0].path, "--pixels").stdout


def test_agreement_needs_two_runs_with_predictions(runs, tmp_path):
    assert "compares the maps of two runs, and 1 were given" in refused("compare", runs[0].path, "--pixels")
    (tmp_path / "b.json").unlink()
    assert "b has no stored predictions. Evaluate it again with" in refusal(BadRun, agreement, *runs)
    assert panbench("compare", *(run.path for run in runs)).exit_code == 0
