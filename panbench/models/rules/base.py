"""What all fusion rules share: their form, the map on its way from the device to the host, and numbering segments."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.catalog import RULES
from panbench.models.candidates import Candidates, FinishedMap, Instances, LabelledSegment, NonFiniteOutput
from panbench.runs import ModelRecord

NOTHING = 255
"""The code of a pixel that belongs to no candidate, where codes are bytes; where they are int16 it is -1."""

SettledMap = tuple[npt.NDArray[np.int32], tuple[LabelledSegment, ...]]
"""(H, W) int32 ids, 0 = void, and the segments that they name."""


@dataclass(frozen=True)
class FusedMap:
    """What the host needs to decide which candidates become segments of one image, and to number them."""

    codes: Tensor
    """(H, W) uint8 or int16: the index of the candidate that won each pixel, or the code for nothing."""
    labels: tuple[int, ...]
    scores: tuple[float | None, ...]
    things: tuple[bool, ...]
    """Of each candidate: its label, its score, and whether its label is a thing."""
    finite: Tensor
    """() bool: whether all outputs that went into the map are finite numbers."""
    claimed: Tensor | None = None
    wanted: Tensor | None = None
    """(K,) int64: the pixels that each candidate won, and those that its mask covers. None where a rule needs none."""

    def to_host(self) -> "FusedMap":
        """The same on the host. On CUDA the copies are only queued: synchronise with the device before `settle`."""
        if self.codes.device.type == "cpu":
            return self

        def copied(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            if values.device.type == "mps":  # has no events to wait for its copies
                return values.cpu()
            target = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            return target.copy_(values, non_blocking=True)

        codes, finite = copied(self.codes), copied(self.finite)
        assert codes is not None
        assert finite is not None
        return replace(self, codes=codes, finite=finite, claimed=copied(self.claimed), wanted=copied(self.wanted))


Fused = FusedMap | FinishedMap


@dataclass(frozen=True)
class Rule:
    """A fusion rule: a name, its thresholds as fields, and two steps from a model's output to an id map.

    `fuse` runs on the device and gives a small map of codes and a few counts, where it can without waiting for the
    device. `settle` runs on the host: it decides which codes become segments, and numbers them.
    A rule of your own is a subclass with `name` and `summary`, registered in `panbench.catalog.RULES`.
    """

    name: ClassVar[str]
    """As `--rule` and run.json name it."""
    summary: ClassVar[str]
    """One sentence on what this rule does differently from the others."""
    source: ClassVar[str]
    """The paper or program that states it."""
    takes: ClassVar[type] = Candidates
    """The kind of output that it fuses: Candidates, Instances or FinishedMap."""
    scoring: ClassVar[Literal["softmax", "softmax without nothing", "sigmoid"]] = "softmax"
    """How its paper makes scores of class logits, which is done before the rule: with a class "nothing" that can win,
    with one that only takes probability, or with none."""
    knows_padding: ClassVar[bool] = True
    """False where its paper's masks are of the resized image alone, so that nothing is to be cropped."""

    def fuse(self, output: Any) -> Fused:
        """The map of one image, on the device of `output`."""
        raise NotImplementedError

    def fuse_batch(self, outputs: Sequence[Any]) -> Iterable[Fused]:
        """The map of each image, as `fuse`; a rule that has to wait for the device waits here for all at once."""
        return map(self.fuse, outputs)

    def settle(self, fused: Any) -> SettledMap:
        """The id map and segments of a fused map that is on the host. Raises NonFiniteOutput."""
        raise NotImplementedError

    @property
    def least_gate(self) -> float:
        """Candidates with a lower gate do not change the map, so they need not be stored."""
        return float(getattr(self, "score", 0.0))

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else a run of it must share to be resumed, for run.json's `arguments`."""
        return {}

    def describe(self, model: ModelRecord) -> ModelRecord:
        """What run.json says of the model; a rule that fuses something else than its last answer says so here."""
        return model

    @property
    def called(self) -> str:
        """The name that `--rule` takes: the registered name, else module:Class."""
        place = f"{type(self).__module__}:{type(self).__qualname__}"
        return self.name if RULES.places.get(self.name) == place else place

    def record(self) -> dict[str, Any]:
        """The rule's entry in run.json: the name and all thresholds."""
        return {"name": self.called, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        """The rule in the form that `--rule` takes, with every value that differs from its defaults."""
        changed = [
            f"{field.name}={str(value).lower() if isinstance(value, bool) else value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return self.called + (":" + ",".join(changed) if changed else "")


def fraction(default: float) -> Any:
    """A field of a rule that is a fraction, 0–1."""
    return dataclasses.field(default=default, metadata={"range": (0.0, 1.0)})


def whole(default: int) -> Any:
    """A field of a rule that is a whole number from 0 on."""
    return dataclasses.field(default=default, metadata={"range": (0, 1 << 31)})


def choice(*names: str) -> Any:
    """A field of a rule that is one of some names; the first is its default."""
    return dataclasses.field(default=names[0], metadata={"choices": names})


def code_type(count: int) -> torch.dtype:
    """The smallest integer type with a code for each of `count` candidates and one for none."""
    return torch.uint8 if count < NOTHING else torch.int16


def nothing_of(count: int) -> int:
    """The code for nothing among `count` candidates."""
    return NOTHING if count < NOTHING else -1


def check_finite(fused: FusedMap, output: str) -> None:
    """Raises NonFiniteOutput, naming the output, when something that went into a map was not a number."""
    if not bool(fused.finite):
        raise NonFiniteOutput(output)


def stuff_together(fused: FusedMap, accepted: Sequence[int]) -> list[list[int]]:
    """The accepted candidates in groups that become one segment each: things alone, stuff of a label together."""
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


def number(fused: FusedMap, groups: Sequence[Sequence[int]]) -> SettledMap:
    """Ids 1, 2, … for the groups of candidates, in order, that own at least one pixel; all other pixels are void.

    A table with an entry for every code that can occur turns the map of codes into the map of ids in one look-up per
    pixel, whatever became of the candidates: those in no group, and the code for nothing, keep the table's 0. int16
    codes are read as uint16, so that -1 is a place in the table as well (the last).
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
    """The codes as unsigned numbers on the host."""
    codes = fused.codes.numpy()
    return codes if codes.dtype == np.uint8 else codes.view(np.uint16)


def rule_takes(rule: Rule) -> str:
    """What a rule takes, in words."""
    return {Candidates: "masks that compete (queries)", Instances: "boxes with masks and a semantic map"}.get(
        rule.takes, "finished id maps"
    )
