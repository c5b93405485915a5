"""Fuses raw arrays of any framework: an .npz in, maps or COCO panoptic predictions out (docs/fusion.md).

Class logits and mask logits of models in JAX, TensorFlow or C++ are fused by any rule exactly as in an evaluation.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write, leaves_folder
from panbench.base.text import listed
from panbench.models.candidates import (
    MASK_DINO_TEMPERATURE,
    NO_LABEL,
    Candidates,
    Frame,
    Instances,
    NonFiniteOutput,
    Output,
    pair_candidates,
    sigmoid_candidates,
    softmax_candidates,
)
from panbench.models.rules import Rule, SegmentedMap, fuse
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.studies.fusing.npz import read_npz

THINGS_OF_COCO, CLASSES_OF_COCO = 80, 133
LONGEST_SIDE = 65_535
MAX_CATEGORY_ID = 2**31 - 1
"""Runs store category ids in 32 bits."""


@dataclass(frozen=True)
class Arrays:
    """The arrays of an .npz file, by name."""

    path: Path
    values: dict[str, npt.NDArray[Any]]

    def get(self, name: str, *shape: int | None) -> npt.NDArray[Any]:
        """Returns the array of this name and shape; None allows any length. Raises BadArgument if none fits."""
        if name not in self.values:
            raise BadArgument(f"{self.path} has no array {name!r}. It has {listed(self.values, 12) or 'none'}.")
        value = self.values[name]
        fits = len(shape) == value.ndim and all(want in (None, got) for want, got in zip(shape, value.shape))  # noqa: B905
        if shape and not fits:
            needed = " × ".join("any" if side is None else str(side) for side in shape)
            raise BadArgument(f"{self.path}: {name} has the shape {_array_shape_text(value)} but must have {needed}.")
        return value

    def floats(self, name: str, *shape: int | None) -> npt.NDArray[np.floating[Any]]:
        """Returns an array of floats. Raises BadArgument for integers, which cannot be logits."""
        value = self.get(name, *shape)
        if value.dtype.kind != "f":
            raise BadArgument(f"{self.path}: {name} are {value.dtype} but must be floating-point numbers.")
        return value

    def integers(self, name: str, *shape: int | None) -> npt.NDArray[np.int64]:
        """Returns an array of whole numbers as int64. Raises BadArgument if it holds others."""
        value = self.get(name, *shape)
        if value.dtype.kind == "f" and (np.abs(value) < 2**53).all() and (value == np.round(value)).all():
            return value.astype(np.int64)
        if value.dtype.kind not in "iu" or int(value.max(initial=0)) >= 2**63:
            raise BadArgument(f"{self.path}: {name} ({value.dtype}) must be whole numbers, below 2⁶³.")
        return value.astype(np.int64)

    def number(self, name: str) -> int:
        """Returns a single whole number. Raises BadArgument for other arrays."""
        value = self.integers(name)
        if value.size != 1:
            raise BadArgument(
                f"{self.path}: {name} has the shape {_array_shape_text(value)} but must be a single number."
            )
        return int(value.reshape(()))

    def texts(self, name: str, *shape: int | None) -> list[str]:
        """Returns an array of strings as a list. Raises BadArgument if it is missing or not of the given shape."""
        value = self.get(name, *shape)
        return [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in value.tolist()]

    def __contains__(self, name: str) -> bool:
        """Returns True if the .npz file has an array of this name."""
        return name in self.values


def read_arrays(path: Path) -> Arrays:
    """Reads an .npz file; pickled objects are refused. Raises BadArgument for unusable files."""
    return Arrays(path, read_npz(path))


def fuse_arrays(arrays: Arrays, rule: Rule) -> Iterator[SegmentedMap]:
    """Yields the id map and segments of each image. Raises BadArgument for arrays that the rule cannot use."""
    for index, output in enumerate(_candidates_of(arrays, rule)):
        with _refusing_non_finite(arrays, index):
            (fused,) = fuse([output], rule)
            segmented = rule.to_segments(fused)
        yield segmented


@contextlib.contextmanager
def _refusing_non_finite(arrays: Arrays, image: int) -> Iterator[None]:
    """Turns NaN or infinity in an image's arrays, found within the context, into BadArgument."""
    try:
        yield
    except NonFiniteOutput as error:
        raise BadArgument(f"{arrays.path}: the {error} of image {image} hold NaN or infinity.") from error


