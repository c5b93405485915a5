"""Converts shards to a panoptic set: WebDataset's tar files, the Hugging Face hub's Parquet, or JSON lines.

tar files   KEY.json with `segments_info` and `image_id` (else KEY), KEY.png, KEY.jpg (.jpeg, .webp, .bmp, .image.png)
Parquet     `segments_info`, `image_id` (else the row's number), id PNGs or `counts` of each segment, `image`
JSON lines  `segments_info`, `image_id`, `png` in the folder of the file's name, `file_name` in the folder of images

The size of a member or a row group is checked before it is read into memory.
"""

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panbench.base.errors import BadDataset
from panbench.base.files import leaves_folder
from panbench.datasets.convert import Converted, LabelledImage, read_categories, segments_by_id, write_set
from panbench.datasets.instances import instance_mask
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, decode_id_png
from panbench.panoptic.types import MAX_ID, VOID, Category, IdMap

MOST_BYTES = 2 << 30
"""The largest tar member or Parquet row group that is read, in bytes."""

_ENDINGS = ("jpg", "jpeg", "webp", "image.png", "bmp")
_COLUMNS = {
    "image": ("image", "jpg"),
    "segments": ("segments_info", "segments"),
    "png": ("png", "label", "annotation", "panoptic", "mask"),
}


@dataclass(frozen=True)
class _ShardImage:
    """One image of a shard with its annotation.

    where: its name in messages
    segments: `segments_info`, parsed or as JSON text
    png: the id PNG; without one, segments have run lengths and `size` is (height, width)
    """

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
    **options: Any,
) -> Converted:
    """Converts tar, Parquet or JSON lines files (shards of a dataset) to a COCO panoptic set.

    Photographs are copied byte by byte.
    categories: by default those of categories.json next to the files or in the folder above, or of the JSON lines
    images_from: the folder of the photographs of JSON lines; options: as in `panbench.datasets.convert.write_set`
    Raises BadDataset naming file and image.
    """
    rows = _read_shard_images(files, images_from)
    return write_set(root, split, categories or _find_categories(files), rows, _labelled_image, reads=files, **options)


def _find_categories(files: Sequence[Path]) -> Sequence[Category]:
    """Finds the categories of shards: in JSON lines, or in categories.json next to a file or in the folder above."""
    for file in files:
        if file.suffix == ".jsonl":
            for _, line in _parse_lines(file):
                if "categories" in line:
                    return read_categories(line["categories"], str(file))
        for folder in (file.parent, file.absolute().parent.parent):
            if (folder / "categories.json").is_file():
                return read_categories(folder / "categories.json")
    raise BadDataset(
        f"There is no categories.json next to {files[0]} or in the folder above. Name one by --categories."
    )


def _labelled_image(row: _ShardImage) -> LabelledImage:
    """Converts an image of a shard to a LabelledImage: checks its segments and makes its id map."""
    listed = _parse_json(row.segments, row.where) if isinstance(row.segments, str) else row.segments
    if not isinstance(listed, list) or not all(isinstance(segment, dict) for segment in listed):
        raise BadDataset(f"{row.where} has no `segments_info`, a list of segments.")
    for number in (segment.get("id") for segment in listed):
        if type(number) is not int or not VOID < number <= MAX_ID:
            raise BadDataset(f"{row.where} has a segment with the id {number!r}; ids are 1 to {MAX_ID:,}.")
    try:
        segments = segments_by_id(listed)
        scores = {one["id"]: float(one["score"]) for one in listed if one.get("score") is not None}
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataset(f"{row.where} has a segment that lacks or has a wrong {error}.") from error
    if len(segments) != len(listed):
        raise BadDataset(f"{row.where} lists a segment id twice.")
    try:
        ids = _id_map_of_run_lengths(row, listed) if row.png is None else decode_id_png(row.png)
    except ValueError as problem:
        raise BadDataset(f"{row.where}: the id PNG {problem}") from None
    name = f"{_new_file_stem(row)}.{row.ending}"
    return LabelledImage(name, ids, segments, row.photograph, row.image_id, scores=scores)


def _id_map_of_run_lengths(row: _ShardImage, segments: Sequence[dict[str, Any]]) -> IdMap:
    """Makes the id map of an image whose segments have run lengths (`counts` or `segmentation.counts`)."""
    height, width = row.size
    if not (type(height) is type(width) is int and 0 < height * width <= DEFAULT_MAX_PIXELS):
        raise BadDataset(f"{row.where} has neither an id PNG nor run lengths with `height` and `width`.")
    ids = np.zeros((height, width), np.int32)
    for segment in segments:
        where = f"{row.where}, segment {segment['id']},"
        nested = segment.get("segmentation")
        counts = segment.get("counts") or (nested.get("counts") if isinstance(nested, dict) else None)
        mask, _ = instance_mask({"size": [height, width], "counts": counts}, height, width, where)
        if ids[mask].any():
            raise BadDataset(f"{where} shares pixels with another one.")
        ids[mask] = segment["id"]
    return ids


def _new_file_stem(row: _ShardImage) -> str:
    """Returns the file name, without suffix, of an image in the new set: its id, numbers with 12 digits."""
    return f"{row.image_id:012}" if type(row.image_id) is int else str(row.image_id)


