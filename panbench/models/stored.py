"""What left a network, kept on disk: candidates or instances of each image, so that fusion can be tried without it.

An image is a Parquet file named by its id: one column of float32 `values` (masks and the like, one after another), as
the network gave them, compressed by zstd; all else is JSON in the schema's metadata, with a checksum of everything.
So a rule gives from it the map that it gave in the evaluation.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from panbench.base.errors import BadRun
from panbench.models.candidates import Candidates, FinishedMap, Frame, Instances, Output
from panbench.models.rules.base import Rule
from panbench.models.rules.resize import possible_winners
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.runs import candidate_files, check_recorded, recorded

__all__ = ["LOW_GATE", "VERSION", "StoredOutputs", "decode", "encode"]

VERSION = 1
LOW_GATE = 0.05
"""Candidates whose gate is not above this are not stored."""

MOST_VALUES = 1 << 29
"""An image that declares more is refused before memory is taken for it."""


_NAMES: Mapping[type, Sequence[str]] = {
    Candidates: ("masks", "weight", "gate", "labels", "frame", "isthing", "activation"),
    Instances: ("masks", "semantic_logits", "boxes", "labels", "scores", "frame", "semantic_labels"),
}
"""What is stored of each kind of output."""

_KINDS = {kind.__name__: kind for kind in _NAMES}
_FLOATS = ("masks", "semantic_logits", "boxes", "weight", "gate")


def encode(output: Output, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> bytes:
    """The file of one image.

    rule: the model's own; about: of the run, as {"weights_sha256": …}; half: masks rounded to half precision
    Raises BadRun for a FinishedMap: there is nothing to fuse.
    """
    if isinstance(output, FinishedMap):
        raise BadRun("This model gives finished id maps: there are no candidates to keep.")
    kept = _kept(output, rule, half)
    fields = {name: getattr(kept, name) for name in _NAMES[type(kept)]}
    floats = {name: np.asarray(fields.pop(name)) for name in _FLOATS if fields.get(name) is not None}
    fields |= {"kind": type(kept).__name__, "floats": {name: array.shape for name, array in floats.items()}}
    said = json.dumps({"version": VERSION, "about": about, "output": fields}, default=_plain)
    values = np.concatenate([array.ravel() for array in floats.values()])
    schema = pa.schema([("values", pa.float32())], {"panbench": said, "crc32": str(_crc32(said, values))})
    content = pa.BufferOutputStream()
    # The bytes of all exponents lie together: they repeat, mantissas do not.
    split: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": True, "write_statistics": False}
    table = pa.Table.from_arrays([values], schema=schema)
    pq.write_table(table, content, row_group_size=max(1, len(values)), compression="zstd", **split)
    return content.getvalue().to_pybytes()


def decode(content: bytes, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Candidates | Instances]:
    """What `encode` was given: about, and the output. Raises ValueError and its like for what it did not write."""
    file = pq.ParquetFile(pa.BufferReader(content))
    if file.metadata.num_rows > MOST_VALUES:
        raise ValueError(f"it declares {file.metadata.num_rows:,} values, more than {MOST_VALUES:,}")
    metadata = file.schema_arrow.metadata
    said = metadata[b"panbench"].decode()
    values = file.read()["values"].to_numpy()
    if int(metadata[b"crc32"]) != _crc32(said, values):
        raise ValueError("its checksum differs")
    header = json.loads(said)
    if header["version"] != VERSION:
        raise ValueError(f"it is of version {header['version']}; this panbench reads version {VERSION}")
    fields: dict[str, Any] = {
        name: tuple(value) if type(value) is list else value for name, value in header["output"].items()
    }
    kind, shapes = _KINDS[fields.pop("kind")], fields.pop("floats")
    ends = np.cumsum([0, *map(math.prod, shapes.values())]).tolist()
    if ends[-1] != len(values):
        raise ValueError(f"its shapes declare {ends[-1]:,} values, and it has {len(values):,}")
    for (name, shape), begin, end in zip(shapes.items(), ends, ends[1:], strict=False):
        fields[name] = torch.tensor(values[begin:end].reshape(shape), device=device)
    if fields["masks"].dim() != 3 or len(fields["masks"]) != len(fields["labels"]):
        raise ValueError("its labels and masks do not fit together")
    fields["frame"] = _frame(fields["frame"])
    if kind is Candidates:
        fields |= {"labels": np.array(fields["labels"], np.int64), "gate": fields["gate"].cpu().numpy()}
    return header["about"], kind(**fields)


class StoredOutputs:
    """The stored images of a run: which there are, and each as it left the network."""

    def __init__(self, folder: Path) -> None:
        """Raises BadRun for a folder without candidates, and for a first file that is torn or foreign."""
        self.folder = folder
        self._hashes = recorded(folder.parent)
        self._files = {int(path.stem): path for path in candidate_files(folder.parent)}
        if not self._files:
            raise BadRun(f"{folder.parent} holds no candidates. Make the run with `panbench eval --keep-candidates`.")
        self.about, _ = self._decoded(self.image_ids[0], "cpu")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that are stored, ascending."""
        return tuple(sorted(self._files))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._files.values())

    def read(self, image_id: int, device: torch.device | str = "cpu") -> Candidates | Instances:
        """The stored output of the network for an image.

        Raises BadRun when it is missing, damaged, another run's, or not what its run recorded.
        """
        if image_id not in self._files:
            raise BadRun(f"{self.folder} holds no candidates of image {image_id}.")
        about, output = self._decoded(image_id, device)
        if about != self.about:
            raise BadRun(f"{self._files[image_id]} holds candidates of another run than the other files beside it.")
        return output

    def _decoded(self, image_id: int, device: torch.device | str) -> tuple[dict[str, Any], Candidates | Instances]:
        path = self._files[image_id]
        check_recorded(self.folder.parent, f"{self.folder.name}/{path.name}", self._hashes)
        try:
            return decode(path.read_bytes(), device)
        except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError) as problem:
            raise _damaged(path, problem) from None
        except (RuntimeError, TypeError, ValueError, pa.ArrowException) as problem:
            raise _damaged(path, problem) from None