def write_fused_maps(path: Path, maps: Sequence[SegmentedMap], rule: Rule) -> None:
    """Writes fused maps to an .npz, with the label and score of each segment.

    Arrays: rule; map_i (H, W) int32, 0 = void, k = the k-th segment; labels_i; scores_i (NaN if none).
    """
    values: dict[str, npt.NDArray[Any]] = {"rule": np.array(str(rule))}
    for index, (ids, segments) in enumerate(maps):
        table = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
        for position, segment in enumerate(segments, start=1):
            table[segment.id] = position
        values[f"map_{index}"] = table[ids]
        values[f"labels_{index}"] = np.array([segment.label for segment in segments], np.int64)
        scores = [np.nan if segment.score is None else segment.score for segment in segments]
        values[f"scores_{index}"] = np.array(scores, np.float64)
    try:
        with atomic_write(path) as handle:
            np.savez_compressed(handle, **values)  # type: ignore[arg-type]
    except OSError as error:
        raise BadArgument(f"{path} cannot be written: {error.strerror or error}. Name another --out.") from None


def check_predictions(arrays: Arrays, folder: Path, *, overwrite: bool = False) -> None:
    """Raises BadArgument if `write_predictions` would fail: arrays are missing, or it would overwrite."""
    missing = [name for name in ("category_ids", "file_names") if name not in arrays]
    if missing:
        raise BadArgument(
            f"{arrays.path} has no {' and no '.join(missing)}, which predictions in COCO's form need. Add them, or "
            "write arrays: --out FILE.npz."
        )
    if (folder / "predictions.json").exists() and not overwrite:
        raise BadArgument(f"{folder} already holds predictions. Give another --out, or --overwrite to replace them.")
    names = arrays.texts("file_names", None)
    _check_file_names(arrays, names)
    _checked_category_ids(arrays, None)
    _image_ids_of(arrays, names)
    pngs = [_png_for(name) for name in names]
    if twice := next((png for png in pngs if pngs.count(png) > 1), None):
        raise BadArgument(
            f"{arrays.path}: two of file_names would be written to {twice}. Give each image its own name."
        )


def write_predictions(arrays: Arrays, folder: Path, maps: Sequence[SegmentedMap]) -> Path:
    """Writes predictions.json and predictions/*.png in COCO's format; returns the path of the JSON.

    Needs `category_ids` (classes,) and `file_names` (images,); also `image_ids` if file names hold no number.
    Raises BadArgument if they do not fit the maps.
    """
    target = folder / "predictions.json"
    isthing = _which_are_things(arrays, None)
    category_ids = _checked_category_ids(arrays, len(isthing))
    highest = max((segment.label for _, segments in maps for segment in segments), default=0)
    if highest >= len(category_ids):
        raise BadArgument(f"{arrays.path}: category_ids has {len(category_ids)} entries but label {highest} occurs.")
    names = arrays.texts("file_names", len(maps))
    image_ids = _image_ids_of(arrays, names)
    images, annotations = {}, {}
    for (ids, segments), image_id, name in zip(maps, image_ids, names, strict=True):
        png = _png_for(name)
        write_id_png(folder / "predictions" / png, ids)
        images[image_id] = ImageInfo(image_id, name, *ids.shape)
        listed_segments = tuple(Segment(s.id, category_ids[s.label], s.area, score=s.score) for s in segments)
        annotations[image_id] = Annotation(image_id, png, listed_segments)
    class_names = arrays.texts("category_names", len(isthing)) if "category_names" in arrays else category_ids
    categories = tuple(
        Category(int(category), str(name), thing)
        for category, name, thing in zip(category_ids, class_names, isthing, strict=True)
    )
    write_panoptic_json(target, PanopticSet(categories, images, annotations, folder / "predictions", target))
    return target


def _candidates_of(arrays: Arrays, rule: Rule) -> Iterator[Output]:
    """Yields what the fusion rule takes of each image: masks or instances, scored as in the rule's paper."""
    if rule.takes is Instances:
        yield from _instances_of_images(arrays)
    elif rule.takes is not Candidates:
        raise BadArgument(f"The rule {rule.name} takes a finished map, so there is nothing to fuse in arrays.")
    elif "thing_logits" in arrays:
        yield from _thing_and_stuff_candidates(arrays)
    else:
        yield from _query_candidates(arrays, rule)