def _read_shard_images(files: Sequence[Path], images_from: Path | None) -> Iterator[_ShardImage]:
    """Yields the images of all files. Raises BadDataset for an invalid or repeated image id."""
    names: set[str] = set()
    for file in files:
        readers = {
            ".tar": _read_tar(file),
            ".parquet": _read_parquet_shard(file, len(names)),
            ".jsonl": _read_json_lines_shard(file, images_from),
        }
        if file.suffix not in readers:
            raise BadDataset(f"{file} is not a shard: its name must end in .tar, .parquet or .jsonl.")
        try:
            for row in readers[file.suffix]:
                if type(row.image_id) not in (int, str):
                    raise BadDataset(f"{row.where} has the image id {row.image_id!r}, which is none.")
                if _new_file_stem(row) in names:
                    # Catches 139 and "000000000139" too, whose files would share a name.
                    raise BadDataset(f"{row.where} has the image id {row.image_id!r}, which comes twice.")
                names.add(_new_file_stem(row))
                yield row
        except (OSError, tarfile.TarError) as problem:
            why = getattr(problem, "strerror", None) or problem
            raise BadDataset(f"{file} cannot be read, or is truncated or damaged: {why}.") from None


def _read_tar(file: Path) -> Iterator[_ShardImage]:
    """Yields the images of a tar file, in which files with the same name before the first dot belong together."""
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
                of_key[info.name.removeprefix("./").removeprefix(f"{key}.").lower()] = content
            if missing := {"json", "png"} - of_key.keys():
                raise BadDataset(f"{file}: {key} has no {key}.{missing.pop()}; a key needs KEY.json and KEY.png.")
            record = _parse_json_object(of_key["json"], f"{file}: {key}.json")
            name = PurePosixPath(key).name
            image_id = record.get("image_id", int(name) if name.isascii() and name.isdigit() else name)
            ending = next((each for each in _ENDINGS if each in of_key), "jpg")
            segments = record.get("segments_info")
            yield _ShardImage(
                f"{file}: {key}", image_id, segments, of_key["png"], of_key.get(ending), ending.split(".")[-1]
            )
        # tarfile ends silently at a damaged header or a truncated file; only a block of zeros is a real end.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise BadDataset(f"{file} has no end: it is truncated or damaged.")


def _read_parquet_shard(file: Path, before: int) -> Iterator[_ShardImage]:
    """Yields the images of a Parquet file. before: the number of earlier images, to number rows without `image_id`"""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
            groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
            if any(group.total_byte_size > MOST_BYTES for group in groups):
                raise BadDataset(f"{file} has a row group larger than the limit of {MOST_BYTES >> 30} GiB.")
            names = table.schema_arrow.names
            of = {what: next((name for name in known if name in names), None) for what, known in _COLUMNS.items()}
            requested = [name for name in names if name in ("image_id", "height", "width", *of.values())]
            batches = table.iter_batches(16, columns=requested)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                image_id, photograph = row.get("image_id", before + number), _encoded_image(row.get(of["image"]))
                ending = "png" if (photograph or b"").startswith(b"\x89PNG") else "jpg"
                size, png = (row.get("height"), row.get("width")), _encoded_image(row.get(of["png"]))
                yield _ShardImage(
                    f"{file}: row {number}", image_id, row.get(of["segments"]), png, photograph, ending, size
                )
    except pa.ArrowException as problem:
        raise BadDataset(f"{file} is not a Parquet file, or is damaged ({problem}).") from None


def _encoded_image(value: Any) -> bytes | None:
    """Returns the bytes of an image in a Parquet column, plain or in a struct; None if there are none."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _read_json_lines_shard(file: Path, images_from: Path | None) -> Iterator[_ShardImage]:
    """Yields the images of a JSON lines file, with their id PNGs and photographs."""
    for where, line in _parse_lines(file):
        if "segments_info" not in line:
            continue
        photograph = str(line.get("file_name") or "")
        png = str(line.get("png") or PurePosixPath(photograph or "x").with_suffix(".png"))
        if leaves_folder(png) or (photograph and leaves_folder(photograph)):
            raise BadDataset(f"{where} names a file that leaves its folder.")
        content = (images_from / photograph).read_bytes() if images_from and photograph else None
        ending = PurePosixPath(photograph).suffix.removeprefix(".") or "jpg"
        id_png = (file.with_suffix("") / png).read_bytes()
        yield _ShardImage(where, line.get("image_id"), line["segments_info"], id_png, content, ending)


def _parse_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (position in words, record) of each line of a JSON lines file. Raises BadDataset."""
    with open(file, encoding="utf-8-sig", errors="replace") as handle:
        for number, text in enumerate(handle, 1):
            yield f"{file}: line {number}", _parse_json_object(text, f"{file}: line {number}")


def _parse_json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object. Raises BadDataset for other values. where: its name in messages"""
    found = _parse_json(text, where)
    if not isinstance(found, dict):
        raise BadDataset(f"{where} is not a JSON object.")
    return found


def _parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON. Raises BadDataset. where: its name in messages"""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise BadDataset(f"{where} is not JSON ({problem}).") from None
