"""Reads and writes run.json as typed records: model, data, settings and results of a run.

The text under each field is its documentation; `scripts/make/run_json.py` makes the site's page from it.
A value that does not exist is null, never 0 or NaN.
"""

import dataclasses
import difflib
import json
import re
import shlex
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from panbench.base.errors import BadRun
from panbench.base.secrets import redactor
from panbench.base.studies import names_in_studies
from panbench.base.text import listed
from panbench.catalog import Published
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.panoptic.types import Category
from panbench.runs.layout import CORE_NAMES, is_own_name

SCHEMA = 1

Status = Literal["running", "done", "interrupted", "failed"]
STATUSES: tuple[str, ...] = typing.get_args(Status)

Count = Annotated[int, "from 0 on"]
OwnName = Annotated[str, "of a part or a study table"]
"""One component of a path (`layout.is_own_name`)."""

Setting = str | int | float | bool | None
"""The types that an argument or a threshold can have."""

_STUDY_TABLES = "study_tables"

_Record = TypeVar("_Record")


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """The model that made the predictions."""

    name: str | None = None
    """the name of its config file"""
    title: str | None = None
    """the name that tables print"""
    family: str | None = None
    """mask2former, maskformer, panoptic-fpn, …"""
    backbone: str | None = None
    """the backbone in short: R50, Swin-T"""
    adapter: str | None = None
    """what builds and runs it: mmdet, or package.module:factory"""
    config: str | None = None
    """the path of the config file"""
    config_sha256: str | None = None
    """the SHA-256 of the resolved config"""
    weights: str | None = None
    """the path of the weights; null when they were drawn at random"""
    weights_sha256: str | None = None
    """the SHA-256 of the weights file"""
    random_weights: bool = False
    """whether the weights were drawn at random: such a run is for plumbing and timing only"""
    params: Count | None = None
    """the number of parameters"""
    published: Published | None = None
    """what a publication reports for these weights; null for other weights, and when categories were mapped"""


@dataclasses.dataclass(frozen=True)
class RuleRecord:
    """The fusion rule: how masks, scores and labels became one id map."""

    name: str
    """the name of the rule"""
    thresholds: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    """all its thresholds by name"""
    default: bool = False
    """whether it is the model's own, with the thresholds of its config"""

    @classmethod
    def of(cls, record: Mapping[str, Setting]) -> "RuleRecord":
        """Converts the name and thresholds of a fusion rule to its record: `{"name": …, threshold: value, …}`."""
        return cls(str(record["name"]), {key: value for key, value in record.items() if key != "name"})

    def __str__(self) -> str:
        """Formats the fusion rule as `--rule` takes it: `mask2former:score=0.7`."""
        values = ",".join(f"{key}={value}" for key, value in self.thresholds.items())
        return f"{self.name}:{values}" if values else self.name


@dataclasses.dataclass(frozen=True)
class DatasetRecord:
    """The images and the ground truth."""

    name: str | None = None
    """the dataset's name"""
    split: str | None = None
    """the split; null or empty where there is none"""
    gt: str | None = None
    """the path of the panoptic JSON"""
    gt_dir: str | None = None
    """the folder of its id PNGs"""
    images: str | None = None
    """the folder of the images; null for a scored folder unless `--images` named one"""
    fingerprint: str | None = None
    """the SHA-256 of the JSON: runs that share neither it nor `rows` are not compared"""
    rows: str | None = None
    """the fingerprint of its images, segments and categories, whatever file they came from"""
    n_images: Count | None = None
    """how many images the JSON lists"""
    has_ground_truth: bool = True
    """false when the images are listed without ground truth, so that nothing is scored"""


@dataclasses.dataclass(frozen=True)
class CategoryMapRecord:
    """The mapping of the model's categories to the dataset's."""

    name: str
    """the map's name"""
    categories: Mapping[str, str]
    """the dataset's category of each of the model's"""
    unmapped_model: tuple[str, ...] = ()
    """the model's categories that became void"""
    unmapped_dataset: tuple[str, ...] = ()
    """the dataset's categories that no prediction can have"""


