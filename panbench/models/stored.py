"""Stores network outputs, so that they can be fused again without the network.

Each image is a Parquet file named by its id: one column of float32 `values` (masks and other arrays, concatenated),
compressed by zstd; everything else is JSON in the schema's metadata, with a checksum of both. A rule makes the same map
from it as in the evaluation.
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
from panbench.models.rules.resize import possible_winning_channels
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.runs import candidate_files, check_recorded, recorded

VERSION = 1
LOW_GATE = 0.05
"""Candidates whose gate is not above this are not stored."""

MOST_VALUES = 1 << 29
"""An image that declares more is refused before memory is taken for it."""


_STORED_FIELDS: Mapping[type, Sequence[str]] = {
    Candidates: ("masks", "weight", "gate", "labels", "frame", "isthing", "activation"),
    Instances: ("masks", "semantic_logits", "boxes", "labels", "scores", "frame", "semantic_labels"),
}
"""The stored fields of each kind of output."""

_OUTPUT_KINDS = {kind.__name__: kind for kind in _STORED_FIELDS}
_FLOAT_FIELDS = ("masks", "semantic_logits", "boxes", "weight", "gate")


def encode(output: Output, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> bytes:
    """Encodes a network's output for one image as the bytes of its Parquet file.

    rule: the model's own; about: facts on the run, as {"weights_sha256": …}; half: round masks to half precision
    Raises BadRun for a FinishedMap, which needs no fusion.
    """
    if isinstance(output, FinishedMap):
        raise BadRun("This model gives finished id maps: there are no candidates to keep.")
    stored = _reduced_output(output, rule, half)
    fields = {name: getattr(stored, name) for name in _STORED_FIELDS[type(stored)]}
    floats = {name: np.asarray(fields.pop(name)) for name in _FLOAT_FIELDS if fields.get(name) is not None}
    fields |= {"kind": type(stored).__name__, "floats": {name: array.shape for name, array in floats.items()}}
    header_text = json.dumps({"version": VERSION, "about": about, "output": fields}, default=_json_value)
    values = np.concatenate([array.ravel() for array in floats.values()])
    schema = pa.schema([("values", pa.float32())], {"panbench": header_text, "crc32": str(_crc32(header_text, values))})
    content = pa.BufferOutputStream()
    # The bytes of all exponents lie together: they repeat, mantissas do not.
    split: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": True, "write_statistics": False}
    table = pa.Table.from_arrays([values], schema=schema)
    pq.write_table(table, content, row_group_size=max(1, len(values)), compression="zstd", **split)
    return content.getvalue().to_pybytes()


def decode(content: bytes, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Candidates | Instances]:
    """Decodes the file of a stored output; returns facts on the run, and the output. Raises ValueError.

    Other exceptions come from files that are no Parquet of panbench.
    """
    file = pq.ParquetFile(pa.BufferReader(content))
    if file.metadata.num_rows > MOST_VALUES:
        raise ValueError(f"it declares {file.metadata.num_rows:,} values, more than {MOST_VALUES:,}")
    metadata = file.schema_arrow.metadata
    header_text = metadata[b"panbench"].decode()
    values = file.read()["values"].to_numpy()
    if int(metadata[b"crc32"]) != _crc32(header_text, values):
        raise ValueError("its checksum differs")
    header = json.loads(header_text)
    if header["version"] != VERSION:
        raise ValueError(f"it is of version {header['version']}; this panbench reads version {VERSION}")
    fields: dict[str, Any] = {
        name: tuple(value) if type(value) is list else value for name, value in header["output"].items()
    }
    kind, shapes = _OUTPUT_KINDS[fields.pop("kind")], fields.pop("floats")
    ends = np.cumsum([0, *map(math.prod, shapes.values())]).tolist()
    if ends[-1] != len(values):
        raise ValueError(f"its shapes declare {ends[-1]:,} values, and it has {len(values):,}")
    for (name, shape), begin, end in zip(shapes.items(), ends, ends[1:], strict=False):
        fields[name] = torch.tensor(values[begin:end].reshape(shape), device=device)
    if fields["masks"].dim() != 3 or len(fields["masks"]) != len(fields["labels"]):
        raise ValueError("its labels and masks do not fit together")
    fields["frame"] = _read_image_sizes(fields["frame"])
    if kind is Candidates:
        fields |= {"labels": np.array(fields["labels"], np.int64), "gate": fields["gate"].cpu().numpy()}
    return header["about"], kind(**fields)


class StoredOutputs:
    """Reads the network outputs that a run has stored, by image id."""

    def __init__(self, folder: Path) -> None:
        """Opens a run's folder of stored network outputs; reads the first. Raises BadRun if it is missing or damaged.

        `about` holds its facts on the run, which all others must share.
        """
        self.folder = folder
        self._hashes = recorded(folder.parent)
        self._files = {int(path.stem): path for path in candidate_files(folder.parent)}
        if not self._files:
            raise BadRun(f"{folder.parent} holds no candidates. Make the run with `panbench eval --keep-candidates`.")
        self.about, _ = self._read_output_file(self.image_ids[0], "cpu")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The ids of the stored images, ascending."""
        return tuple(sorted(self._files))

    def read(self, image_id: int, device: torch.device | str = "cpu") -> Candidates | Instances:
        """Returns the network's stored output for an image.

        Raises BadRun if it is missing, damaged, from another run, or differs from its recorded hash.
        """
        if image_id not in self._files:
            raise BadRun(f"{self.folder} holds no candidates of image {image_id}.")
        about, output = self._read_output_file(image_id, device)
        if about != self.about:
            raise BadRun(f"{self._files[image_id]} holds candidates of another run than the other files in its folder.")
        return output

    def _read_output_file(
        self, image_id: int, device: torch.device | str
    ) -> tuple[dict[str, Any], Candidates | Instances]:
        """Reads and decodes an image's file. Raises BadRun if it is damaged or differs from its recorded hash."""
        path = self._files[image_id]
        check_recorded(self.folder.parent, f"{self.folder.name}/{path.name}", self._hashes)
        try:
            return decode(path.read_bytes(), device)
        except Exception as problem:
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise BadRun(
                f"{path} is damaged or was not written by panbench ({reason}). Create it again with --keep-candidates."
            ) from None


