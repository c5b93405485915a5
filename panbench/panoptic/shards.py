"""Sets in shards, files that hold images, id maps and annotations together: tar files (WebDataset) and Parquet.

A tar file has, of each image, KEY.json (`segments_info`, `image_id`, `height`, `width`), KEY.png (the id PNG) and, for
a model, KEY.jpg. A Parquet file has a row an image: `image_id`, `segments_info`, an id PNG or run lengths, `image`.
Files are named below the folder of the shards, `val-000.tar/139.png`, and read in place (base/packed.py).
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from panbench.base.addresses import Address
from panbench.base.containers import tar_names
from panbench.base.errors import BadArgument, BadDataset
from panbench.base.packed import Packed, is_shard
from panbench.base.text import listed
from panbench.panoptic.idmap import read_header

__all__ = ["CATEGORIES", "ID_COLUMNS", "IMAGE_COLUMNS", "is_shard", "shard_categories", "shard_folder", "shard_lines"]

CATEGORIES = "categories.json"
"""Beside the shards, or in the folder above: a list of categories, or a JSON with that list as `categories`."""

IMAGE_ENDINGS = ("jpg", "jpeg", "webp", "image.png", "bmp")
"""What a key's photograph ends in."""

IMAGE_COLUMNS = ("image", "jpg")
"""The columns that may hold photographs: the first one that is there does."""

ID_COLUMNS = ("png", "label", "annotation", "panoptic", "mask")
"""The columns that may hold id PNGs."""

SEGMENT_COLUMNS = ("segments_info", "segments")


def shard_folder(path: Path) -> Path:
    """The folder below which the files of a shard are named. Raises BadArgument for a shard in a store."""
    if isinstance(path, Address):
        raise BadArgument(f"{path} is a shard in a store, and shards are read from file systems. Copy it first.")
    return Packed(path.parent)


