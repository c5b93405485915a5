"""What left a network, kept on disk: candidates or instances of each image, so that fusion can be tried without it.

A file is written whole and renamed, one block of images each, like the parts of a run: Arrow IPC with a row an image
(`image_id`, `header` as JSON, `payload`, and `crc32` of these three). Masks have the eight significant bits of
bfloat16, compressed; wherever that would change a pixel of the map that the model's own rule makes, the exact values
around it are stored beside (`patches`), until the map is the same: `encode` fuses again what it is about to store,
and compares. So the default rule gives the map of the evaluation, and any other rule sees masks that are exact to
0.4 %.
"""

import json
import math
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from panbench.base.errors import BadRun, PanbenchError
from panbench.base.files import atomic_write
from panbench.models.candidates import Candidates, FinishedMap, Frame, Instances, Output
from panbench.models.rules.base import Rule, SettledMap
from panbench.models.rules.resize import possible_winners
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.runs import check_recorded, recorded

__all__ = ["LOW_GATE", "VERSION", "Encoded", "StoredOutputs", "block_of", "decode", "encode", "write_block"]

VERSION = 1
LOW_GATE = 0.05
"""Candidates whose gate is not above this are not stored."""

_CODEC = "zstd"
_LEVEL = 3
# More differing pixels than this share of an image, and its masks are stored in full precision altogether.
_MOST_PATCHED = 0.02
_ROUNDS = 4
_SCHEMA = pa.schema({"image_id": pa.int64(), "header": pa.string(), "payload": pa.binary(), "crc32": pa.uint32()})
_ABOUT, _ABOUT_CRC32 = b"panbench", b"panbench.crc32"

MOST_BYTES = 2 << 30
"""An image whose header declares more, unpacked, is refused before memory is taken for it."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """One image, ready to be written. differing: pixels that fewer bits change in the default rule's map.

    With `exact` they are mended and `differing` counts what was mended; else it is what stays different.
    """

    header: dict[str, Any]
    payload: bytes
    differing: int

    @property
    def size(self) -> int:
        """Bytes on disk, nearly."""
        return len(self.payload)


def encode(output: Output, rule: Rule, *, exact: bool = True, low_gate: float = LOW_GATE) -> Encoded:
    """The stored form of a model's output for one image.

    rule: the model's own; the map it makes of the stored form is that of `output`, unless `exact` is False
    exact: bfloat16 with exact values where the map needs them; False is half precision (fp16) throughout
    Raises BadRun for a FinishedMap: there is nothing to fuse.
    """
    if isinstance(output, FinishedMap):
        raise BadRun("This model gives finished id maps: there are no candidates to keep.")
    kept = _kept(output, rule, low_gate)
    values = _values(kept).float().cpu()
    expected = _settled(kept, rule)
    coarse = values.bfloat16().float() if exact else values.half().float()
    patched = torch.zeros(values.shape[-2:], dtype=torch.bool)
    found = _differing(expected, _settled(_with_values(kept, coarse), rule))
    differing = int(found.sum())
    is_coarse = True
    if exact:
        for _ in range(_ROUNDS):
            if not found.any() and _same(expected, _settled(_with_values(kept, coarse), rule)):
                break
            if found.mean() > _MOST_PATCHED or not found.any():
                is_coarse = False
                break
            patched |= _cells_of(found, kept.frame, values.shape[-2], values.shape[-1])
            coarse = torch.where(patched, values, coarse)
            found = _differing(expected, _settled(_with_values(kept, coarse), rule))
        else:
            is_coarse = _same(expected, _settled(_with_values(kept, coarse), rule))
    arrays = _small_arrays(kept)
    if is_coarse:
        where = torch.nonzero(patched.flatten()).flatten()
        arrays["values"] = _steps_of(values) if exact else values.half().numpy()
        arrays["patch_at"] = where.to(torch.int32).numpy()
        arrays["patches"] = values.flatten(1)[:, where].numpy()
    else:
        arrays["values"] = values.numpy()
    header, payload = _packed(arrays)
    return Encoded({**_small_fields(kept), "arrays": header}, payload, differing)


def decode(header: dict[str, Any], payload: bytes, device: torch.device | str = "cpu") -> Candidates | Instances:
    """What `encode` was given, as it was stored. Raises ValueError when the two do not fit together."""
    frame = _frame(header["frame"])
    arrays = _unpacked(header["arrays"], payload)
    stored = arrays["values"]
    if stored.ndim != 3:
        raise ValueError(f"its masks have {stored.ndim} dimensions, not 3")
    values = _from_steps(stored) if stored.dtype == np.uint16 else torch.from_numpy(stored).float()
    if "patch_at" in arrays:
        flat = values.flatten(1)
        flat[:, torch.from_numpy(arrays["patch_at"].astype(np.int64))] = torch.from_numpy(arrays["patches"])
        values = flat.view(values.shape)
    values = values.to(device)
    if header["kind"] == "candidates":
        if not len(arrays["labels"]) == len(arrays["gate"]) == len(arrays["weight"]) == len(values):
            raise ValueError("its labels, gates, weights and masks are not as many")
        return Candidates(
            labels=arrays["labels"],
            gate=arrays["gate"],
            weight=torch.from_numpy(arrays["weight"]).to(device),
            masks=values,
            frame=frame,
            isthing=tuple(header["isthing"]),
            activation=header["activation"],
        )
    boxes = torch.from_numpy(arrays["boxes"]).to(device) if "boxes" in arrays else None
    return Instances(
        boxes=boxes,
        masks=torch.from_numpy(arrays["masks"]).to(device),
        labels=tuple(int(label) for label in arrays["labels"]),
        scores=tuple(float(score) for score in arrays["scores"]),
        semantic_logits=values,
        semantic_labels=tuple(header["semantic_labels"]),
        frame=frame,
    )


def _row_crc32(image_id: int, header: str, payload: bytes) -> int:
    """The checksum of a row's content."""
    return zlib.crc32(payload, zlib.crc32(f"{image_id}\n{header}\n".encode()))