def _reduced_output(output: Candidates | Instances, rule: Rule, half: bool) -> Candidates | Instances:
    """Returns the output in float32 on the host, without masks and classes that could win at no usual threshold."""

    def on_host(values: Tensor) -> Tensor:
        """Copies values to the host in float32, rounded to half precision if so requested."""
        return (values.half() if half else values).float().cpu()

    if isinstance(output, Candidates):
        # Keep what the model's own rule uses, however low its threshold.
        least = min(LOW_GATE, float(getattr(rule, "score", LOW_GATE)))
        rows = np.flatnonzero((output.labels >= 0) & (output.gate > np.float32(least)))
        index = torch.from_numpy(rows).to(output.masks.device)
        masks, weight = on_host(output.masks[index]), output.weight[index].float().cpu()
        return replace(output, labels=output.labels[rows], gate=output.gate[rows], weight=weight, masks=masks)
    logits, labels = output.semantic_logits.float().cpu(), output.semantic_labels
    if (channels := possible_winning_channels(logits)) is not None:
        logits, labels = logits[channels], tuple(labels[channel] for channel in channels.tolist())
    boxes = None if output.boxes is None else output.boxes.float().cpu()
    logits, masks = on_host(logits), on_host(output.masks)
    return replace(output, boxes=boxes, masks=masks, semantic_logits=logits, semantic_labels=labels)


def _json_value(value: Any) -> Any:
    """Converts to JSON what it has no type for: arrays of labels, and the image's sizes."""
    return value.tolist() if isinstance(value, np.ndarray) else astuple(value)


def _crc32(header_text: str, values: npt.NDArray[Any]) -> int:
    """Returns the checksum of a stored output's header and values."""
    return zlib.crc32(values.tobytes(), zlib.crc32(header_text.encode()))


def _read_image_sizes(given: Any) -> Frame:
    """Reads an image's padded, resized and original size from a stored output's header. Raises ValueError."""
    *pairs, one_step = given
    for pair in pairs:
        if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
            raise ValueError(f"it is of an image of the size {pair}")
        if pair[0] * pair[1] > 4 * DEFAULT_MAX_PIXELS:
            raise ValueError(f"it is of an image of {pair[0]}×{pair[1]} pixels, which is too large")
    padded, resized, original = (tuple(pair) for pair in pairs)
    return Frame(padded, resized, original, bool(one_step))
