"""Unpacks shards into a panoptic set: tar files as WebDataset has them, Parquet as the hub has it, JSON lines.

tar files   KEY.json with `segments_info` and `image_id` (else KEY), KEY.png, KEY.jpg (.jpeg, .webp, .bmp, .image.png)
Parquet     `segments_info`, `image_id` (else the row's number), id PNGs or `counts` of each segment, `image`
JSON lines  `segments_info`, `image_id`, `png` in the folder of the file's name, `file_name` in the folder of images

What is read of a member or a row group is bounded before it is in memory.
"""

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.files import atomic_write, leaves_folder, write_json
from panbench.base.reporter import Counting
from panbench.datasets.check import measure_segments
from panbench.datasets.convert import Converted, read_categories
from panbench.datasets.instances import instance_mask
from panbench.panoptic.coco import read_panoptic_json
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, decode_id_png, encode_id_png
from panbench.panoptic.types import MAX_ID, VOID, Category, IdMap

__all__ = ["MOST_BYTES", "convert_shards"]

MOST_BYTES = 2 << 30
"""The largest member of a tar file, or row group of a Parquet file, that is read."""

_ROWS_AT_ONCE = 16
_ENDINGS = ("jpg", "jpeg", "webp", "image.png", "bmp")
_IMAGES, _SEGMENTS = ("image", "jpg"), ("segments_info", "segments")
_RUNS = ("counts", "segmentation")
_MAPS = ("png", "label", "annotation", "panoptic", "mask")


@dataclass(frozen=True)
class _Row:
    """An image with its annotation. where: names it in messages; size: of what is in run lengths"""

    where: str
    image_id: Any
    segments: Any
    png: bytes | None
    photograph: bytes | None = None
    ending: str = "jpg"
    size: tuple[Any, Any] = (None, None)


def convert_shards(
    files: Sequence[Path],
    root: Path,
    split: str = "val",
    categories: Sequence[Category] | None = None,
    *,
    images_from: Path | None = None,
    overwrite: bool = False,
    progress: Counting | None = None,
) -> Converted:
    """Writes the set that lies in some files; id PNGs and photographs keep their bytes.

    categories: by default those of categories.json beside the files or above, or of the JSON lines
    images_from: the folder of the photographs of JSON lines
    Raises BadDataset naming file and image; the JSON is written last, so that an interrupted conversion leaves none.
    """
    target, pngs = root / "annotations" / f"panoptic_{split}.json", root / "annotations" / f"panoptic_{split}"
    if target.exists() and not overwrite:
        raise BadArgument(f"{target} already exists. Give another folder, or --overwrite.")
    known = categories or _categories(files)
    images: list[dict[str, Any]] = []
    annotations: dict[Any, dict[str, Any]] = {}
    for number, file in enumerate(files, 1):
        for row in _rows(file, len(images), images_from):
            name = f"{row.image_id:012}" if type(row.image_id) is int else str(row.image_id)
            if type(row.image_id) not in (int, str) or leaves_folder(name) or row.image_id in annotations:
                raise BadDataset(f"{row.where} has the image id {row.image_id!r}, which is none, or comes twice.")
            png, segments = _annotated(row)
            for path, content in ((pngs / f"{name}.png", png), (root / split / f"{name}.{row.ending}", row.photograph)):
                if content is not None:
                    with atomic_write(path, durable=False) as handle:
                        handle.write(content)
            height, width = _decoded(png, row.where).shape
            image = {"id": row.image_id, "file_name": f"{name}.{row.ending}", "height": height, "width": width}
            images.append(image)
            annotation = {"image_id": row.image_id, "file_name": f"{name}.png", "segments_info": segments}
            annotations[row.image_id] = annotation
        if progress is not None:
            progress(number, len(files))
    listed = [{key: value for key, value in asdict(one).items() if value is not None} for one in known]
    write_json(target, {"images": images, "annotations": [*annotations.values()], "categories": listed}, indent=None)
    try:
        found = read_panoptic_json(target)
    except BadDataset:
        target.unlink()
        raise
    n_segments = sum(len(annotation.segments) for annotation in found.annotations.values())
    return Converted(root, target, pngs, root / split, len(images), n_segments)


def _categories(files: Sequence[Path]) -> Sequence[Category]:
    for file in files:
        if file.suffix == ".jsonl":
            for _, line in _lines(file):
                if "categories" in line:
                    return read_categories(line["categories"], str(file))
        for place in (file.parent, file.absolute().parent.parent):
            if (place / "categories.json").is_file():
                return read_categories(place / "categories.json")
    raise BadDataset(f"There is no categories.json beside {files[0]} or in the folder above. Name one by --categories.")


def _annotated(row: _Row) -> tuple[bytes, list[dict[str, Any]]]:
    """The id PNG of an image, made of run lengths where there is none, and its segments as COCO's JSON has them."""
    listed = row.segments
    if isinstance(listed, str):
        listed = _parsed(listed, row.where)
    if not isinstance(listed, list) or not all(isinstance(segment, dict) for segment in listed):
        raise BadDataset(f"{row.where} has no `segments_info`, a list of segments.")
    for number in (segment.get("id") for segment in listed):
        if type(number) is not int or not VOID < number <= MAX_ID:
            raise BadDataset(f"{row.where} has a segment with the id {number!r}; ids are 1 to {MAX_ID:,}.")
    png = row.png
    if png is None:
        height, width = row.size
        if not (type(height) is type(width) is int and 0 < height * width <= DEFAULT_MAX_PIXELS):
            raise BadDataset(f"{row.where} has neither an id PNG nor run lengths with `height` and `width`.")
        ids = np.zeros((height, width), np.int32)
        for segment in listed:
            nested = segment.get("segmentation")
            counts = segment.get("counts") or (nested.get("counts") if isinstance(nested, dict) else None)
            shape = {"size": [height, width], "counts": counts}
            mask, _ = instance_mask(shape, height, width, f"{row.where}, segment {segment.get('id')},")
            if ids[mask].any():
                raise BadDataset(f"{row.where}: segment {segment.get('id')} shares pixels with another one.")
            ids[mask] = segment.get("id")
        png = encode_id_png(ids)
    # Parquet has an absent field as null.
    plain = [{key: value for key, value in one.items() if value is not None and key not in _RUNS} for one in listed]
    if any("area" not in segment for segment in plain):
        found, areas, _ = measure_segments(_decoded(png, row.where))
        area_of = dict(zip(found.tolist(), areas.tolist(), strict=True))
        plain = [{"area": area_of.get(segment.get("id"), 0), **segment} for segment in plain]
    return png, plain


