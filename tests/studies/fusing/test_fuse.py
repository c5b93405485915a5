"""`panbench fuse --arrays`: raw arrays of any framework, fused by any rule, as arrays or in COCO's form."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import panbench, python, ran, refused

from panbench.panoptic.coco import read_id_png, read_predictions_json

RECORDED = Path(__file__).resolve().parents[2] / "reference" / "fusion_rules"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(RECORDED / name) as stored:
        return dict(stored)


def fused(arrays: Path, rule: str) -> Path:
    """The maps that `panbench fuse` makes of arrays."""
    out = arrays.parent / "maps.npz"
    ran("fuse", "--arrays", arrays, "--rule", rule, "--out", out)
    return out


def refuses(arrays: Path, rule: str = "mask2former", out: str = "maps.npz") -> str:
    """What `panbench fuse` says of arrays that it refuses."""
    return refused("fuse", "--arrays", arrays, "--rule", rule, "--out", arrays.parent / out)


def pixels_that_differ(path: Path, name: str) -> list[int]:
    """Of each scene, the pixels that are in another segment or under another label than the original's."""
    found, expected = dict(np.load(path)), load("answers.npz")
    differ = []
    for index in range(6):
        ours, theirs = found[f"map_{index}"], expected[f"{name}_map_{index}"]
        pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
        one_to_one = len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))
        labels = [
            np.concatenate([[-1], side]) for side in (found[f"labels_{index}"], expected[f"{name}_labels_{index}"])
        ]
        differ.append(int((labels[0][ours] != labels[1][theirs]).sum()) if one_to_one else -1)
        assert ours.dtype == np.int32
        assert ours.max() <= len(found[f"labels_{index}"])
    return differ


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "arrays.npz"
    np.savez(path, **load("inputs.npz"))
    return path