def _query_candidates(arrays: Arrays, rule: Rule) -> Iterator[Candidates]:
    """Yields each image's queries, with class scores and masks, from the arrays of class logits and masks.

    Shapes: class logits (images, queries, classes [+ 1]), masks (images, queries, h, w).
    """
    class_logits = arrays.floats("class_logits", None, None, None)
    images, queries, columns = class_logits.shape
    masks, activation = _masks_and_activation(arrays, "mask_logits", "mask_codes", images, queries)
    sigmoid = rule.scoring == "sigmoid"
    classes = columns if sigmoid else columns - 1
    declared = arrays.number("num_classes") if "num_classes" in arrays else classes
    if declared != classes or classes < 1:
        what = "no column for nothing" if sigmoid else "a last column for nothing"
        raise BadArgument(
            f"{arrays.path}: {columns} columns of class_logits for {max(declared, 1)} classes; "
            f"{rule.name} takes {what}."
        )
    isthing = _which_are_things(arrays, classes)
    frames = _image_frames(arrays, images, (masks.shape[-2], masks.shape[-1]), padded=rule.knows_padding)
    temperature = _temperature(arrays)
    for index, frame in enumerate(frames):
        logits = torch.from_numpy(np.ascontiguousarray(class_logits[index : index + 1], np.float32))
        values = torch.from_numpy(np.ascontiguousarray(_decoded_masks(masks[index : index + 1])))
        with _refusing_non_finite(arrays, index):
            if sigmoid:
                scored = sigmoid_candidates(logits, values, [frame], isthing, temperature=temperature)
            else:
                scored = softmax_candidates(logits, values, [frame], isthing, nothing_wins=rule.scoring == "softmax")
        (candidates,) = scored
        yield dataclasses.replace(candidates, activation=activation)


def _thing_and_stuff_candidates(arrays: Arrays) -> Iterator[Candidates]:
    """Yields Panoptic SegFormer's candidates: from thing queries, and one query per stuff class."""
    thing_logits = arrays.floats("thing_logits", None, None, None)
    images, queries, things = thing_logits.shape
    stuff_logits = arrays.floats("stuff_logits", images, None)
    stuff = stuff_logits.shape[1]
    thing_masks, _ = _masks_and_activation(arrays, "thing_masks", "thing_mask_codes", images, queries)
    stuff_masks, _ = _masks_and_activation(arrays, "stuff_masks", "stuff_mask_codes", images, stuff)
    if stuff_masks.shape[-2:] != thing_masks.shape[-2:]:
        raise BadArgument(
            f"{arrays.path}: masks of things are {_array_shape_text(thing_masks[0, 0])}, of stuff "
            f"{_array_shape_text(stuff_masks[0, 0])}; they must have one size."
        )
    isthing = _which_are_things(arrays, things + stuff)
    if sum(isthing) != things:
        raise BadArgument(f"{arrays.path}: thing_logits has {things} columns but {sum(isthing)} classes are things.")
    frames = _image_frames(arrays, images, (thing_masks.shape[-2], thing_masks.shape[-1]), padded=True)
    for index, frame in enumerate(frames):
        with _refusing_non_finite(arrays, index):
            found = pair_candidates(
                torch.from_numpy(np.ascontiguousarray(thing_logits[index], np.float32)),
                torch.from_numpy(_decoded_masks(thing_masks[index])),
                torch.from_numpy(np.ascontiguousarray(stuff_logits[index], np.float32)),
                torch.from_numpy(_decoded_masks(stuff_masks[index])),
                dataclasses.replace(frame, one_step=True),
                isthing,
            )
        yield found


