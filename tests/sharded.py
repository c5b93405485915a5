"""Panoptic sets written as shards, as their users write them: by tarfile, PyArrow, pycocotools and zipfile."""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from panbench.panoptic.idmap import decode_id_png

KINDS = ("tar", "png", "rle", "huggingface")


def parts_of(json_path: Path, shards: int) -> tuple[dict[str, Any], list[list[tuple[dict, dict]]]]:
    """The document, and the (image, annotation) pairs of each shard."""
    document = json.loads(json_path.read_bytes())
    images = {image["id"]: image for image in document.get("images", [])}
    pairs = [(images.get(one["image_id"], {}), one) for one in document["annotations"]]
    return document, [pairs[start::shards] for start in range(shards)]


def write_shards(
    kind: str,
    json_path: Path,
    folder: Path,
    *,
    pngs: Path | None = None,
    images: Path | None = None,
    name: str = "val",
    shards: int = 2,
    sized: bool = True,
) -> list[Path]:
    """Writes a set as shards of a kind of KINDS, in `folder`; their paths."""
    document, parts = parts_of(json_path, shards)
    pngs = pngs or json_path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    if "categories" in document:
        (folder / "categories.json").write_text(json.dumps(document["categories"]))
    written = []
    for number, pairs in enumerate(parts):
        ending = "tar" if kind == "tar" else "parquet"
        numbered = f"{number:05}-of-{shards:05}" if kind == "huggingface" else f"{number:03}"
        path = folder / f"{name}-{numbered}.{ending}"
        if kind == "tar":
            write_tar(path, list(members_of(pairs, pngs, images, sized)))
        else:
            write_parquet(kind, path, pairs, pngs, images, sized)
        written.append(path)
    return written


def members_of(pairs, pngs: Path, images: Path | None, sized: bool = True):
    """The (name, content) of each member of a tar file."""
    for image, annotation in pairs:
        key = f"{annotation['image_id']:012}"
        record = {"image_id": annotation["image_id"], "segments_info": annotation["segments_info"]}
        if sized and image:
            record |= {"height": image["height"], "width": image["width"]}
        if images is not None:
            yield f"{key}.jpg", (images / image["file_name"]).read_bytes()
        yield f"{key}.png", (pngs / annotation["file_name"]).read_bytes()
        yield f"{key}.json", json.dumps(record).encode()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_parquet(kind: str, path: Path, pairs, pngs: Path, images: Path | None, sized: bool = True) -> None:
    rows = []
    for image, annotation in pairs:
        png = (pngs / annotation["file_name"]).read_bytes()
        ids = decode_id_png(png)
        row: dict[str, Any] = {"image_id": annotation["image_id"]}
        if sized:
            row |= {"height": ids.shape[0], "width": ids.shape[1]}
        segments = [dict(segment) for segment in annotation["segments_info"]]
        if kind == "rle":
            for segment in segments:
                counts = coco_mask.encode(np.asfortranarray(ids == segment["id"]).astype(np.uint8))["counts"]
                segment["counts"] = counts.decode()
        elif kind == "huggingface":
            row["label"] = {"bytes": png, "path": annotation["file_name"]}
        else:
            row["png"] = png
        if images is not None:
            content = (images / image["file_name"]).read_bytes()
            row["image"] = {"bytes": content, "path": image["file_name"]} if kind == "huggingface" else content
        rows.append({**row, "segments_info": segments})
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
