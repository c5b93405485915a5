#!/usr/bin/env python3
"""Makes the folders beside it: the same few scenes as the files of ten programs, each with panopticapi's PQ of them.

    python tests/foreign/make.py

Nothing of panbench takes part: the panoptic sets that panopticapi scores are written here, by hand.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from panopticapi.combine_semantic_and_instance_predictions import combine_predictions
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as rle_masks

HERE = Path(__file__).resolve().parent
THINGS, STUFF = ("person", "car"), ("road", "sky", "tree")
HEIGHT, WIDTH = 24, 36


def scene(number: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Names of categories and numbers of instances (0 for stuff), both (H, W); a shift makes a prediction of it."""
    rng = np.random.default_rng(number)
    names = np.full((HEIGHT, WIDTH), "road", "<U6")
    names[: 9 + shift] = "sky"
    names[9 + shift : 14, : 20 - 2 * shift] = "tree"
    names[:, -1] = ""
    instances = np.zeros((HEIGHT, WIDTH), int)
    for place in range(8):
        y, x = 12 * (place // 4) + 1, 9 * (place % 4) + 1
        height, width, kind, kept = *rng.integers(4, 9, 2), rng.choice(THINGS), rng.random()
        if shift and kept < 0.2:
            continue
        box = slice(y + shift, y + height), slice(x, x + width - (shift if place % 2 else 0))
        names[box] = THINGS[(THINGS.index(kind) + 1) % 2] if shift and kept > 0.9 else kind
        instances[box] = place + 1
    return names, instances


SCENES = range(1, 4)
TRUTH = {number: scene(number) for number in SCENES}
FOUND = {number: scene(number, shift=1) for number in SCENES}


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n", "utf-8")


def rle(mask: np.ndarray, *, compressed: bool = True) -> dict:
    found = rle_masks.encode(np.asfortranarray(mask, np.uint8))
    if compressed:
        return {"size": found["size"], "counts": found["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": runs if not flat[0] else [0, *runs]}


def segments(names: np.ndarray, instances: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, mask) of each segment: things by instance, stuff by category."""
    things = [(names[instances == number][0], instances == number) for number in np.unique(instances) if number]
    return things + [(name, mask) for name in STUFF if (mask := (names == name) & (instances == 0)).any()]


def category_list(ids: dict[str, int]) -> list[dict]:
    return [{"id": number, "name": name, "isthing": int(name in THINGS)} for name, number in ids.items()]


def panoptic(folder, stem, scenes, ids, *, image_id, png, jpg, keep=lambda name: True, crowd=None, **extra) -> Path:
    """Writes a COCO panoptic set, JSON and PNGs, of some scenes.

    ids: category id by name; image_id, png, jpg: functions of a scene's number; keep: which categories have segments
    crowd: (number, name) of a scene and a category whose segments are one crowd; extra: more keys of each segment
    """
    images, annotations = [], []
    for number, (names, instances) in scenes.items():
        found = [(name, mask, 0) for name, mask in segments(names, instances) if keep(name)]
        if crowd is not None and crowd[0] == number:
            group = np.any([mask for name, mask, _ in found if name == crowd[1]], axis=0)
            found = [(name, mask, 0) for name, mask, _ in found if name != crowd[1]] + [(crowd[1], group, 1)]
        id_map, described = np.zeros((HEIGHT, WIDTH), np.uint32), []
        for place, (name, mask, iscrowd) in enumerate(found):
            segment_id = 4099 * (place + 1) + number
            id_map[mask] = segment_id
            described.append(
                {"id": segment_id, "category_id": ids[name], "area": int(mask.sum()), "iscrowd": iscrowd, **extra}
            )
        save(folder / stem / png(number), id2rgb(id_map))
        images.append({"id": image_id(number), "file_name": jpg(number), "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": image_id(number), "file_name": png(number), "segments_info": described})
    content = {"images": images, "annotations": annotations, "categories": category_list(ids)}
    write(folder / f"{stem}.json", content)
    return folder / f"{stem}.json"


def expect(folder: Path, gt: Path, pred: Path, *commands: str, groups: tuple[str, ...] = ("All", "Things", "Stuff")):
    """Writes what panopticapi says of a panoptic set, and the commands that say the same of the folder's files."""
    truth, answer = (json.loads(path.read_text()) for path in (gt, pred))
    answers = {annotation["image_id"]: annotation for annotation in answer["annotations"]}
    pairs = [(annotation, answers[annotation["image_id"]]) for annotation in truth["annotations"]]
    categories = {category["id"]: category for category in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        stat = pq_compute_single_core(0, pairs, str(gt.with_suffix("")), str(pred.with_suffix("")), categories)
    kinds = {"All": None, "Things": True, "Stuff": False}
    write(
        folder / "expected.json", {of: 100 * stat.pq_average(categories, isthing=kinds[of])[0]["pq"] for of in groups}
    )
    (folder / "commands.txt").write_text("\n".join(f"panbench {command}" for command in commands) + "\n", "utf-8")


COCO = {"person": 1, "car": 3, "road": 149, "sky": 187, "tree": 184}
COCO_NAMES = {
    "image_id": lambda number: 1000 + number,
    "png": lambda number: f"{1000 + number:012}.png",
    "jpg": lambda number: f"{1000 + number:012}.jpg",
}
CITY = {"person": 24, "car": 26, "road": 7, "sky": 23, "tree": 21}


def city(number: int) -> str:
    return f"frankfurt_000000_{number:06}"


def detectron2_coco(folder: Path) -> None:
    gt = panoptic(folder, "panoptic_val2017", TRUTH, COCO, **COCO_NAMES)
    pred = panoptic(folder, "predictions", FOUND, COCO, **COCO_NAMES, isthing=True, score=0.97)
    expect(folder, gt, pred, "score --gt panoptic_val2017.json --pred predictions.json --json")


def detectron2_cityscapes(folder: Path) -> None:
    """Its evaluator names images by city, sequence and frame, and PNGs by the photograph."""
    names = {"image_id": city, "jpg": lambda number: f"{city(number)}_leftImg8bit.png"}
    gt = panoptic(
        folder, "cityscapes_panoptic_val", TRUTH, CITY, png=lambda n: f"{city(n)}_gtFine_panoptic.png", **names
    )
    pred = panoptic(folder, "predictions", FOUND, CITY, png=lambda n: f"{city(n)}_leftImg8bit.png", **names)
    expect(folder, gt, pred, "score --gt cityscapes_panoptic_val.json --pred predictions.json --json")


def oneformer(folder: Path) -> None:
    """ADE20K as Mask2Former's script prepares it: ids of images are text, category ids count from 0."""
    ids = {"person": 12, "car": 20, "road": 6, "sky": 2, "tree": 0}
    names = {
        "image_id": lambda number: f"ADE_val_{number:08}",
        "png": lambda number: f"ADE_val_{number:08}.png",
        "jpg": lambda number: f"ADE_val_{number:08}.jpg",
    }
    gt = panoptic(folder, "ade20k_panoptic_val", TRUTH, ids, **names)
    pred = panoptic(folder, "predictions", FOUND, ids, **names, isthing=False)
    expect(folder, gt, pred, "score --gt ade20k_panoptic_val.json --pred predictions.json --json")


def eomt(folder: Path) -> None:
    """Predictions of a loop over transformers' output: nothing but `annotations`, scores, RGBA PNGs."""
    gt = panoptic(folder, "panoptic_val2017", TRUTH, COCO, **COCO_NAMES)
    pred = panoptic(folder, "eomt", FOUND, COCO, **COCO_NAMES, score=0.8, was_fused=False)
    expect(folder, gt, pred, "score --gt panoptic_val2017.json --pred eomt.json --json")
    content = json.loads(pred.read_text())
    bare = [
        {key: value for key, value in segment.items() if key not in ("area", "iscrowd")}
        for annotation in content["annotations"]
        for segment in annotation["segments_info"]
    ]
    for annotation in content["annotations"]:
        annotation["segments_info"] = [bare.pop(0) for _ in annotation["segments_info"]]
        path = folder / "eomt" / annotation["file_name"]
        Image.open(path).convert("RGBA").save(path)
    write(pred, {"annotations": content["annotations"]})


def cityscapesscripts(folder: Path, reference: Path) -> None:
    """gtFine's instance ids; a bare label of things is a group."""
    names = {"image_id": city, "png": lambda n: f"{city(n)}_pred.png", "jpg": lambda n: f"{city(n)}_leftImg8bit.png"}
    group = (2, "person")
    gt = panoptic(reference, "gt", TRUTH, CITY, **names, crowd=group)
    pred = panoptic(folder, "predictions", FOUND, CITY, **names)
    for number, (titles, instances) in TRUTH.items():
        values = np.zeros((HEIGHT, WIDTH), np.int32)
        for place, (name, mask) in enumerate(segments(titles, instances)):
            grouped = (number, name) == group
            values[mask] = CITY[name] * 1000 + place if name in THINGS and not grouped else CITY[name]
        path = folder / "gtFine" / "val" / "frankfurt" / f"{city(number)}_gtFine_instanceIds.png"
        save(path, values.astype(np.uint16))
    expect(
        folder, gt, pred,
        "data cityscapes . --root made --place none",
        "score --gt made/annotations/panoptic_val.json --pred predictions.json --json",
    )  # fmt: skip


def coco_stuff(folder: Path, reference: Path) -> None:
    """Pixel maps of id − 1, 255 where nothing is: predictions of semantic segmentation."""
    ids = {"person": 1, "car": 3, "road": 149, "sky": 157, "tree": 169}
    gt = panoptic(folder, "gt", TRUTH, ids, **COCO_NAMES)
    joined = {number: (names, np.zeros_like(instances)) for number, (names, instances) in FOUND.items()}
    all_stuff = {number: (names, np.unique(names, return_inverse=True)[1].reshape(names.shape) * (names != ""))
                 for number, (names, _) in joined.items()}  # fmt: skip
    pred = panoptic(reference, "pred", all_stuff, ids, **COCO_NAMES)
    for number, (names, _) in FOUND.items():
        values = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for name, category_id in ids.items():
            values[names == name] = category_id - 1
        save(folder / "pixelmaps" / COCO_NAMES["png"](number), values)
    expect(folder, gt, pred, "score --gt gt.json --semantic pixelmaps --offset 1 --json", groups=("Stuff",))


def things_only(folder: Path, reference: Path, ids: dict[str, int], first: int, jpg, mask_of) -> tuple[Path, Path]:
    """A COCO instance JSON of the truth, and panoptic predictions of its things."""
    names = {"image_id": lambda n: first + n - 1, "png": lambda n: f"{Path(jpg(n)).stem}.png", "jpg": jpg}
    gt = panoptic(reference, "gt", TRUTH, ids, **names, keep=THINGS.__contains__)
    pred = panoptic(folder, "predictions", FOUND, ids, **names, keep=THINGS.__contains__)
    annotations = []
    for number, (titles, instances) in TRUTH.items():
        for name, mask in segments(titles, instances):
            if name in THINGS:
                record = {"id": len(annotations) + 1, "image_id": names["image_id"](number), "category_id": ids[name]}
                annotations.append({**record, "area": int(mask.sum()), **mask_of(mask)})
    images = [{"id": names["image_id"](n), "file_name": jpg(n), "height": HEIGHT, "width": WIDTH} for n in SCENES]
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    write(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    return gt, pred


INSTANCES = (
    "data convert instances instances.json --out made",
    "score --gt made/annotations/panoptic_val.json --pred predictions.json --json",
)


def cvat(folder: Path, reference: Path) -> None:
    """Brush masks: run lengths that are not compressed, all of them crowds."""
    ids = {"person": 1, "car": 2}
    found = things_only(
        folder, reference, ids, 1, lambda n: f"frame_{n:06}.PNG",
        lambda mask: {"segmentation": rle(mask, compressed=False), "iscrowd": 1},
    )  # fmt: skip
    expect(folder, *found, *INSTANCES, groups=("Things",))


def label_studio(folder: Path, reference: Path) -> None:
    """Its COCO export: polygons, ids from 0, file names with a hash before them."""

    def box(mask: np.ndarray) -> dict:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        corners = [left, top, right, top, right, bottom, left, bottom]
        return {"segmentation": [[int(value) for value in corners]], "iscrowd": 0, "ignore": 0}

    jpg = lambda n: f"images/{0x1A2B3C4D + n:x}-street_{n}.jpg"  # noqa: E731
    found = things_only(folder, reference, {"car": 0, "person": 1}, 0, jpg, box)
    expect(folder, *found, *INSTANCES, groups=("Things",))


def arrays(folder: Path, reference: Path) -> None:
    """One file a case, label 0 is background: nnU-Net's way, with instances."""
    ids = {"person": 1, "car": 2, "road": 3, "sky": 4, "tree": 5}
    names = {"image_id": lambda n: n, "png": lambda n: f"case_{n:03}.png", "jpg": lambda n: f"case_{n:03}.jpg"}
    files = [panoptic(reference, side, of, ids, **names) for side, of in (("gt", TRUTH), ("pred", FOUND))]
    for side, of in (("labelsTs", TRUTH), ("predicted", FOUND)):
        (folder / side).mkdir(parents=True)
        for number, (titles, instances) in of.items():
            labels = np.vectorize({**ids, "": 0}.__getitem__)(titles).astype(np.uint8)
            np.savez_compressed(folder / side / f"case_{number:03}.npz", labels=labels, instances=instances)
    write(folder / "categories.json", category_list(ids))
    convert = "data convert arrays {0} --categories categories.json --out made/{0}"
    sets = "made/labelsTs/annotations/panoptic_val.json --pred made/predicted/annotations/panoptic_val.json"
    expect(folder, *files, convert.format("labelsTs"), convert.format("predicted"), f"score --gt {sets} --json")


def panopticapi_merge(folder: Path, reference: Path) -> None:
    """Results of two models, joined by panopticapi's script."""
    gt = panoptic(folder, "gt", TRUTH, COCO, **COCO_NAMES)
    results, semantic = [], []
    for number, (titles, instances) in FOUND.items():
        image_id, values = COCO_NAMES["image_id"](number), np.zeros((HEIGHT, WIDTH), np.uint8)
        for place, (name, mask) in enumerate(segments(titles, instances)):
            if name in THINGS:
                wider = mask | np.roll(mask, 2, axis=1)
                score = round(0.95 - 0.07 * place, 2)
                record = {"image_id": image_id, "category_id": COCO[name], "score": score}
                results.append({**record, "segmentation": rle(wider)})
        for name in STUFF:
            values[titles == name] = COCO[name]
            record = {"image_id": image_id, "category_id": COCO[name]}
            semantic.append({**record, "segmentation": rle(titles == name)})
        save(folder / "semantic" / COCO_NAMES["png"](number), values)
    write(folder / "results.json", results)
    write(reference / "semantic.json", semantic)
    # The script makes random ids near these colours: near black, one could be void.
    colors = [{**each, "color": [200, 50 + 40 * place, 120]} for place, each in enumerate(category_list(COCO))]
    write(reference / "categories.json", colors)
    with contextlib.redirect_stdout(io.StringIO()):
        files = (reference / "semantic.json", folder / "results.json", gt, reference / "categories.json")
        merged = (reference / "merged", reference / "merged.json")
        combine_predictions(*map(str, (*files, *merged)), 0.5, 0.5, 30)
    files = "--instances results.json --semantic semantic --images gt.json"
    rule = "--rule combine:stuff_area=30"
    expect(folder, gt, reference / "merged.json", f"fuse {files} {rule} --out made --json")


FORMS = (
    detectron2_coco, detectron2_cityscapes, oneformer, eomt, cityscapesscripts, coco_stuff, cvat, label_studio, arrays,
    panopticapi_merge,
)  # fmt: skip


def main() -> None:
    for form in FORMS:
        folder = HERE / form.__name__
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as reference:
            wants = form.__code__.co_argcount
            form(*(folder, Path(reference))[:wants])
        sys.stdout.write(f"{folder.name} {(folder / 'expected.json').read_text()}")


if __name__ == "__main__":
    main()
