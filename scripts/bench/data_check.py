"""How long `panbench data check` takes on generated images of COCO's size: python scripts/bench/data_check.py.

250 different scenes (480×640, about 11 segments, JPEGs of about 160 kB) stand under 20 names each, so the disk's cache
is warm; the time is that of reading, decoding and counting.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np

from panbench.datasets.check import check_set, measure_segments
from panbench.datasets.fetch import panoptic_categories
from panbench.panoptic.coco import write_id_png
from scripts.bench.harness import arguments, finish, in_turn


def write_scenes(root: Path, n_images: int, n_different: int) -> None:
    """A set in mmdet's layout: Voronoi cells with wavy borders, and smooth noise as images."""
    rng = np.random.default_rng(0)
    images = root / "val2017"
    pngs = root / "annotations" / "panoptic_val2017"
    images.mkdir(parents=True)
    pngs.mkdir(parents=True)
    rows, columns = np.mgrid[:480, :640].astype(np.float32)
    records, listed = [], []
    for number in range(n_images):
        name = f"{number:012}"
        if number < n_different:
            points = rng.uniform(0, 1, (11, 2)) * (480, 640)
            waves = 12 * np.sin(columns / 23) + 9 * np.cos(rows / 17)
            distances = [(rows - y) ** 2 + (columns - x) ** 2 + 60 * waves * np.sin(x) for y, x in points]
            ids = (np.argmin(distances, axis=0) * 91_237 + 1).astype(np.int32)
            write_id_png(pngs / f"{name}.png", ids)
            noise = cv2.resize(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), (640, 480))
            cv2.imwrite(str(images / f"{name}.jpg"), noise, [cv2.IMWRITE_JPEG_QUALITY, 88])
            found, areas, boxes = measure_segments(ids)
            records.append(
                [
                    {"id": int(i), "category_id": 1, "area": int(area), "bbox": box.tolist(), "iscrowd": 0}
                    for i, area, box in zip(found, areas, boxes, strict=True)
                ]
            )
        else:
            twin = f"{number % n_different:012}"
            os.link(pngs / f"{twin}.png", pngs / f"{name}.png")
            os.link(images / f"{twin}.jpg", images / f"{name}.jpg")
        listed.append({"id": number, "file_name": f"{name}.jpg", "height": 480, "width": 640})
    document = {
        "images": listed,
        "annotations": [
            {"image_id": n, "file_name": f"{n:012}.png", "segments_info": records[n % n_different]}
            for n in range(n_images)
        ],
        "categories": panoptic_categories(),
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(document))


def main() -> None:
    """Generates the set, checks it and prints a row."""
    options = arguments(__doc__, images=500, rounds=2)
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), options.images, min(options.images, 250))
        report = check_set(folder)
        seconds = in_turn({"check": lambda: check_set(folder)}, options.rounds)["check"]
        sizes = [next(Path(folder).glob(f"**/{0:012}.{kind}")).stat().st_size for kind in ("jpg", "png")]
    row = {
        "images": f"{report.n_images:,}",
        "segments": f"{report.n_segments:,}",
        "findings": str(len(report.findings)),
        "kB a JPEG": f"{sizes[0] / 1e3:.0f}",
        "kB a PNG": f"{sizes[1] / 1e3:.1f}",
        "CPU s": f"{min(seconds):.2f}",
        "CPU ms an image": f"{1e3 * min(seconds) / report.n_images:.2f}",
    }
    finish("data_check", [row], options.write)


if __name__ == "__main__":
    main()
