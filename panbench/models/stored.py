"""What left a network, kept on disk: candidates or instances of each image, so that fusion can be tried without it.

A file is written whole and renamed, one block of images each, like the parts of a run: Arrow IPC with a row an image
(`image_id`, `header` as JSON, `payload`). Masks have the eight significant bits of bfloat16, compressed; wherever that
would change a pixel of the map that the model's own rule makes, the exact values around it are stored beside
(`patches`), until the map is the same: `encode` fuses again what it is about to store, and compares. So the default
rule gives the map of the evaluation, and any other rule sees masks that are exact to 0.4 %.
"""

import json
import os
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

__all__ = ["LOW_GATE", "VERSION", "Encoded", "StoredOutputs", "decode", "encode", "write_block"]

VERSION = 2
# Version 1 had all masks in half precision, as `exact=False` still has them: it can be read.
_HALF_PRECISION = 1
LOW_GATE = 0.05
"""Candidates whose gate is not above this are not stored."""

_CODEC = "zstd"
_LEVEL = 3
# More differing pixels than this share of an image, and its masks are stored in full precision altogether.
_MOST_PATCHED = 0.02
_ROUNDS = 4
_SCHEMA = pa.schema({"image_id": pa.int64(), "header": pa.string(), "payload": pa.binary()})

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
    """The stored form of what a model says of one image.

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
    return Encoded({**_small_fields(kept), "arrays": header, "crc32": zlib.crc32(payload)}, payload, differing)


def decode(header: dict[str, Any], payload: bytes, device: torch.device | str = "cpu") -> Candidates | Instances:
    """What `encode` was given, as it was stored. Raises ValueError when the two do not fit together."""
    if header.get("crc32", zlib.crc32(payload)) != zlib.crc32(payload):
        raise ValueError("its checksum differs")
    arrays = _unpacked(header["arrays"], payload)
    stored = arrays["values"]
    values = _from_steps(stored) if stored.dtype == np.uint16 else torch.from_numpy(stored).float()
    if "patch_at" in arrays:
        flat = values.flatten(1)
        flat[:, torch.from_numpy(arrays["patch_at"].astype(np.int64))] = torch.from_numpy(arrays["patches"])
        values = flat.view(values.shape)
    values = values.to(device)
    padded, resized, original = (tuple(header["frame"][name]) for name in ("padded", "resized", "original"))
    frame = Frame(padded, resized, original, header["frame"].get("one_step", False))
    if header["kind"] == "candidates":
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


def write_block(path: str | os.PathLike[str], images: Sequence[tuple[int, Encoded]], about: dict[str, Any]) -> None:
    """Writes a block of images, atomically. about: what a reader must know, as {"run": id, "low_gate": …}."""
    table = pa.table(
        {
            "image_id": pa.array([image_id for image_id, _ in images], pa.int64()),
            "header": [json.dumps(encoded.header) for _, encoded in images],
            "payload": pa.array([encoded.payload for _, encoded in images], pa.binary()),
        },
        schema=_SCHEMA.with_metadata({"panbench": json.dumps({**about, "version": VERSION})}),
    )
    with atomic_write(path) as handle, pa.ipc.new_file(handle, table.schema) as writer:
        # A batch an image: one is read without the others.
        writer.write_table(table, max_chunksize=1)


class StoredOutputs:
    """The stored images of a run: which there are, and each as it left the network."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens all blocks of a folder. Raises BadRun for one that is torn, foreign, or of another version."""
        self.folder = Path(folder)
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
                about = json.loads((reader.schema.metadata or {}).get(b"panbench", b"null"))
                if not isinstance(about, dict) or reader.schema.names != _SCHEMA.names:
                    raise BadRun(f"{path} was not written by panbench as candidates of a run.")
                if (version := about.pop("version", None)) not in (_HALF_PRECISION, VERSION):
                    raise BadRun(
                        f"{path} holds candidates of version {version}; this panbench reads version {VERSION}. Make "
                        "them again with `panbench eval --keep-candidates`."
                    )
                if self.about and about != self.about:
                    raise BadRun(f"{path} holds candidates of another run than the other files beside it.")
                self.about = about
                for row in range(reader.num_record_batches):
                    (image_id,) = reader.get_batch(row).column("image_id").to_pylist()
                    if image_id in self._place:
                        raise BadRun(f"{path} repeats image {image_id}, which another file beside it holds.")
                    self._place[image_id] = (path, row)
        except PanbenchError:
            raise
        except (pa.ArrowException, OSError, ValueError) as problem:
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
        """What the network said of an image. Raises BadRun when it is not stored or damaged."""
        if image_id not in self._place:
            raise BadRun(f"{self.folder} holds no candidates of image {image_id}.")
        path, row = self._place[image_id]
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                batch = reader.get_batch(row)
                return decode(json.loads(batch.column("header")[0].as_py()), batch.column("payload")[0].as_py(), device)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as problem:
            raise BadRun(f"{path} is damaged at image {image_id} ({problem}). Make it again.") from None

    def __iter__(self) -> Iterator[int]:
        return iter(self.image_ids)


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
    sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for _, dtype, shape in kinds]
    content = pa.Codec(_CODEC).decompress(payload, decompressed_size=sum(sizes), asbytes=True)
    arrays, start = {}, 0
    for (name, dtype, shape), size in zip(kinds, sizes, strict=True):
        shuffled = np.frombuffer(content, np.uint8, size, start)
        start += size
        whole = np.ascontiguousarray(shuffled.reshape(dtype.itemsize, -1).T)
        arrays[name] = whole.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)
    return arrays
