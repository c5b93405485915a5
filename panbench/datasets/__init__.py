"""Where images and their ground truth come from."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from panbench.catalog import cache_dir
from panbench.datasets import shapes
from panbench.datasets.coco import Dataset, open_folder, open_json
from panbench.errors import BadArgument

__all__ = ["Dataset", "open_dataset"]


def open_dataset(
    data: str | Path | None = "shapes",
    *,
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The dataset that the arguments of `panbench eval` name.

    data: `shapes` (generated on first use, at 128×160; `shapes:480x640` for another size), `coco` (data/coco), or a
        folder in mmdet's layout; not used when `gt` and `images` give a JSON and a folder of images
    progress: called with (images drawn, images in all) while `shapes` is generated
    Raises BadDataset, BadArgument.
    """
    if gt is not None or images is not None:
        if gt is None or images is None:
            raise BadArgument("--images and --gt go together: a folder of images and its COCO panoptic JSON.")
        return open_json(gt, images, gt_dir=gt_dir, limit=limit, image_ids=image_ids)
    name = str(data)
    if name == "shapes" or name.startswith("shapes:"):
        size = _shapes_size(name)
        folder = cache_dir() / "shapes" / f"v{shapes.VERSION}-{size[0]}x{size[1]}-seed0"
        shapes.generate(folder, split=split, size=size, progress=progress)
        opened = open_folder(folder, split=split, limit=limit, image_ids=image_ids)
        return dataclasses.replace(
            opened, name="shapes" if size == shapes.DEFAULT_SIZE else f"shapes-{size[0]}x{size[1]}"
        )
    folder = Path("data/coco") if name == "coco" and not Path(name).is_dir() else Path(name)
    return open_folder(folder, split=split, limit=limit, image_ids=image_ids)


def _shapes_size(name: str) -> tuple[int, int]:
    if name == "shapes":
        return shapes.DEFAULT_SIZE
    height, by, width = name.removeprefix("shapes:").partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise BadArgument(f"{name!r} is no size of shapes: write shapes:HEIGHTxWIDTH, for example shapes:480x640.")
    return int(height), int(width)