def block_of(images: Sequence[tuple[int, Encoded]], about: dict[str, Any]) -> bytes:
    """The file of a block of images. about: what a reader must know, as {"run": id, "low_gate": …}."""
    rows = [(image_id, json.dumps(encoded.header), encoded.payload) for image_id, encoded in images]
    said = json.dumps({**about, "version": VERSION}).encode()
    table = pa.table(
        {
            "image_id": pa.array([image_id for image_id, _, _ in rows], pa.int64()),
            "header": [header for _, header, _ in rows],
            "payload": pa.array([payload for _, _, payload in rows], pa.binary()),
            "crc32": pa.array([_row_crc32(*row) for row in rows], pa.uint32()),
        },
        schema=_SCHEMA.with_metadata({_ABOUT: said, _ABOUT_CRC32: str(zlib.crc32(said)).encode()}),
    )
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, table.schema) as writer:
        # A batch an image: one is read without the others.
        writer.write_table(table, max_chunksize=1)
    return bytes(content.getvalue())


def write_block(path: str | os.PathLike[str], images: Sequence[tuple[int, Encoded]], about: dict[str, Any]) -> None:
    """Writes `block_of` some images, atomically."""
    with atomic_write(path) as handle:
        handle.write(block_of(images, about))


class StoredOutputs:
    """The stored images of a run: which there are, and each as it left the network."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens all blocks of a folder. Raises BadRun for one that is torn, foreign, or of another version.

        A block is held against the SHA-256 that its run recorded, if it did, when an image is first read from it.
        """
        self.folder = Path(folder)
        self._hashes = recorded(self.folder.parent)
        self._checked: set[Path] = set()
        self._checking = threading.Lock()
        self.about: dict[str, Any] = {}
        self._place: dict[int, tuple[Path, int]] = {}
        blocks = sorted(self.folder.glob("[0-9]*.arrow")) if self.folder.is_dir() else []
        for path in blocks:
            self._open(path)
        if not self._place:
            raise BadRun(
                f"{self.folder.parent} holds no candidates. Make the run with `panbench eval --keep-candidates`."
            )

    def _open(self, path: Path) -> None:
        try:
            # Mapped, so that of each image only the id is read.
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                about = _about(reader.schema, path)
                if self.about and about != self.about:
                    raise BadRun(f"{path} holds candidates of another run than the other files beside it.")
                self.about = about
                for row in range(reader.num_record_batches):
                    # Arrow follows the offsets of a damaged file out of its memory unless it is asked to check first.
                    batch = reader.get_batch(row)
                    batch.validate()
                    (image_id,) = batch.column("image_id").to_pylist()
                    if image_id in self._place:
                        raise BadRun(f"{path} repeats image {image_id}, which another file beside it holds.")
                    self._place[image_id] = (path, row)
        except PanbenchError:
            raise
        except (pa.ArrowException, OSError, ValueError, IndexError, OverflowError, MemoryError) as problem:
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise BadRun(f"{path} is damaged ({reason}). Make it again with `--keep-candidates`.") from None

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that are stored, ascending."""
        return tuple(sorted(self._place))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in {path for path, _ in self._place.values()})

    def read(self, image_id: int, device: torch.device | str = "cpu") -> Candidates | Instances:
        """The stored output of the network for an image. Raises BadRun when it is missing or damaged."""
        if image_id not in self._place:
            raise BadRun(f"{self.folder} holds no candidates of image {image_id}.")
        path, row = self._place[image_id]
        with self._checking:
            if path not in self._checked:
                check_recorded(self.folder.parent, f"{self.folder.name}/{path.name}", self._hashes)
                self._checked.add(path)
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                batch = reader.get_batch(row)
                batch.validate(full=True)
                found = {name: batch.column(name)[0].as_py() for name in batch.schema.names}
                header, payload = found["header"], found["payload"]
                if found["crc32"] != _row_crc32(image_id, header, payload):
                    raise ValueError("its checksum differs")
                return decode(json.loads(header), payload, device)
        except (pa.ArrowException, ArithmeticError, AttributeError, LookupError, MemoryError, OSError) as problem:
            raise self._damaged(path, image_id, problem) from None
        except (RecursionError, RuntimeError, TypeError, ValueError) as problem:
            raise self._damaged(path, image_id, problem) from None

    def _damaged(self, path: Path, image_id: int, problem: Exception) -> BadRun:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        return BadRun(f"{path} is damaged at image {image_id} ({reason}). Make it again.")

    def __iter__(self) -> Iterator[int]:
        return iter(self.image_ids)


def _about(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """The metadata of a block's run. Raises BadRun for a foreign block or one of another version."""
    said = (schema.metadata or {}).get(_ABOUT, b"null")
    about = json.loads(said)
    version = about.pop("version", None) if isinstance(about, dict) else None
    if type(version) is not int or schema.names != _SCHEMA.names:
        raise BadRun(f"{path} was not written by panbench as candidates of a run, or is damaged.")
    if version != VERSION:
        raise BadRun(
            f"{path} holds candidates of version {version}; this panbench reads version {VERSION}. Make them again "
            "with `panbench eval --keep-candidates`."
        )
    if schema.metadata.get(_ABOUT_CRC32) != str(zlib.crc32(said)).encode():
        raise ValueError("the checksum of what it says of its run differs")
    return dict(about)