def shard_categories(path: Path) -> list[Any] | None:
    """The records of the categories of a shard's set; None where there is no categories.json. Raises BadDataset."""
    for place in (path.parent / CATEGORIES, path.absolute().parent.parent / CATEGORIES):
        try:
            found = json.loads(place.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as problem:
            raise BadDataset(f"{place} cannot be read as JSON ({problem}).") from None
        found = found.get("categories") if isinstance(found, dict) else found
        if not isinstance(found, list):
            raise BadDataset(f"{place} must hold a list of categories.")
        return found
    return None


def shard_lines(path: Path) -> Iterator[dict[str, Any]]:
    """A record for each image, like a line of JSON lines; names are relative to `shard_folder`.

    `image_id`, `file_name` (the photograph), `png`, `segments_info`, `height` and `width`, which the id PNG says where
    the annotation does not. Raises BadDataset, naming shard and key.
    """
    shard_folder(path)
    try:
        yield from _tar_lines(path) if path.suffix.lower() == ".tar" else _parquet_lines(path)
    except FileNotFoundError:
        raise BadDataset(f"{path} was not found.") from None
    except OSError as problem:
        raise BadDataset(f"{path} cannot be read: {problem.strerror or problem}.") from None


def _tar_lines(path: Path) -> Iterator[dict[str, Any]]:
    names = tar_names(path)
    keys: dict[str, dict[str, str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if stem and ending:
            keys.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = name
    inside = Packed(path.absolute())
    found = False
    for key, of_key in keys.items():
        png, photograph = of_key.get("png"), next((of_key[each] for each in IMAGE_ENDINGS if each in of_key), None)
        if png is None and photograph is None and "json" not in of_key:
            continue
        if "json" not in of_key:
            raise BadDataset(f"{path} has no {key}.json, which lists the segments of {listed(of_key.values())}.")
        if png is None:
            raise BadDataset(f"{path} has {key}.json and no {key}.png, the id PNG.")
        try:
            record = json.loads((inside / of_key["json"]).read_bytes())
        except (ValueError, RecursionError) as problem:
            raise BadDataset(f"{path}: {of_key['json']} is not JSON ({problem}).") from None
        if not isinstance(record, dict):
            raise BadDataset(f"{path}: {of_key['json']} must be an object, not {type(record).__name__}.")
        found = True
        line = {name: record[name] for name in ("height", "width", "segments_info") if name in record}
        line["image_id"] = record.get("image_id", _number(PurePosixPath(key).name))
        if line["image_id"] is None:
            raise BadDataset(f"{path}: {of_key['json']} has no `image_id`, and {key} is not a number.")
        line["file_name"] = f"{path.name}/{photograph or f'{key}.jpg'}"
        line["png"] = f"{path.name}/{png}"
        if "height" not in line or "width" not in line:
            line |= _size_of((inside / png).read_bytes(), path, png)
        yield line
    if not found:
        raise BadDataset(f"{path} has no images: a key needs KEY.json and KEY.png, and KEY.jpg for a model.")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _size_of(content: bytes | None, path: Path, name: str) -> dict[str, int]:
    """The height and width that the header of an id PNG says."""
    try:
        header = read_header(content or b"")
    except ValueError as problem:
        raise BadDataset(f"{path}: {name} {problem}") from None
    return {"height": header.height, "width": header.width}


def _parquet_lines(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            layout = _Layout.of(schema, path)
            row = 0
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=layout.read, use_threads=False)
                for number in range(len(table)):
                    cells = {name: table.column(name)[number].as_py() for name in layout.plain}
                    yield layout.line(cells, table, number, row)
                    row += 1
    except pa.ArrowException as problem:
        raise BadDataset(f"{path} is not a Parquet file, or is damaged ({problem}).") from None


class _Layout:
    """Which column of a Parquet file is what."""

    def __init__(self, path: Path, names: Sequence[str], segments: str, pixels: str | None, rows_before: int) -> None:
        self.path, self.segments, self.pixels, self.rows_before = path, segments, pixels, rows_before
        self.image = next((name for name in IMAGE_COLUMNS if name in names), None)
        self.has_id = "image_id" in names
        self.sized = "height" in names and "width" in names
        self.plain = [name for name in ("image_id", "height", "width", segments) if name in names]
        # Without sizes they are read of the id PNGs, and those with the rest.
        self.read = [*self.plain, *([pixels] if pixels is not None and not self.sized else [])]

    @staticmethod
    def of(schema: Any, path: Path) -> "_Layout":
        """Raises BadDataset for a file without segments or id maps."""
        names = schema.names
        segments = next((name for name in SEGMENT_COLUMNS if name in names), None)
        if segments is None:
            raise BadDataset(f"{path} has no column `segments_info`, a list of the segments of each image.")
        pixels = next((name for name in ID_COLUMNS if name in names and name != segments), None)
        if pixels is None and not _has_runs(schema.field(segments).type):
            raise BadDataset(
                f"{path} has neither a column of id PNGs ({listed(ID_COLUMNS)}) nor run lengths (`counts` of each "
                "segment)."
            )
        if pixels is None and not {"height", "width"} <= set(names):
            raise BadDataset(f"{path} has run lengths without the columns `height` and `width`.")
        before = 0 if "image_id" in names else _rows_before(path)
        return _Layout(path, names, segments, pixels, before)

    def line(self, cells: Mapping[str, Any], table: Any, number: int, row: int) -> dict[str, Any]:
        """The record of a row."""
        path, image_id = self.path, cells["image_id"] if self.has_id else self.rows_before + row
        segments = cells[self.segments]
        if isinstance(segments, str):
            try:
                segments = json.loads(segments)
            except (ValueError, RecursionError) as problem:
                raise BadDataset(f"{path}: {self.segments} of row {row} is not JSON ({problem}).") from None
        if image_id is None or not isinstance(segments, list):
            raise BadDataset(f"{path}: row {row} has no {'image_id' if image_id is None else self.segments}.")
        line: dict[str, Any] = {
            "image_id": image_id,
            "segments_info": [_without_nulls(segment) for segment in segments],
            "file_name": f"{path.name}/{self.image or IMAGE_COLUMNS[0]}/{row}",
            "png": f"{path.name}/{self.segments}/{row}.rle"
            if self.pixels is None
            else f"{path.name}/{self.pixels}/{row}",
        }
        if self.sized:
            return line | {"height": cells["height"], "width": cells["width"]}
        value = table.column(self.pixels)[number].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        return line | _size_of(content, path, f"{self.pixels} of row {row} (image {image_id})")


def _has_runs(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    item = getattr(kind, "value_type", None)
    return (
        item is not None
        and pa.types.is_struct(item)
        and (item.get_field_index("counts") >= 0 or item.get_field_index("segmentation") >= 0)
    )


def _without_nulls(segment: Any) -> Any:
    """A segment without absent fields, which Parquet has as null, and without its run lengths."""
    if not isinstance(segment, dict):
        return segment
    return {key: value for key, value in segment.items() if value is not None and key not in ("counts", "segmentation")}


def _rows_before(path: Path) -> int:
    """How many rows the files have that come before this one: without `image_id` rows are numbered through, from 0."""
    import pyarrow.parquet

    before = 0
    for beside in sorted(path.absolute().parent.glob(f"*{path.suffix}")):
        if beside.name == path.name:
            return before
        if _family(beside.name) == _family(path.name):
            with contextlib.suppress(OSError):
                before += pyarrow.parquet.ParquetFile(beside).metadata.num_rows
    return before


def _family(name: str) -> str:
    """What the shards of one split share: `validation-00000-of-00002.parquet` is of `validation`."""
    return re.sub(r"[-_.]?\d+(-of-\d+)?$", "", os.path.splitext(name)[0])
