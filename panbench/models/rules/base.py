"""The base of all fusion rules: interface, fused maps, copies to the host, and numbering of segments."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.catalog import BOXES_IN_WORDS, MASKS_IN_WORDS, RULES
from panbench.models.candidates import Candidates, FinishedMap, Instances, LabelledSegment, NonFiniteOutput
from panbench.runs import ModelRecord

NOTHING = 255
"""The uint8 code of a pixel without a candidate; the int16 code is -1."""

SegmentedMap = tuple[npt.NDArray[np.int32], tuple[LabelledSegment, ...]]
"""(H, W) int32 ids, 0 = void, and their segments."""


@dataclass(frozen=True)
class FusedMap:
    """Holds which of the network's masks won each pixel of an image, and the masks' labels, scores and areas."""

    codes: Tensor
    """(H, W) uint8 or int16: the index of each pixel's winning candidate, or the code for nothing."""
    labels: tuple[int, ...]
    scores: tuple[float | None, ...]
    things: tuple[bool, ...]
    """For each candidate its label, score, and whether it is a thing."""
    finite: Tensor
    """() bool: whether all outputs used for the map are finite."""
    claimed: Tensor | None = None
    mask_areas: Tensor | None = None
    """(K,) int64: the pixels that each candidate won, and the area of its mask; None if the rule needs neither."""

    @classmethod
    def of_candidates(
        cls,
        output: Candidates,
        rows: npt.NDArray[np.int64],
        codes: Tensor,
        masks: Tensor,
        *,
        scores: Sequence[float] | None = None,
        claimed: Tensor | None = None,
        mask_areas: Tensor | None = None,
    ) -> "FusedMap":
        """Makes a FusedMap from the index of the mask that won each pixel, with labels and scores of all masks.

        rows: the masks that competed, as rows of `output`
        `finite` says whether all of `masks` are finite.
        """
        labels = tuple(output.labels[rows].tolist())
        scores = tuple(output.gate[rows].tolist() if scores is None else scores)
        things = tuple(output.isthing[label] for label in labels)
        return cls(codes, labels, scores, things, torch.isfinite(masks).all(), claimed, mask_areas)

    def to_host(self) -> "FusedMap":
        """Copies the map to the host. On CUDA copies are only queued: synchronise before `to_segments`."""
        if self.codes.device.type == "cpu":
            return self

        def copy_to_host(values: Tensor | None) -> Tensor | None:
            """Copies a tensor to the host, into pinned memory on CUDA."""
            if values is None:
                return None
            if values.device.type == "mps":  # has no events to wait for its copies
                return values.cpu()
            target = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            return target.copy_(values, non_blocking=True)

        codes, finite = copy_to_host(self.codes), copy_to_host(self.finite)
        assert codes is not None
        assert finite is not None
        return replace(
            self,
            codes=codes,
            finite=finite,
            claimed=copy_to_host(self.claimed),
            mask_areas=copy_to_host(self.mask_areas),
        )


Fused = FusedMap | FinishedMap