def _damaged(path: Path, problem: Exception) -> BadRun:
    reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return BadRun(f"{path} is damaged or was not written by panbench ({reason}). Make it again: --keep-candidates.")


def _kept(output: Candidates | Instances, rule: Rule, half: bool) -> Candidates | Instances:
    """The output in float32 on the host, without what no rule of ordinary thresholds looks at."""

    def on_host(values: Tensor) -> Tensor:
        return (values.half() if half else values).float().cpu()

    if isinstance(output, Candidates):
        # What the model's own rule takes stays, whatever its threshold.
        least = min(LOW_GATE, float(getattr(rule, "score", LOW_GATE)))
        rows = np.flatnonzero((output.labels >= 0) & (output.gate > np.float32(least)))
        index = torch.from_numpy(rows).to(output.masks.device)
        masks, weight = on_host(output.masks[index]), output.weight[index].float().cpu()
        return replace(output, labels=output.labels[rows], gate=output.gate[rows], weight=weight, masks=masks)
    logits, labels = output.semantic_logits.float().cpu(), output.semantic_labels
    if (channels := possible_winners(logits)) is not None:
        logits, labels = logits[channels], tuple(labels[channel] for channel in channels.tolist())
    boxes = None if output.boxes is None else output.boxes.float().cpu()
    logits, masks = on_host(logits), on_host(output.masks)
    return replace(output, boxes=boxes, masks=masks, semantic_logits=logits, semantic_labels=labels)


def _plain(value: Any) -> Any:
    """Labels and frames as JSON has them."""
    return value.tolist() if isinstance(value, np.ndarray) else astuple(value)


def _crc32(said: str, values: npt.NDArray[Any]) -> int:
    return zlib.crc32(values.tobytes(), zlib.crc32(said.encode()))


def _frame(given: Any) -> Frame:
    """The frame of a header. Raises ValueError for sizes that no image has."""
    *pairs, one_step = given
    for pair in pairs:
        if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
            raise ValueError(f"it is of an image of the size {pair}")
        if pair[0] * pair[1] > 4 * DEFAULT_MAX_PIXELS:
            raise ValueError(f"it is of an image of {pair[0]}×{pair[1]} pixels, which is too large")
    padded, resized, original = (tuple(pair) for pair in pairs)
    return Frame(padded, resized, original, bool(one_step))
