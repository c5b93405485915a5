"""COCONut: better masks for COCO's images. Its JSON and PNGs are nearly COCO panoptic; this adds COCO's images.

Source: relabeled_coco_val.json with relabeled_coco_val.zip (or coconut_s, coconut_b) from Kaggle or Hugging Face,
unpacked; the images are COCO's. [Deng et al. 2024]
"""

import os
from pathlib import Path
from typing import Any

from panbench.base.errors import BadDataset
from panbench.datasets.convert import Converted, convert_panoptic, shipped_categories


def convert_coconut(
    panoptic_json: str | os.PathLike[str],
    root: str | os.PathLike[str] = "data/coconut",
    split: str = "val",
    *,
    pngs: str | os.PathLike[str] | None = None,
    images_from: str | os.PathLike[str] | None = "data/coco/val2017",
    **options: Any,
) -> Converted:
    """COCONut's `split` as a panoptic set under `root`, with COCO's 133 categories.

    pngs: the unpacked PNGs; by default the folder called like the JSON, or one in it of that name or `panoptic`
    images_from: COCO's images of the same split
    options: as `panbench.datasets.convert.write_set`
    """
    path = Path(panoptic_json)
    if pngs is None:
        stem = path.with_suffix("")
        candidates = [stem / "panoptic", stem / stem.name, stem, path.parent.parent / stem.name]
        found = [folder for folder in candidates if folder.is_dir() and next(folder.glob("*.png"), None) is not None]
        if not found:
            raise BadDataset(f"The PNGs of {path} were not found in {stem}. Give their folder with --gt-dir.")
        pngs = found[0]
    if options.get("images") == "none":
        images_from = None
    return convert_panoptic(
        path, pngs, root, split, images_from=images_from, categories=shipped_categories("coco"), **options
    )