@dataclass(frozen=True)
class Rule:
    """Fuses a model's output to an id map in two steps; its thresholds are its fields.

    `fuse` runs on the device and returns a map of codes and a few counts, if possible without synchronisation.
    `to_segments` runs on the host: it decides which codes become segments, and numbers them.
    To add a rule, write a subclass with `name` and `summary`.
    """

    name: ClassVar[str]
    """The name for `--rule` and in run.json."""
    summary: ClassVar[str]
    """One sentence on how this rule differs from the others."""
    source: ClassVar[str]
    """The paper or program that defines it."""
    takes: ClassVar[type] = Candidates
    """The kind of output that it takes: Candidates, Instances or FinishedMap."""
    scoring: ClassVar[Literal["softmax", "softmax without nothing", "sigmoid"]] = "softmax"
    """How its paper scores class logits (done before the rule): with a class "nothing" that can win, with one that only
    takes probability, or with none."""
    knows_padding: ClassVar[bool] = True
    """False if its paper's masks cover the image without padding, so that nothing is cropped."""

    def fuse(self, output: Any) -> Fused:
        """Fuses the network's output for one image, on its device, to a map of the mask that won each pixel."""
        raise NotImplementedError

    def fuse_batch(self, outputs: Sequence[Any]) -> Iterable[Fused]:
        """Fuses several images; a rule that must synchronise with the device does so here once for all of them."""
        return map(self.fuse, outputs)

    def to_segments(self, fused: Any) -> SegmentedMap:
        """Turns the map of the mask that won each pixel into an id map and its segments. Raises NonFiniteOutput.

        By default every candidate with a pixel is a segment, and stuff of one class is merged.
        """
        check_finite(fused, "mask logits")
        return number_segments(fused, stuff_together(fused, range(len(fused.labels))))

    @property
    def least_gate(self) -> float:
        """The confidence below which masks cannot affect the fused map, so that they need not be stored."""
        return float(getattr(self, "score", 0.0))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings besides thresholds that a resumed run must share; stored in run.json's `arguments`."""
        return {}

    def describe(self, model: ModelRecord) -> ModelRecord:
        """Returns what run.json records of the model in a run of this rule; unchanged by default.

        Rules that fuse another output than the final one change it.
        """
        return model

    @property
    def called(self) -> str:
        """The rule's name as `--rule` takes it: its registered name, else module:Class."""
        reference = f"{type(self).__module__}:{type(self).__qualname__}"
        return self.name if RULES.references.get(self.name) == reference else reference

    def record(self) -> dict[str, Any]:
        """Returns the rule's entry in run.json: name and thresholds."""
        return {"name": self.called, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        """Returns the rule as `--rule` takes it, with every threshold that differs from its default."""
        changed = [
            f"{field.name}={str(value).lower() if isinstance(value, bool) else value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return self.called + (":" + ",".join(changed) if changed else "")


def fraction(default: float) -> Any:
    """Declares a rule's field that is a fraction, 0–1."""
    return dataclasses.field(default=default, metadata={"range": (0.0, 1.0)})


def whole(default: int) -> Any:
    """Declares a rule's field that is an integer from 0 on."""
    return dataclasses.field(default=default, metadata={"range": (0, 1 << 31)})


def choice(*names: str) -> Any:
    """Declares a rule's field that is one of these names; the first is its default."""
    return dataclasses.field(default=names[0], metadata={"choices": names})


def code_type(count: int) -> torch.dtype:
    """Returns the smallest integer type for the indices of `count` masks and one value that means no mask."""
    return torch.uint8 if count < NOTHING else torch.int16


def code_for_nothing(count: int) -> int:
    """Returns the value that means no mask in a map of the indices of `count` masks."""
    return NOTHING if count < NOTHING else -1


def empty_codes(output: Candidates, count: int) -> Tensor:
    """Makes an (H, W) map of mask indices in which no pixel belongs to a mask.

    count: the number of masks, which decides the map's type and its value for no mask
    """
    return torch.full(
        output.frame.original, code_for_nothing(count), dtype=code_type(count), device=output.masks.device
    )


def check_finite(fused: FusedMap, output: str) -> None:
    """Raises NonFiniteOutput, naming the model's output, if a value that made the map is NaN or infinite."""
    if not bool(fused.finite):
        raise NonFiniteOutput(output)


def stuff_together(fused: FusedMap, accepted: Sequence[int]) -> list[list[int]]:
    """Groups candidates to segments: each thing alone, stuff of one label together."""
    groups: list[list[int]] = []
    group_of_stuff: dict[int, list[int]] = {}
    for index in accepted:
        group = None if fused.things[index] else group_of_stuff.get(fused.labels[index])
        if group is not None:
            group.append(index)
            continue
        groups.append([index])
        if not fused.things[index]:
            group_of_stuff[fused.labels[index]] = groups[-1]
    return groups


def number_segments(fused: FusedMap, groups: Sequence[Sequence[int]]) -> SegmentedMap:
    """Makes an id map: each group of masks becomes a segment, numbered in order from 1; the rest is void.

    A look-up table with an entry for every possible code maps codes to ids in one pass; candidates in no group, and the
    code for nothing, have 0 in it. int16 codes are read as uint16, so that -1 is a valid index (the last one).
    """
    codes = codes_of(fused)
    table = np.zeros(np.iinfo(codes.dtype).max + 1, np.int32)
    counts = np.bincount(codes.ravel(), minlength=len(table))
    segments: list[LabelledSegment] = []
    for group in groups:
        area = int(counts[list(group)].sum())
        if area == 0:
            continue
        segment_id = len(segments) + 1
        table[list(group)] = segment_id
        known = [score for index in group if (score := fused.scores[index]) is not None]
        segments.append(LabelledSegment(segment_id, fused.labels[group[0]], area, max(known, default=None)))
    return table[codes], tuple(segments)


def codes_of(fused: FusedMap) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Returns the index of the mask that won each pixel, as a NumPy array of unsigned integers."""
    codes = fused.codes.numpy()
    return codes if codes.dtype == np.uint8 else codes.view(np.uint16)


def rule_takes(rule: Rule) -> str:
    """Names the kind of output that a rule takes, for messages."""
    return {Candidates: MASKS_IN_WORDS, Instances: BOXES_IN_WORDS}.get(rule.takes, "finished id maps")