@dataclasses.dataclass(frozen=True)
class PredictionsRecord:
    """The predictions of a scored folder."""

    json: str
    """the path of the predictions' JSON"""
    folder: str
    """the folder of their id PNGs"""
    sha256: str
    """the SHA-256 of the JSON"""
    rows: str | None = None
    """the fingerprint of its segments, whatever file they came from"""


@dataclasses.dataclass(frozen=True)
class DeviceRecord:
    """The device that ran the model, or the scoring."""

    type: str | None = None
    """cpu, cuda, …"""
    name: str | None = None
    """the name of the processor or accelerator"""


@dataclasses.dataclass(frozen=True)
class ImagesRecord:
    """The number of images to score, and how many were scored, missing or skipped."""

    expected: Count | None = None
    """how many images were requested"""
    whole: Count | None = None
    """for a shard: how many images all shards together were to have"""
    scored: Count = 0
    """how many are in the parts"""
    missing: Count = 0
    """of an evaluation: how many are neither scored nor skipped; of a scored folder: how many lacked a prediction"""
    missing_ids: tuple[int, ...] = ()
    """of a scored folder: the images without a prediction, scored as empty"""
    extra: Count = 0
    """of a scored folder: how many predictions were left out because the ground truth lacks their image"""
    skipped: Count = 0
    """how many images were left out because they could not be read"""
    skipped_ids: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """the reason for each skipped image"""
    oriented: Count = 0
    """how many photographs have an EXIF orientation other than upright; `arguments.exif`: apply turned them by it"""
    extraneous: Count = 0
    """how many JPEGs have bytes that belong to no part of them, which is harmless"""
    gt_faults: GroundTruthFaults | None = None
    """where the ground truth's PNGs and JSON disagree"""


@dataclasses.dataclass(frozen=True)
class SecondsRecord:
    """The seconds that a run spent, by stage; stages overlap, so their sum is not the wall time."""

    load: float | None = None
    """reading and resizing images; of a scored folder, reading the JSONs"""
    forward: float | None = None
    """the forward pass"""
    fusion: float | None = None
    """the fusion rule"""
    overlap: float | None = None
    """reading ground truth and counting overlaps"""
    write: float | None = None
    """writing parts and predictions"""
    wall: float | None = None
    """the complete loop, from before the first image is read until all is written"""


@dataclasses.dataclass(frozen=True)
class MemoryRecord:
    """The peak memory of a run's last process; in a merged run, the largest of all shards."""

    host_peak_bytes: Count | None = None
    """by the process; null where the system does not say"""
    device_peak_bytes: Count | None = None
    """by PyTorch on the accelerator; null on a CPU"""


@dataclasses.dataclass(frozen=True)
class ScoresRecord:
    """Mean scores of a group of categories, fractions 0–1."""

    PQ: float | None = None
    """panoptic quality"""
    SQ: float | None = None
    """segmentation quality"""
    RQ: float | None = None
    """recognition quality"""
    n: Count = 0
    """how many categories the means are over"""