def _frame(given: Any) -> Frame:
    """The frame of a header. Raises ValueError for sizes that no image has."""
    pairs: list[tuple[int, int]] = [tuple(given[name]) for name in ("padded", "resized", "original")]
    for pair in pairs:
        if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
            raise ValueError(f"it is of an image of the size {list(pair)}")
        if pair[0] * pair[1] > 4 * DEFAULT_MAX_PIXELS:
            raise ValueError(f"it is of an image of {pair[0]}×{pair[1]} pixels, which is too large")
    padded, resized, original = pairs
    return Frame(padded, resized, original, bool(given.get("one_step", False)))


def _kept(output: Candidates | Instances, rule: Rule, low_gate: float) -> Candidates | Instances:
    """The output on the host, without what no rule of ordinary thresholds looks at."""
    if isinstance(output, Candidates):
        # What the model's own rule takes stays, whatever its threshold.
        least = min(low_gate, float(getattr(rule, "score", low_gate)))
        rows = np.flatnonzero((output.labels >= 0) & (output.gate > np.float32(least)))
        index = torch.from_numpy(rows).to(output.masks.device)
        return replace(
            output,
            labels=output.labels[rows],
            gate=output.gate[rows],
            weight=output.weight[index].float().cpu(),
            masks=output.masks[index].float().cpu(),
        )
    logits = output.semantic_logits.float().cpu()
    channels = possible_winners(logits)
    labels = output.semantic_labels
    if channels is not None:
        logits, labels = logits[channels], tuple(labels[channel] for channel in channels.tolist())
    return replace(
        output,
        boxes=None if output.boxes is None else output.boxes.float().cpu(),
        masks=output.masks.float().cpu(),
        semantic_logits=logits,
        semantic_labels=labels,
    )


def _values(output: Candidates | Instances) -> Tensor:
    """The large part: (K, h, w) masks of candidates, or the semantic logits."""
    return output.masks if isinstance(output, Candidates) else output.semantic_logits


def _steps_of(values: Tensor) -> Array:
    """(K, h, w) uint16: bfloat16 values as steps from the cell at their left, small numbers where a mask is smooth.

    A float's bits, turned for negative numbers, count all floats in ascending order. The difference of two counts,
    with its sign in the lowest bit, takes 25 % less space once compressed than the floats.
    """
    bits = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    count = np.where(bits & 0x8000, ~bits, bits | 0x8000)
    step = count.copy()
    step[..., 1:] -= count[..., :-1]
    signed = step.view(np.int16)
    return ((signed << 1) ^ (signed >> 15)).view(np.uint16)


def _from_steps(steps: npt.NDArray[np.uint16]) -> Tensor:
    """What `_steps_of` was given, rounded to bfloat16, as float32."""
    step = (steps >> 1) ^ -(steps & 1)
    count = np.cumsum(step, axis=-1, dtype=np.uint16)
    bits = np.where(count & 0x8000, count & 0x7FFF, ~count).astype(np.uint16)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()