def _instances_of_images(arrays: Arrays) -> Iterator[Instances]:
    """Yields the instances of each image i, from in_masks_i, in_scores_i, in_classes_i and in_semantic_i.

    in_masks_i is packed in bits or plain; in_semantic_i is 0 at things.
    """
    arrays.get("in_semantic_0", None, None)
    numbers = sorted(int(found[1]) for name in arrays.values if (found := re.fullmatch(r"in_semantic_(\d+)", name)))
    if numbers != list(range(len(numbers))):
        gap = next(number for number in range(len(numbers)) if number not in numbers)
        raise BadArgument(f"{arrays.path} has in_semantic_{numbers[-1]} but no in_semantic_{gap}: count images from 0.")
    isthing = _which_are_things(arrays, None)
    labels_of = (NO_LABEL, *(label for label, thing in enumerate(isthing) if not thing))
    for index in numbers:
        semantic = arrays.integers(f"in_semantic_{index}", None, None)
        size = (semantic.shape[0], semantic.shape[1])
        if not semantic.size:
            raise BadArgument(f"{arrays.path}: in_semantic_{index} is empty ({_array_shape_text(semantic)}).")
        if wrong := [int(value) for value in (semantic.min(), semantic.max()) if not 0 <= value < len(labels_of)]:
            raise BadArgument(
                f"{arrays.path}: in_semantic_{index} has the value {wrong[0]} but there are {len(labels_of) - 1} "
                "stuff classes; 0 stands for things, k for the k-th stuff class."
            )
        masks = arrays.get(f"in_masks_{index}", None, None, None)
        count = len(masks)
        if masks.shape[1:] == (size[0], -(-size[1] // 8)) and masks.dtype == np.uint8 and size[1] > 1:
            masks = np.unpackbits(masks, axis=2, count=size[1])
        elif masks.shape[1:] != size:
            raise BadArgument(
                f"{arrays.path}: in_masks_{index} has the shape {_array_shape_text(masks)} for an image of {size}."
            )
        if masks.dtype.kind not in "buf":
            raise BadArgument(f"{arrays.path}: in_masks_{index} are {masks.dtype} but must be bits or probabilities.")
        scores = arrays.floats(f"in_scores_{index}", count).astype(np.float32)
        labels = arrays.integers(f"in_classes_{index}", count)
        if strange := [label for label in labels.tolist() if not (0 <= label < len(isthing) and isthing[label])]:
            raise BadArgument(
                f"{arrays.path}: in_classes_{index} has the label {strange[0]}, which is not a thing of {len(isthing)} "
                "classes. Add num_things or isthing (classes,) where they are not COCO's."
            )
        if not np.isfinite(scores).all():
            raise BadArgument(f"{arrays.path}: in_scores_{index} hold NaN or infinity.")
        order = np.argsort(-scores, kind="stable")
        channels = torch.nn.functional.one_hot(torch.from_numpy(semantic.astype(np.int64)), len(labels_of))
        yield Instances(
            boxes=None,
            masks=torch.from_numpy(masks[order].astype(np.float32)),
            labels=tuple(labels[order].tolist()),
            scores=tuple(scores[order].tolist()),
            semantic_logits=channels.permute(2, 0, 1).float(),
            semantic_labels=labels_of,
            frame=Frame(size, size, size),
        )


def _masks_and_activation(
    arrays: Arrays, name: str, codes: str, images: int, queries: int
) -> tuple[npt.NDArray[Any], Literal["sigmoid", "identity"]]:
    """Returns masks (images, queries, h, w), and the activation that turns them into probabilities."""
    if codes in arrays and name in arrays:
        raise BadArgument(f"{arrays.path} has {name} and {codes}: give the masks once.")
    if codes in arrays:
        found = arrays.get(codes, images, queries, None, None)
        if found.dtype != np.uint8:
            raise BadArgument(f"{arrays.path}: {codes} are {found.dtype} but must be uint8, mask = code / 64.")
    else:
        found = arrays.get(name, images, queries, None, None)
        if found.dtype.kind != "f":
            hint = f" Masks in bytes, mask = code / 64, are named {codes}." if found.dtype == np.uint8 else ""
            raise BadArgument(f"{arrays.path}: {name} are {found.dtype} but must be floating-point numbers.{hint}")
    if 0 in found.shape[-2:]:
        raise BadArgument(f"{arrays.path}: the masks are empty ({_array_shape_text(found)}).")
    return found, "identity" if codes in arrays else "sigmoid"


def _decoded_masks(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Converts masks to float32: mask logits stay as they are, and bytes become probabilities, byte / 64."""
    return values.astype(np.float32) / np.float32(64) if values.dtype == np.uint8 else values.astype(np.float32)


def _temperature(arrays: Arrays) -> float | None:
    """Returns the file's temperature of sigmoid scores, or Mask DINO's if it gives none; 0 becomes None."""
    if "temperature" not in arrays:
        return MASK_DINO_TEMPERATURE
    value = arrays.get("temperature")
    if value.dtype.kind not in "iuf" or value.size != 1 or not 0 <= value.reshape(()) < np.inf:
        raise BadArgument(f"{arrays.path}: temperature must be one number from 0 on; 0 leaves the scores as they are.")
    return float(value.reshape(())) or None


def _which_are_things(arrays: Arrays, classes: int | None) -> tuple[bool, ...]:
    """Returns whether each class is a thing: from `isthing`, else the first `num_things`, else as in COCO."""
    if "isthing" in arrays:
        table = arrays.get("isthing", classes)
        if table.dtype.kind not in "biuf" or not set(table.tolist()) <= {0, 1}:
            raise BadArgument(f"{arrays.path}: isthing must be true or false (1 or 0) for each class.")
        return tuple(bool(thing) for thing in table.tolist())
    for name in ("num_classes", "category_ids"):
        if classes is None and name in arrays:
            classes = arrays.number(name) if name == "num_classes" else len(arrays.get(name, None))
    things = arrays.number("num_things") if "num_things" in arrays else None
    if things is None and classes in (None, CLASSES_OF_COCO):
        things, classes = THINGS_OF_COCO, CLASSES_OF_COCO
    if things is None:
        raise BadArgument(
            f"{arrays.path} does not say which of its {classes} classes are things. Add num_things, when they come "
            "first, or isthing (classes,)."
        )
    if classes is None:
        classes = max(CLASSES_OF_COCO, things)
    if not 0 <= things <= classes:
        raise BadArgument(f"{arrays.path}: num_things is {things} of {classes} classes.")
    return (True,) * things + (False,) * (classes - things)


def _image_frames(arrays: Arrays, images: int, masks: tuple[int, int], *, padded: bool) -> list[Frame]:
    """Returns the padded, resized and original size of each image.

    Without `padded` and `resized`, masks cover the original image.
    padded: False for rules of models whose masks cover the resized image without padding (DETR)
    """
    original = arrays.integers("original", images, 2)
    if not images:
        raise BadArgument(f"{arrays.path} holds no image: original has the shape {_array_shape_text(original)}.")
    resized = arrays.integers("resized", images, 2) if "resized" in arrays else None
    outer = resized
    if "padded" in arrays:
        one_for_all = arrays.values["padded"].ndim == 1
        outer = np.broadcast_to(arrays.integers("padded", *([2] if one_for_all else [images, 2])), (images, 2))
    if resized is None:
        resized = outer
    if outer is None or resized is None:
        outer = resized = np.broadcast_to(masks, (images, 2))
    if not padded:
        outer = resized
    found = []
    for index in range(images):
        sizes = [(int(size[index][0]), int(size[index][1])) for size in (outer, resized, original)]
        sides = [side for size in sizes for side in size]
        if max(height * width for height, width in sizes) > DEFAULT_MAX_PIXELS and max(sides) <= LONGEST_SIDE:
            raise BadArgument(
                f"{arrays.path}: image {index} is {sizes[2]} as it was, {sizes[1]} resized and {sizes[0]} padded; an "
                f"image has at most {DEFAULT_MAX_PIXELS:,} pixels here."
            )
        if min(sides) < 1 or max(sides) > LONGEST_SIDE or any(sizes[1][side] > sizes[0][side] for side in (0, 1)):
            raise BadArgument(
                f"{arrays.path}: image {index} is {sizes[2]} as it was, {sizes[1]} resized and {sizes[0]} padded; "
                f"sizes are height, width, from 1 to {LONGEST_SIDE:,}, and padding only adds."
            )
        found.append(Frame(sizes[0], sizes[1], sizes[2]))
    return found


def _checked_category_ids(arrays: Arrays, classes: int | None) -> list[int]:
    """Returns the file's `category_ids`. Raises BadArgument for repeated ids, and for ids that a run cannot store."""
    found = arrays.integers("category_ids", classes).tolist()
    if outside := [number for number in found if not 0 <= number <= MAX_CATEGORY_ID]:
        raise BadArgument(f"{arrays.path}: category_ids has {outside[0]}; they lie in 0…{MAX_CATEGORY_ID}.")
    if len(set(found)) != len(found):
        raise BadArgument(f"{arrays.path}: category_ids names a category twice; each class needs its own.")
    return found


def _check_file_names(arrays: Arrays, names: Sequence[str]) -> None:
    """Raises BadArgument for a name that is not a file's, or that leads out of the folder."""
    for name in names:
        if leaves_folder(name) or not Path(name).name.strip(". ") or not name.isprintable():
            raise BadArgument(f"{arrays.path}: file_names has {name!r}, which is not the name of an image's file.")


def _image_ids_of(arrays: Arrays, names: Sequence[str]) -> list[int]:
    """Returns the id of each image: from `image_ids`, else the number in its file name."""
    if "image_ids" in arrays:
        ids = arrays.integers("image_ids", len(names)).tolist()
    else:
        # COCO's names are the ids: 000000000139.jpg.
        numbers = [re.fullmatch(r"\D*(\d+)", Path(name).stem) for name in names]
        unnumbered = [name for name, number in zip(names, numbers, strict=True) if number is None]
        if unnumbered:
            raise BadArgument(f"{arrays.path}: no image id is in {unnumbered[0]!r}. Add image_ids (images,).")
        ids = [int(number[1]) for number in numbers if number is not None]
    if len(set(ids)) != len(ids):
        raise BadArgument(f"{arrays.path}: two images have one id. Add image_ids (images,), each once.")
    return ids


def _png_for(name: str) -> str:
    """Returns the name of the PNG for an image file."""
    return Path(name).with_suffix(".png").name


def _array_shape_text(value: npt.NDArray[Any]) -> str:
    return " × ".join(map(str, value.shape)) or "of a single number"
