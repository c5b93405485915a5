"""Converts semantic segmentation (one-channel PNGs) to panoptic predictions with one segment per category."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from panbench.base.files import write_json
from panbench.base.program import available_cores
from panbench.datasets.label_maps import SemanticMaps
from panbench.panoptic.coco import read_panoptic_json, write_id_png
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.types import ImageInfo

NO_INSTANCES = (
    "A semantic map has no instances, so every thing category is one segment an image: PQ of stuff and mIoU are the "
    "model's, PQ of things and of all are not."
)


def semantic_predictions(
    gt_json: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    out: Path,
    *,
    offset: str = "0",
    threads: int | None = None,
) -> Path:
    """Converts semantic maps to COCO panoptic predictions in the folder `out`; returns the path of their JSON.

    folder, offset: as of `SemanticMaps`; an image without a map has no prediction
    Raises BadDataset for a map that cannot be read, is of another size, or has values that are no category.
    """
    panoptic = read_panoptic_json(gt_json)
    maps = SemanticMaps(folder, panoptic.categories, offset)
    table = np.zeros(max((category.id for category in panoptic.categories), default=0) + 2, np.int32)
    for number, category in enumerate(panoptic.categories, start=1):
        table[category.id] = number

    def write_prediction(image: ImageInfo) -> dict[str, object]:
        """Writes the id PNG of an image's semantic map; returns the image's record for the JSON of predictions."""
        # NOTHING is -1, the last entry, which stays void.
        ids = table[maps.read(image.file_name, (image.height, image.width))]
        name = f"{Path(image.file_name).stem if by_stem else int(image.id)}.png"
        write_id_png(out / "predictions" / name, ids)
        found = np.unique(ids[ids > 0]).tolist()
        described = [{"id": number, "category_id": panoptic.categories[number - 1].id} for number in found]
        return {"image_id": own_id(image.id), "file_name": name, "segments_info": described}

    with_map = [image for image in panoptic.images.values() if maps.has(image.file_name)]
    # Frames of videos are numbered anew in each folder.
    by_stem = len({Path(image.file_name).stem for image in with_map}) == len(with_map)
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        annotations = list(pool.map(write_prediction, with_map))
    target = out / "predictions.json"
    write_json(target, {"annotations": annotations}, indent=None)
    return target
