"""What left a network, kept on disk: candidates or instances of each image, so that fusion can be tried without it.

An image is a Parquet file named by its id: one column of float32 `values` (masks, then the semantic map, if any), as
the network gave them, compressed by zstd; all else is JSON in the schema's metadata, with a checksum of everything.
So a rule gives from it the map that it gave in the evaluation.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

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


def encode(output: Output, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> bytes:
    """The file of one image. rule: the model's own; about: of the run, as {"weights_sha256": …}; half: as float16.

    Raises BadRun for a FinishedMap: there is nothing to fuse.
    """
    if isinstance(output, FinishedMap):
        raise BadRun("This model gives finished id maps: there are no candidates to keep.")
    kept = _kept(output, rule)
    frame = kept.frame
    fields: dict[str, Any] = {"frame": [frame.padded, frame.resized, frame.original, frame.one_step]}
    maps = [kept.masks]
    if isinstance(kept, Candidates):
        fields |= {"kind": "candidates", "isthing": kept.isthing, "activation": kept.activation}
        fields |= {"gate": kept.gate.tolist(), "weight": kept.weight.tolist(), "labels": kept.labels.tolist()}
    else:
        maps.append(kept.semantic_logits)
        fields |= {"kind": "instances", "semantic_labels": kept.semantic_labels}
        fields |= {"labels": kept.labels, "scores": kept.scores}
        fields["boxes"] = None if kept.boxes is None else kept.boxes.tolist()
    fields["shapes"] = [list(each.shape) for each in maps]
    values = torch.cat([each.flatten() for each in maps]).numpy().astype(np.float16 if half else np.float32)
    said = json.dumps({"version": VERSION, "about": about, "output": fields})
    metadata = {"panbench": said, "crc32": str(_crc32(said, values))}
    schema = pa.schema([("values", pa.from_numpy_dtype(values.dtype))], metadata)
    content = pa.BufferOutputStream()
    # The bytes of all exponents lie together: they repeat, mantissas do not.
    split: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": not half, "write_statistics": False}
    table = pa.Table.from_arrays([values], schema=schema)
    pq.write_table(table, content, row_group_size=max(1, len(values)), compression="zstd", **split)
    return content.getvalue().to_pybytes()


def decode(content: bytes, device: torch.device | str = "cpu") -> tuple[Mapping[str, Any], Candidates | Instances]:
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
    fields, frame = header["output"], _frame(header["output"]["frame"])
    ends = np.cumsum([0, *map(math.prod, fields["shapes"])]).tolist()
    if ends[-1] != len(values):
        raise ValueError(f"its shapes declare {ends[-1]:,} values, and it has {len(values):,}")
    masks, *others = (
        torch.from_numpy(values[begin:end].astype(np.float32).reshape(shape)).to(device)
        for begin, end, shape in zip(ends, ends[1:], fields["shapes"], strict=False)
    )
    if len(masks) != len(fields["labels"]) or masks.dim() != 3:
        raise ValueError("its labels and masks do not fit together")
    if fields["kind"] == "candidates":
        output: Candidates | Instances = Candidates(
            labels=np.array(fields["labels"], np.int64),
            gate=np.array(fields["gate"], np.float32),
            weight=torch.tensor(fields["weight"], dtype=torch.float32, device=device),
            masks=masks,
            frame=frame,
            isthing=tuple(fields["isthing"]),
            activation=fields["activation"],
        )
    else:
        output = Instances(
            boxes=None if fields["boxes"] is None else torch.tensor(fields["boxes"], device=device).reshape(-1, 4),
            masks=masks,
            labels=tuple(fields["labels"]),
            scores=tuple(fields["scores"]),
            semantic_logits=others[0],
            semantic_labels=tuple(fields["semantic_labels"]),
            frame=frame,
        )
    return header["about"], output


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

    def _decoded(self, image_id: int, device: torch.device | str) -> tuple[Mapping[str, Any], Candidates | Instances]:
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


def _kept(output: Candidates | Instances, rule: Rule) -> Candidates | Instances:
    """The output in float32 on the host, without what no rule of ordinary thresholds looks at."""
    if isinstance(output, Candidates):
        # What the model's own rule takes stays, whatever its threshold.
        least = min(LOW_GATE, float(getattr(rule, "score", LOW_GATE)))
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