def _decoded(png: bytes, where: str) -> IdMap:
    try:
        return decode_id_png(png)
    except ValueError as problem:
        raise BadDataset(f"{where}: the id PNG {problem}") from None


def _rows(file: Path, before: int, images_from: Path | None) -> Iterator[_Row]:
    """The images of a file. before: how many came before, by which rows without `image_id` are numbered"""
    try:
        if file.suffix == ".tar":
            yield from _of_tar(file)
        elif file.suffix == ".parquet":
            yield from _of_parquet(file, before)
        elif file.suffix == ".jsonl":
            yield from _of_lines(file, images_from)
        else:
            raise BadDataset(f"{file} is no shard: its name must end in .tar, .parquet or .jsonl.")
    except (OSError, tarfile.TarError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise BadDataset(f"{file} cannot be read, or is truncated or damaged: {why}.") from None


def _of_tar(file: Path) -> Iterator[_Row]:
    with tarfile.open(file, "r:*") as archive:
        members = (info for info in archive if info.isfile())
        for key, infos in itertools.groupby(members, lambda info: info.name.removeprefix("./").partition(".")[0]):
            of_key: dict[str, bytes] = {}
            for info in infos:
                handle = archive.extractfile(info) if info.size <= MOST_BYTES else None
                content = b"" if handle is None else handle.read()
                if len(content) != info.size:
                    limit = f"larger than the limit of {MOST_BYTES >> 30} GiB" if handle is None else "truncated"
                    raise BadDataset(f"{file}: {info.name} is {limit}.")
                of_key[info.name.removeprefix(f"{key}.").removeprefix(f"./{key}.").lower()] = content
            if missing := {"json", "png"} - of_key.keys():
                raise BadDataset(f"{file}: {key} has no {key}.{missing.pop()}; a key needs KEY.json and KEY.png.")
            record = _object(of_key["json"], f"{file}: {key}.json")
            name = PurePosixPath(key).name
            image_id = record.get("image_id", int(name) if name.isascii() and name.isdigit() else name)
            ending = next((each for each in _ENDINGS if each in of_key), "jpg")
            segments = record.get("segments_info")
            yield _Row(f"{file}: {key}", image_id, segments, of_key["png"], of_key.get(ending), ending.split(".")[-1])
        # tarfile takes a damaged header, and the end of the file, for the end of the archive: a block of zeros.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise BadDataset(f"{file} has no end: it is truncated or damaged.")


def _of_parquet(file: Path, before: int) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
            groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
            if any(group.total_byte_size > MOST_BYTES for group in groups):
                raise BadDataset(f"{file} has a row group larger than the limit of {MOST_BYTES >> 30} GiB.")
            names = table.schema_arrow.names
            image, segments, png = (
                next((name for name in known if name in names), None) for known in (_IMAGES, _SEGMENTS, _MAPS)
            )
            wanted = [name for name in names if name in ("image_id", "height", "width", image, segments, png)]
            batches = table.iter_batches(_ROWS_AT_ONCE, columns=wanted)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                image_id, photograph = row.get("image_id", before + number), _bytes_of(row.get(image))
                ending = "png" if (photograph or b"").startswith(b"\x89PNG") else "jpg"
                size, where = (row.get("height"), row.get("width")), f"{file}: row {number}"
                yield _Row(where, image_id, row.get(segments), _bytes_of(row.get(png)), photograph, ending, size)
    except pa.ArrowException as problem:
        raise BadDataset(f"{file} is not a Parquet file, or is damaged ({problem}).") from None


def _bytes_of(value: Any) -> bytes | None:
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _of_lines(file: Path, images_from: Path | None) -> Iterator[_Row]:
    for where, line in _lines(file):
        if "segments_info" not in line:
            continue
        photograph = str(line.get("file_name") or "")
        png = str(line.get("png") or PurePosixPath(photograph or "x").with_suffix(".png"))
        if leaves_folder(png) or (photograph and leaves_folder(photograph)):
            raise BadDataset(f"{where} names a file that leaves its folder.")
        content = (images_from / photograph).read_bytes() if images_from and photograph else None
        ending = PurePosixPath(photograph).suffix.removeprefix(".") or "jpg"
        id_png = (file.with_suffix("") / png).read_bytes()
        yield _Row(where, line.get("image_id"), line["segments_info"], id_png, content, ending)


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig", errors="replace") as handle:
        for number, text in enumerate(handle, 1):
            yield f"{file}: line {number}", _object(text, f"{file}: line {number}")


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    found = _parsed(text, where)
    if not isinstance(found, dict):
        raise BadDataset(f"{where} is not a JSON object.")
    return found


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise BadDataset(f"{where} is not JSON ({problem}).") from None