@dataclasses.dataclass(frozen=True)
class SummaryRecord:
    """The PQ, SQ and RQ that the run computed when it was closed; reports recompute them from the files in parts/."""

    All: ScoresRecord
    """all categories"""
    Things: ScoresRecord
    """thing categories"""
    Stuff: ScoresRecord
    """stuff categories"""

    @classmethod
    def of(cls, summary: Mapping[str, Mapping[str, Any]]) -> "SummaryRecord":
        """Builds the record from the result of `Run.summary()`."""
        return cls(**{group: ScoresRecord(**scores) for group, scores in summary.items()})


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """A Parquet file of the run: name, size and SHA-256 when it was written; a file that differs is not read."""

    name: OwnName
    """the file in parts/"""
    size: Count
    """its bytes"""
    sha256: str
    """its SHA-256"""
    images: Count
    """how many images it holds"""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The content of run.json."""

    schema: int = SCHEMA
    """the version of this table that the file was written by"""
    panbench: str = ""
    """the version of panbench"""
    id: str | None = None
    """a random number that each part repeats"""
    kind: Literal["eval", "score"] = "eval"
    """eval: a model was run; score: a folder of predictions was scored"""
    name: str | None = None
    """the run's name; null means the folder's"""
    status: Status = "done"
    """running, done, interrupted or failed; a run that was killed says running"""
    error: str | None = None
    """why it was interrupted or failed"""
    model: ModelRecord | None = None
    """the model; null for a scored folder"""
    rule: RuleRecord | None = None
    """the fusion rule; null for a scored folder"""
    dataset: DatasetRecord = DatasetRecord()
    """the data"""
    category_map: CategoryMapRecord | None = None
    """the category map; null when the model has the dataset's categories"""
    predictions: PredictionsRecord | None = None
    """the predictions; null for an evaluation"""
    categories: tuple[Category, ...] = ()
    """the ground truth's categories, in the order of its JSON: {id, name, isthing, supercategory, color}"""
    arguments: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    """the settings by name; a resumed run must have the same ones"""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """the version of Python and of each package that can change a number; where operators and decoders come from"""
    git_commit: str | None = None
    """the commit of panbench's checkout, with `+changes` when files differ; null when it was installed"""
    device: DeviceRecord = DeviceRecord()
    """the device"""
    precision: str | None = None
    """the precision of the forward pass: fp32, ieee, tf32, bf16 or fp16 (docs/models.md)"""
    batch_size: Count | None = None
    """images a batch"""
    seed: int | None = None
    """the seed"""
    command: tuple[str, ...] = ()
    """the command line; empty for a run made from Python"""
    images: ImagesRecord = ImagesRecord()
    """the images"""
    seconds: SecondsRecord = SecondsRecord()
    """the time"""
    images_per_second: float | None = None
    """the steady rate: images after the batches that were begun at once, by the time since; null: too few batches"""
    images_per_second_low: float | None = None
    """the lowest rate of up to ten stretches of the run"""
    images_per_second_high: float | None = None
    """the highest of them"""
    memory: MemoryRecord = MemoryRecord()
    """the memory"""
    summary: SummaryRecord | None = None
    """the scores when the run was closed; null when it has no image"""
    parts: tuple[PartRecord, ...] = ()
    """the parts when the run was last closed"""
    study_tables: Mapping[str, tuple[PartRecord, ...]] = dataclasses.field(default_factory=dict)
    """the files of a table that a study stores next to the parts, by its folder's name (`unfused`), when the run was
    last closed; null without them"""
    started: str | None = None
    """when it began: ISO 8601, UTC"""
    finished: str | None = None
    """when it was closed"""

    def __post_init__(self) -> None:
        """Removes secrets from the command line and the error, whether written or read."""
        if not self.command and self.error is None:
            return
        redact = redactor()
        object.__setattr__(self, "command", tuple(map(redact, self.command)))
        object.__setattr__(self, "error", None if self.error is None else redact(self.error))

    def to_json(self) -> dict[str, Any]:
        """Returns the content of run.json."""
        record: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = plain(getattr(self, field.name))
            if field.name == _STUDY_TABLES:
                # Each has its own key; one that the run does not have is null.
                record |= {
                    name: value.get(name) or None for name in dict.fromkeys([*names_in_studies("tables"), *value])
                }
            else:
                record[field.name] = value
        return record

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunInfo":
        """Builds the record from the content of run.json; absent keys get their defaults.

        Raises BadRun with a sentence that begins with the wrong field.
        """
        try:
            found = dict(content)
            return _parse_record(cls, found, "", study_tables=_pop_study_tables(found))
        except _WrongRecordValue as wrong:
            raise BadRun(f"{wrong}.") from None


def read_info(folder: Path, only: Collection[str] = ()) -> RunInfo:
    """Reads run.json of the run in a folder. Raises BadRun if it is missing, damaged, foreign or of another schema.

    only: names of the fields to read, for speed; the others get their defaults. () reads all
    """
    path = folder / "run.json"
    try:
        if not folder.exists():
            raise BadRun(f"There is no run {folder}: no such folder. {_nearby_runs_hint(folder)}")
        content = json.loads(path.read_bytes(), parse_constant=_refuse_nan_and_infinity)
    except FileNotFoundError:
        raise BadRun(f"{folder} is not a run: {_why_not_a_run(folder)}.") from None
    except NotADirectoryError:
        raise BadRun(f"{folder} is a file, not the folder of a run.{_score_command_hint(folder)}") from None
    except OSError as problem:
        raise BadRun(f"{path} cannot be read: {problem.strerror or problem}.") from None
    except RecursionError:
        raise BadRun(f"{path} is damaged: it is nested too deeply.") from None
    except ValueError as problem:
        raise BadRun(f"{path} is damaged: {problem}.") from None
    if not isinstance(content, dict) or type(content.get("schema")) is not int or "panbench" not in content:
        raise BadRun(f"{path} is not the record of a panbench run: it has no `schema` and `panbench`.")
    if content["schema"] != SCHEMA:
        raise BadRun(
            f"{path} has schema {content['schema']}, written by panbench {_quoted_json(content['panbench'])}; this "
            f"version reads schema {SCHEMA}. Use the version that wrote it, or make the run again."
        )
    try:
        return RunInfo.from_json({name: content[name] for name in only if name in content} if only else content)
    except BadRun as problem:
        raise BadRun(f"{path} is damaged: {problem} Restore the file, or make the run again.") from None