def without_a_column_for_nothing(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Class logits as sigmoid rules take them."""
    return {**given, "class_logits": given["class_logits"][..., :-1] - 4}


def in_other_orders_and_widths(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    logits = {name: np.asfortranarray(given[name]).astype(">f8") for name in ("class_logits", "mask_logits")}
    sizes = {name: given[name].astype(np.float32) for name in ("original", "resized")}
    return {**given, **logits, **sizes, "num_things": np.array([80], np.uint8)}


@pytest.mark.parametrize(
    ("rule", "original", "inputs", "change"),
    [
        ("mask2former", "mask2former", "inputs", dict),
        ("detr", "detr", "inputs", dict),
        ("argmax:weighted=false", "pixelwise_argmax", "inputs", dict),
        ("transformers", "transformers_mask2former", "inputs", dict),
        ("maskdino", "maskdino", "inputs", without_a_column_for_nothing),
        (
            "maskdino",
            "maskdino_no_transform",
            "inputs",
            lambda g: {**without_a_column_for_nothing(g), "temperature": 0},
        ),
        ("mask2former", "mask2former", "inputs", in_other_orders_and_widths),
        # Mask codes, which are masks times 64, and no other size than the original.
        ("mask-wise:quality=0.3", "panoptic_segformer_030", "panoptic_segformer_inputs", dict),
        # Packed masks and a semantic map.
        ("panoptic-fpn", "panoptic_fpn_d2", "panoptic_fpn_inputs", dict),
    ],
)
def test_recorded_outputs_fuse_to_the_original_codes_maps(tmp_path, rule, original, inputs, change):
    np.savez(tmp_path / "arrays.npz", **change(load(f"{inputs}.npz")))
    maps = fused(tmp_path / "arrays.npz", rule)
    assert pixels_that_differ(maps, original) == [0] * 6
    assert str(np.load(maps)["rule"]) == rule


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_semantic_9": np.zeros((4, 4), int)}, "has in_semantic_9 but no in_semantic_6"),
        ({"in_semantic_0": np.full((120, 144), -1)}, "in_semantic_0 has the value -1 but there are 53 stuff classes"),
        ({"in_semantic_0": np.zeros((0, 144), int)}, "in_semantic_0 is empty (0 × 144)"),
        ({"in_masks_0": np.zeros((98, 120, 144), int)}, "in_masks_0 are int64 but must be bits or probabilities"),
        ({"in_classes_0": np.full(98, 80)}, "in_classes_0 has the label 80, which is not a thing of 133 classes"),
        ({"in_scores_0": np.full(98, "high")}, "in_scores_0 are <U4 but must be floating-point numbers"),
    ],
)
def test_unfit_instance_arrays_are_refused_in_one_sentence(tmp_path, changes, message):
    given = load("panoptic_fpn_inputs.npz")
    counts = {name: len(given[name.replace("semantic", "scores")]) for name in changes if name != "in_semantic_9"}
    cut = {name: value[: counts[name]] if "semantic" not in name else value for name, value in changes.items()}
    np.savez(tmp_path / "own.npz", **{**given, **cut})
    assert message in refuses(tmp_path / "own.npz", "panoptic-fpn")


def test_masks_of_things_and_stuff_must_have_one_size(tmp_path):
    given = load("panoptic_segformer_inputs.npz")
    np.savez(tmp_path / "own.npz", **{**given, "stuff_mask_codes": given["stuff_mask_codes"][..., :20]})
    assert "masks of things are 40 × 48, of stuff 40 × 20" in refuses(tmp_path / "own.npz", "mask-wise")


def test_a_file_without_images_is_refused(arrays):
    sizes = ("class_logits", "mask_logits", "original", "resized")
    np.savez(arrays, **{name: value[:0] if name in sizes else value for name, value in load("inputs.npz").items()})
    assert "holds no image" in refuses(arrays)


def test_predictions_are_written_in_cocos_format(arrays, tmp_path):
    ids = np.concatenate([np.arange(1, 81), np.arange(100, 153)])
    names = [f"00000000{number:04}.jpg" for number in (7, 8, 9, 10, 11, 12)]
    np.savez(arrays, **load("inputs.npz"), category_ids=ids, file_names=np.array(names))
    command = ["fuse", "--arrays", arrays, "--rule", "mask2former", "--out", tmp_path / "coco"]
    ran(*command)
    predictions = read_predictions_json(tmp_path / "coco" / "predictions.json")
    assert sorted(predictions.annotations) == [7, 8, 9, 10, 11, 12]
    expected = load("answers.npz")
    annotation = predictions.annotations[7]
    found = read_id_png(predictions.png_path(7))
    assert found.shape == expected["mask2former_map_0"].shape
    assert [segment.category_id for segment in annotation.segments] == ids[expected["mask2former_labels_0"]].tolist()
    content = json.loads((tmp_path / "coco" / "predictions.json").read_text("utf-8"))
    for segment in content["annotations"][0]["segments_info"]:
        assert segment["area"] == (found == segment["id"]).sum() > 0
    assert sum(category["isthing"] for category in content["categories"]) == 80
    assert "already holds predictions" in refused(*command)
    assert panbench(*command, "--overwrite").exit_code == 0


def test_a_table_says_which_labels_are_things(tmp_path):
    logits = np.full((1, 2, 3), -9.0, np.float32)
    logits[0, :, 0] = 9
    masks = np.full((1, 2, 4, 8), -9.0, np.float32)
    masks[0, 0, :, :4], masks[0, 1, :, 4:] = 9, 9
    given = {"class_logits": logits, "mask_logits": masks, "original": np.array([[4, 8]])}
    for table, segments in (([True, False], 2), ([False, True], 1)):
        np.savez(tmp_path / "own.npz", **given, isthing=np.array(table))
        assert len(np.load(fused(tmp_path / "own.npz", "mask2former"))["labels_0"]) == segments


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"class_logits": None}, "mask2former", "has no array 'class_logits'. It has "),
        ({"original": None}, "mask2former", "has no array 'original'"),
        ({"mask_logits": np.zeros((6, 7, 4, 4))}, "mask2former", "mask_logits has the shape 6 × 7 × 4 × 4 but must"),
        ({"num_classes": np.array(5)}, "mask2former", "134 columns of class_logits for 5 classes"),
        ({"num_classes": np.array(133)}, "maskdino", "maskdino takes no column for nothing"),
        ({"num_things": np.array(200)}, "mask2former", "num_things is 200 of 133 classes"),
        ({"class_logits": np.zeros((6, 100, 8))}, "mask2former", "does not say which of its 7 classes are things"),
        ({"class_logits": np.full((6, 100, 134), np.nan)}, "mask2former", "class logits of image 0 hold NaN"),
        ({"mask_logits": np.full((6, 100, 40, 48), np.inf)}, "mask2former", "mask logits of image 0 hold NaN"),
        ({"mask_logits": np.zeros((6, 100, 4, 4), np.uint8)}, "mask2former", "mask = code / 64, are named mask_codes"),
        ({"mask_codes": np.zeros((6, 100, 4, 4), np.uint8)}, "mask2former", "has mask_logits and mask_codes"),
        ({"mask_logits": np.zeros((6, 100, 4, 0))}, "mask2former", "the masks are empty (6 × 100 × 4 × 0)"),
        (
            {"class_logits": np.zeros((6, 100, 134), complex)},
            "mask2former",
            "are complex128 but must be floating-point",
        ),
        (
            {"class_logits": np.zeros((6, 100, 1)), "num_classes": None},
            "mask2former",
            "1 columns of class_logits for 1",
        ),
        ({"original": np.full((6, 2), np.nan)}, "mask2former", "original (float64) must be whole numbers"),
        ({"original": np.full((6, 2), 10**12)}, "mask2former", "sizes are height, width, from 1 to 65,535"),
        ({"padded": np.array([1, 2, 3])}, "mask2former", "padded has the shape 3 but must have 2"),
        ({"num_things": np.array("all")}, "mask2former", "num_things (<U3) must be whole numbers"),
        ({"num_things": np.array([1, 2])}, "mask2former", "num_things has the shape 2 but must be a single number"),
        ({"isthing": np.full(133, "no")}, "mask2former", "isthing must be true or false"),
        ({"isthing": np.full(133, 2)}, "mask2former", "isthing must be true or false"),
        (
            {"temperature": np.array(-1), "class_logits": np.zeros((6, 100, 133))},
            "maskdino",
            "temperature must be one number from 0 on",
        ),
        ({"resized": np.full((6, 2), 999)}, "mask2former", "image 0 is (120, 144) as it was, (999, 999) resized"),
        ({}, "panoptic-fpn", "has no array 'in_semantic_0'"),
        ({}, "given", "nothing to fuse in arrays"),
        ({}, "paper", "there is no model here"),
        ({}, "mask2fromer", "Did you mean mask2former?"),
    ],
)
def test_unfit_arrays_are_refused_in_one_sentence(arrays, tmp_path, changes, rule, message):
    given = {**load("inputs.npz"), **changes}
    np.savez(arrays, **{name: value for name, value in given.items() if value is not None})
    assert message in refuses(arrays, rule)
    assert not (tmp_path / "maps.npz").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "has no category_ids and no file_names"),
        ({"category_ids": np.arange(133)}, "has no file_names"),
        (
            {"category_ids": np.arange(5), "file_names": np.arange(6), "num_things": np.array(3)},
            "category_ids has 5 entries but label",
        ),
        ({"category_ids": np.arange(133), "file_names": np.array(["a"] * 6)}, "no image id is in 'a'"),
        ({"category_ids": np.arange(133), "file_names": np.array(["1"] * 6)}, "two images have one id"),
        (
            {
                "category_ids": np.arange(133),
                "file_names": np.array([f"{folder}/1.jpg" for folder in "abcdef"]),
                "image_ids": np.arange(6),
            },
            "two of file_names would be written to 1.png",
        ),
        ({"category_ids": np.zeros(133, int), "file_names": np.arange(6)}, "category_ids names a category twice"),
        ({"category_ids": np.arange(133) / 2, "file_names": np.arange(6)}, "category_ids (float64) must be whole"),
    ],
)
def test_arrays_needed_for_cocos_format_are_requested(arrays, more, message):
    np.savez(arrays, **load("inputs.npz"), **more)
    assert message in refuses(arrays, out="coco")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.npz", "There is no file"),
        ("text.npz", "cannot be read as arrays"),
        ("one.npy", "is a single array"),
        ("objects.npz", "cannot be read as arrays"),
    ],
)
def test_files_without_arrays_are_refused(tmp_path, name, message):
    (tmp_path / "text.npz").write_text("no arrays")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", class_logits=np.array([{}], dtype=object))
    assert message in refuses(tmp_path / name)


def test_no_rule_needs_an_optional_package():
    program = f"""
import sys
for name in ("transformers", "timm", "torchvision", "mmdet", "mmengine", "mmcv"):
    sys.modules[name] = None
from pathlib import Path
from panbench.studies.fusing.arrays import fuse_arrays, read_arrays
from panbench.models.rules import RULES
for name in RULES:
    file = "panoptic_fpn_inputs.npz" if name in ("panoptic-fpn", "combine") else "inputs.npz"
    arrays = read_arrays(Path({str(RECORDED)!r}) / file)
    if RULES[name].scoring == "sigmoid":
        arrays.values["class_logits"] = arrays.values["class_logits"][..., :-1] - 4
    if name != "given":
        print(name, len(next(fuse_arrays(arrays, RULES[name]()))[1]))
"""
    result = python("-c", program)
    assert result.returncode == 0, result.stderr
    assert all(int(line.split()[1]) > 0 for line in result.stdout.splitlines())
    assert len(result.stdout.splitlines()) == 12