def _with_values(output: Candidates | Instances, values: Tensor) -> Candidates | Instances:
    if isinstance(output, Candidates):
        return replace(output, masks=values.clone())
    return replace(output, semantic_logits=values.clone())


def _settled(output: Candidates | Instances, rule: Rule) -> SettledMap:
    copy = _with_values(output, _values(output))
    return rule.settle(rule.fuse(copy).to_host())


def _differing(one: SettledMap, other: SettledMap) -> npt.NDArray[np.bool_]:
    """(H, W): where two maps show segments of another label, or of another first pixel."""
    names_one, names_other = (_names(settled) for settled in (one, other))
    return names_one[one[0]] != names_other[other[0]]


def _names(settled: SettledMap) -> npt.NDArray[np.int64]:
    """A number for each id that does not depend on how segments are counted: score and label side by side."""
    ids, segments = settled
    names = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for segment in segments:
        score = np.float32(-1.0 if segment.score is None else segment.score).view(np.int32)
        names[segment.id] = (np.int64(segment.label + 1) << 32) | (np.int64(score) & 0xFFFFFFFF)
    return names


def _same(one: SettledMap, other: SettledMap) -> bool:
    return one[1] == other[1] and np.array_equal(one[0], other[0])


def _cells_of(found: npt.NDArray[np.bool_], frame: Frame, height: int, width: int) -> Tensor:
    """(height, width) of the masks: the cells that reach one of the pixels by bilinear interpolation, twice."""
    cells = torch.zeros((height, width), dtype=torch.bool)
    y, x = np.nonzero(found)
    rows = (y + 0.5) * frame.resized[0] / frame.original[0] * height / frame.padded[0] - 0.5
    columns = (x + 0.5) * frame.resized[1] / frame.original[1] * width / frame.padded[1] - 0.5
    # One cell for the last step, and as many as one pixel of the step before is wide.
    reach_y = 2 + int(np.ceil(height / frame.padded[0]))
    reach_x = 2 + int(np.ceil(width / frame.padded[1]))
    near_y = np.clip(np.floor(rows)[:, None].astype(int) + np.arange(1 - reach_y, reach_y + 1), 0, height - 1)
    near_x = np.clip(np.floor(columns)[:, None].astype(int) + np.arange(1 - reach_x, reach_x + 1), 0, width - 1)
    cells[torch.from_numpy(near_y[:, :, None]), torch.from_numpy(near_x[:, None, :])] = True
    return cells


def _small_arrays(output: Candidates | Instances) -> dict[str, Array]:
    if isinstance(output, Candidates):
        return {"labels": output.labels, "gate": output.gate, "weight": output.weight.numpy()}
    return {
        "labels": np.array(output.labels, np.int64),
        "scores": np.array(output.scores, np.float64),
        "masks": output.masks.numpy(),
        **({} if output.boxes is None else {"boxes": output.boxes.numpy()}),
    }


def _small_fields(output: Candidates | Instances) -> dict[str, Any]:
    frame: dict[str, Any] = {name: list(getattr(output.frame, name)) for name in ("padded", "resized", "original")}
    if output.frame.one_step:
        frame["one_step"] = True
    if isinstance(output, Candidates):
        own: dict[str, Any] = {"isthing": list(output.isthing), "activation": output.activation}
        return {"kind": "candidates", "frame": frame, **own}
    return {"kind": "instances", "frame": frame, "semantic_labels": list(output.semantic_labels)}


def _packed(arrays: dict[str, Array]) -> tuple[list[dict[str, Any]], bytes]:
    """The arrays as one compressed block, their bytes sorted by significance: exponents repeat, mantissas do not."""
    header, blocks = [], []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        shuffled = array.view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes() if array.size else b""
        header.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
        blocks.append(shuffled)
    content = b"".join(blocks)
    return header, pa.Codec(_CODEC, compression_level=_LEVEL).compress(content, asbytes=True)


def _unpacked(header: list[dict[str, Any]], payload: bytes) -> dict[str, Array]:
    kinds = [(entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"])) for entry in header]
    for name, dtype, shape in kinds:
        if dtype.kind not in "iuf" or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"its array {name!r} is declared as {dtype} of shape {list(shape)}")
    # Python's whole numbers: those of NumPy would wrap around.
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in kinds]
    if sum(sizes) > MOST_BYTES:
        raise ValueError(f"it declares {sum(sizes):,} bytes, more than {MOST_BYTES:,}")
    content = pa.Codec(_CODEC).decompress(payload, decompressed_size=sum(sizes), asbytes=True)
    arrays, start = {}, 0
    for (name, dtype, shape), size in zip(kinds, sizes, strict=True):
        shuffled = np.frombuffer(content, np.uint8, size, start)
        start += size
        whole = np.ascontiguousarray(shuffled.reshape(dtype.itemsize, -1).T)
        arrays[name] = whole.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)
    return arrays