def _why_not_a_run(folder: Path) -> str:
    """Describes a folder without run.json: a run that lost it, a folder of runs, or something else."""
    if next((folder / "parts").glob("*.parquet"), None) is not None:
        return "its run.json is lost, without which its parts cannot be read. Restore the file, or make the run again"
    runs = sorted(path.parent.name for path in folder.glob("*/run.json"))
    return f"it holds no run.json, but folders of runs: {listed(runs, most=5)}" if runs else "it holds no run.json"


def _score_command_hint(file: Path) -> str:
    """Suggests `panbench score` if the path is a JSON, which may hold predictions; returns "" for other files."""
    if file.suffix.lower() != ".json":
        return ""
    return f" `panbench score --gt FILE.json --pred {shlex.quote(str(file))} --out DIR` makes a run of predictions."


def _nearby_runs_hint(folder: Path) -> str:
    """Suggests the run that was meant by a folder that does not exist, from the runs next to it."""
    runs = sorted(path.parent.name for path in folder.parent.glob("*/run.json"))
    if near := difflib.get_close_matches(folder.name, runs, n=1):
        return f"Did you mean {folder.parent / near[0]}?"
    if runs:
        return f"Runs in that folder: {listed(runs, most=5)}."
    return "`panbench eval` writes runs, and so does `panbench score` with --out."


def category_record(category: Category) -> dict[str, Any]:
    """Returns a category as the JSON object that run.json and predictions.json hold."""
    record: dict[str, Any] = plain(category)
    return record


class _WrongRecordValue(Exception):
    """A value that its field cannot hold."""


def _refuse_nan_and_infinity(name: str) -> Any:
    """Called when JSON has NaN or Infinity, which are not JSON: raises ValueError."""
    raise ValueError(f"{name} is not a number that JSON has")


def _pop_study_tables(content: dict[str, Any]) -> dict[str, tuple[PartRecord, ...]]:
    """Removes the tables of studies from run.json's content; returns their Parquet files by name of the table."""
    content.pop(_STUDY_TABLES, None)
    fields = {field.name for field in dataclasses.fields(RunInfo)}
    found = {}
    for name in [name for name in content if name not in fields]:
        value = content.pop(name)
        try:
            listed = _parse_json_value(tuple[PartRecord, ...] | None, value, name)
        except _WrongRecordValue:
            # An unknown key is ignored; study tables of a study that is not installed are retained.
            if name in names_in_studies("tables"):
                raise
            continue
        if listed:
            if not is_own_name(name) or name in CORE_NAMES:
                raise _WrongRecordValue(f"{_quoted_json(name)} is not the name of a study table")
            found[name] = listed
    return found


def plain(value: Any) -> Any:
    """Converts a record to JSON values: dataclasses and mappings to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # A text image id prints as its text; here it is stored as a number.
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parse_record(cls: type[_Record], value: Any, where: str, **given: Any) -> _Record:
    """Builds a dataclass from a JSON object, the inverse of `plain`; ignores unknown keys. Raises _WrongRecordValue."""
    if not isinstance(value, dict):
        raise _WrongRecordValue(f"`{where}` must be an object, not {_quoted_json(value)}")
    for name, kind, required in _typed_fields(typing.cast(typing.Hashable, cls)):
        field = f"{where}.{name}" if where else name
        if name in value:
            given[name] = _parse_json_value(kind, value[name], field)
        elif required:
            raise _WrongRecordValue(f"`{field}` is missing")
    record = cls(**given)
    if isinstance(record, RunInfo):
        _check_category_records(record.categories)
    return record


@cache
def _typed_fields(cls: typing.Any) -> tuple[tuple[str, Any, bool], ...]:
    """Returns for each field of a dataclass its name, its type and whether it is required."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(
        (
            field.name,
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
    )


@cache
def _type_and_its_arguments(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Splits a type such as `list[int]` into `list` and `(int,)`."""
    return typing.get_origin(kind), typing.get_args(kind)


def _parse_json_value(kind: Any, value: Any, where: str) -> Any:
    """Converts a JSON value to the type `kind`. Raises _WrongRecordValue with the field `where`."""
    if kind in _SCALARS:
        is_valid, what = _SCALARS[kind]
        if not is_valid(value):
            raise _WrongRecordValue(f"`{where}` must be {what}, not {_quoted_json(value)}")
        return float(value) if kind is float else value
    origin, arguments = _type_and_its_arguments(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        others = [one for one in arguments if one is not type(None)]
        if len(others) == 1:
            return _parse_json_value(others[0], value, where)
        if type(value) not in others:
            raise _WrongRecordValue(f"`{where}` must be a single value, not {_quoted_json(value)}")
        return _parse_json_value(type(value), value, where)
    if origin is Literal:
        if value not in arguments:
            raise _WrongRecordValue(f"`{where}` must be one of {', '.join(arguments)}, not {_quoted_json(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _WrongRecordValue(f"`{where}` must be a list, not {_quoted_json(value)}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise _WrongRecordValue(f"`{where}` must have {len(arguments)} values, not {len(value)}")
        return tuple(_parse_json_value(arguments[0], item, f"{where}[{field}]") for field, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _WrongRecordValue(f"`{where}` must be an object, not {_quoted_json(value)}")
        return {
            _parse_json_key(arguments[0], key, where): _parse_json_value(
                arguments[1], item, f"{where}.{json.dumps(key)[1:-1][:40]}"
            )
            for key, item in value.items()
        }
    return _parse_record(typing.cast(type, kind), value, where)


def _parse_json_key(kind: Any, key: str, where: str) -> Any:
    """Converts the key of a JSON object to the type `kind`: text or a whole number."""
    if kind is str:
        return _parse_json_value(str, key, where)
    try:
        return int(key)
    except ValueError:
        raise _WrongRecordValue(f"`{where}` has the key {_quoted_json(key)}, which is not a whole number") from None


def _is_json_text(value: Any) -> bool:
    """True if a JSON value is text that UTF-8 can encode."""
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None


def _is_json_integer(value: Any) -> bool:
    """True if a JSON value is an integer of at most 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_json_number(value: Any) -> bool:
    """True if a JSON value is a finite number, whole or not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


_SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (_is_json_text, "text that can be written down"),
    OwnName: (lambda value: isinstance(value, str) and is_own_name(value), "a name of a-z, 0-9, `.`, `_` and `-`"),
    int: (_is_json_integer, "a whole number of at most 64 bits"),
    Count: (lambda value: _is_json_integer(value) and value >= 0, "a whole number, at least 0"),
    float: (_is_json_number, "a finite number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
}
"""For each type of a single value: the check, and in words what the value must be."""


def _check_category_records(categories: tuple[Category, ...]) -> None:
    """Raises _WrongRecordValue for category ids that repeat or exceed 31 bits, and for colours beyond 0–255."""
    seen: dict[int, int] = {}
    for field, category in enumerate(categories):
        where = f"categories[{field}]"
        if not 0 <= category.id < 2**31:
            raise _WrongRecordValue(f"`{where}.id` must lie between 0 and {2**31 - 1}, not be {category.id}")
        if category.id in seen:
            raise _WrongRecordValue(f"`{where}.id` is {category.id}, which categories[{seen[category.id]}] has too")
        if category.color is not None and not all(0 <= part <= 255 for part in category.color):
            raise _WrongRecordValue(f"`{where}.color` must have values from 0 to 255, not {list(category.color)}")
        seen[category.id] = field


def _quoted_json(value: Any) -> str:
    """Quotes a JSON value for a message: ASCII, on one line, at most 40 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
