"""Models of other packages: their exceptions and wrong results are reported as theirs.

One sentence names the module, the image and the line, and the exit code is 1: neither the user's input nor panbench is
at fault. `--debug` shows the traceback.
"""

import contextlib
import functools
import inspect
import linecache
import os
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from panbench.base.errors import BadModel, ModelFailed, PanbenchError
from panbench.base.text import kind_of, listed
from panbench.catalog import ModelSpec
from panbench.models.candidates import (
    Candidates,
    FinishedMap,
    Frame,
    Instances,
    NonFiniteOutput,
    Output,
    check_classes,
)
from panbench.models.devices import says_out_of_memory
from panbench.models.model import LoadedImage, Model, Wrapped
from panbench.models.rules import Rule
from panbench.panoptic.types import MAX_ID, Scene
from panbench.runs import ModelRecord

__all__ = [
    "External",
    "answers_of",
    "check_outputs",
    "code_of",
    "external_code",
    "guarded",
    "is_external",
    "raise_as_theirs",
]

_PACKAGE = Path(__file__).resolve().parents[1]
_LONGEST = 300


def is_external(name: str) -> bool:
    """Whether `package.module:attribute`, or a module's name, is of another package than panbench."""
    return name.partition(":")[0].partition(".")[0] != "panbench"


def guarded(name: str, scenes: Sequence[Scene] = ()) -> contextlib.AbstractContextManager[None]:
    """`external_code` for another package's code; does nothing for panbench's own."""
    return external_code(name, scenes) if is_external(name) else contextlib.nullcontext()


@contextlib.contextmanager
def external_code(name: str, scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns what a model's own code raises, `sys.exit` included, into ModelFailed.

    name: `package.module:attribute`; scenes: of the images that it looks at
    panbench's own errors pass, as do Ctrl-C and PyTorch's for too little memory, which a smaller batch may answer.
    Code that leaves another current folder behind is an error, too: panbench's paths may be relative.
    """
    before = _folder()
    try:
        yield
        if before is not None and (after := _folder()) != before:
            raise ModelFailed(f"{name} changed the current folder to {after or 'one that is gone'}{_on(scenes)}.")
    except (PanbenchError, NonFiniteOutput, KeyboardInterrupt):
        raise
    except BaseException as error:
        if says_out_of_memory(error):
            raise
        raise ModelFailed(f"{name} {_said(error)}{_on(scenes)}. {_place(error, name)}".rstrip()) from error
    finally:
        if before is not None and _folder() != before:
            os.chdir(before)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def code_of(packages: Collection[str], scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns an error raised in the code of these packages into ModelFailed; others pass.

    For a user's classes that a library builds and calls: the library may wrap what they raise, so causes count, too.
    """
    try:
        yield
    except (PanbenchError, NonFiniteOutput, KeyboardInterrupt):
        raise
    except BaseException as error:
        if says_out_of_memory(error):
            raise
        raise_as_theirs(error, packages, scenes)
        raise


def raise_as_theirs(error: BaseException, packages: Collection[str], scenes: Sequence[Scene] = ()) -> None:
    """Raises ModelFailed when code of the packages took part in an error or in what caused it."""
    cause: BaseException | None = error
    found = None
    while cause is not None:
        modules = [module for _, _, module in _frames(cause.__traceback__) if module.partition(".")[0] in packages]
        found = (cause, modules[-1]) if modules else found
        cause = cause.__cause__ or cause.__context__
    if found is not None:
        root, module = found
        raise ModelFailed(f"{module} {_said(root)}{_on(scenes)}. {_place(root, module)}".rstrip()) from error


@contextlib.contextmanager
def answers_of(function: Any, scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns BadModel, raised where an answer is checked, into ModelFailed with the line where its author's code begins.

    function: what answered, a function, a class or an object; scenes: the images, where the error does not name them
    """
    try:
        yield
    except BadModel as error:
        reason = f"{error.reason.removesuffix('.')}{_on(scenes)}." if scenes else error.reason
        raise ModelFailed(f"{reason} {_defined_at(function)}".rstrip(), ways=error.ways) from error


def check_outputs(name: str, title: str, model: Any, outputs: Any, batch: Sequence[LoadedImage]) -> Sequence[Output]:
    """What `model.candidates` returned, one output an image. Raises ModelFailed for anything else."""
    scenes = [image.scene for image in batch]
    with answers_of(model.candidates):
        _check_each(name, outputs, scenes)
    with answers_of(model.candidates, scenes):
        check_classes(outputs, model.class_names, title)
    return cast("Sequence[Output]", outputs)


def _check_each(name: str, outputs: Any, scenes: Sequence[Scene]) -> None:
    if not isinstance(outputs, (list, tuple)):
        raise BadModel(f"{name} returned {kind_of(outputs)}{_on(scenes)}; it must return a list, one an image.")
    if len(outputs) != len(scenes):
        raise BadModel(f"{name} returned {len(outputs)} outputs for {len(scenes)} images{_on(scenes)}.")
    for output, scene in zip(outputs, scenes, strict=True):
        if (problem := _misfit(output)) is not None:
            raise BadModel(f"{name} returned {problem}{_on([scene])}.")


class External(Wrapped):
    """Wraps a model of another package: checks its results, and reports its exceptions as its own."""

    def __init__(self, spec: ModelSpec, inner: Model) -> None:
        """Raises ModelFailed for members that differ from `Model`."""
        super().__init__(inner)
        self._name = spec.adapter
        with answers_of(inner.inner if isinstance(inner, Wrapped) else inner):
            _check_members(self._name, inner)

    def describe(self) -> ModelRecord:
        """The inner model's record."""
        with external_code(self._name):
            found: Any = self.inner.describe()
        with answers_of(self.inner.describe):
            if not isinstance(found, ModelRecord):
                kind = type(found).__name__
                raise BadModel(f"{self._name}: describe() returned a {kind}; it must return a ModelRecord.")
        return found

    def load(self, scene: Scene) -> LoadedImage:
        """The image as the inner model loads it."""
        with external_code(self._name, [scene]):
            found = self.inner.load(scene)
        with answers_of(self.inner.load):
            if not isinstance(found, LoadedImage) or not isinstance(found.inputs, torch.Tensor):
                raise BadModel(f"{self._name}: load() returned no LoadedImage with a tensor{_on([scene])}.")
        return found

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """The pixels as the inner model loads them."""
        with external_code(self._name, [scene]):
            return self.inner.load_pixels(scene, rgb)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The inner model's outputs."""
        with external_code(self._name, [image.scene for image in batch]):
            found = self.inner.candidates(batch)
            found = list(found) if not isinstance(found, (list, tuple)) and hasattr(found, "__next__") else found
        return check_outputs(self._name, self._name, self.inner, found, batch)


def _check_members(name: str, model: Any) -> None:
    names, isthing = model.class_names, model.isthing
    words = [isinstance(each, str) for each in names] if isinstance(names, (list, tuple)) else [False]
    if not all(words) or not isinstance(isthing, (list, tuple)) or len(isthing) != len(names):
        raise BadModel(f"{name}: class_names must be a tuple of text, and isthing as many truth values.")
    if not isinstance(model.rule, Rule):
        raise BadModel(f"{name}: rule is {kind_of(model.rule)}; it must be a fusion rule (models.rules).")
    if not isinstance(model.device, torch.device):
        raise BadModel(f"{name}: device is {kind_of(model.device)}; it must be a torch.device.")


def _misfit(output: Any) -> str | None:
    """What is wrong with an output, in a few words; None when it is one."""
    if not isinstance(output, (Candidates, Instances, FinishedMap)):
        return f"{kind_of(output)}, which is neither Candidates nor Instances nor a FinishedMap,"
    if not isinstance(getattr(output, "frame", None), Frame):
        return f"{type(output).__name__} whose frame is {kind_of(output.frame)}"
    if isinstance(output, Candidates):
        lengths: dict[str, Any] = {part: getattr(output, part) for part in ("labels", "gate", "weight", "masks")}
        if output.masks.ndim != 3:
            return f"masks of shape {tuple(output.masks.shape)}, which must be (candidates, height, width),"
    elif isinstance(output, Instances):
        lengths = {"labels": output.labels, "scores": output.scores, "masks": output.masks}
        lengths |= {} if output.boxes is None else {"boxes": output.boxes}
    elif np.shape(output.ids) != tuple(output.frame.original):
        return f"an id map of shape {np.shape(output.ids)} for an image of {tuple(output.frame.original)}"
    else:
        return _ids_outside(output.ids)
    counts = {part: len(value) for part, value in lengths.items()}
    if len(set(counts.values())) > 1:
        return f"{type(output).__name__} with {', '.join(f'{count} {part}' for part, count in counts.items())}"
    return None


def _ids_outside(ids: Any) -> str | None:
    least, most = (int(np.min(ids)), int(np.max(ids))) if np.size(ids) else (0, 0)
    return f"ids from {least} to {most}, which must lie in 0…{MAX_ID}," if least < 0 or most > MAX_ID else None


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs the Python package {error.name.partition('.')[0]}, which is not installed"
    try:
        words = " ".join(str(error).split())
    except Exception:  # a stranger's exception may not even have words
        words = ""
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} …"
    return f"raised {type(error).__name__}: {words}".removesuffix(": ").rstrip(".")


def _on(scenes: Sequence[Scene]) -> str:
    """` on 000000000139.jpg (image 139)`; nothing without images."""
    names = listed([f"{scene.image.file_name} (image {scene.image.id})" for scene in scenes], 3)
    return f" on {names}" if scenes else ""


def _place(error: BaseException, name: str) -> str:
    """`FILE, line N: "its text"` of the model's own code; nothing where no line of it took part."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _line(error.filename, error.lineno)
    package = name.partition(":")[0].partition(".")[0]
    frames = list(_frames(error.__traceback__))
    own = [frame for frame in frames if frame[2].partition(".")[0] == package]
    others = [frame for frame in frames if _PACKAGE not in Path(frame[0]).parents]
    found = (own or others)[-1:]
    return _line(*found[0][:2]) if found else ""


def _defined_at(maker: Any) -> str:
    """`FILE, line N: "its text"` where a function, a class or an object's class begins; nothing for panbench's own."""
    while isinstance(maker, functools.partial):
        maker = maker.func
    # `adopted` lends methods to an object that does not inherit from Model.
    owner = getattr(maker, "__self__", None)
    if isinstance(owner, Wrapped):
        maker = getattr(owner.inner, maker.__name__)
    maker = maker if inspect.isroutine(maker) or inspect.isclass(maker) else type(maker)
    try:
        path, line = inspect.getsourcefile(maker), inspect.getsourcelines(maker)[1]
    except (TypeError, OSError):
        return ""
    return _line(path, line) if path and _PACKAGE not in Path(path).parents else ""


def _frames(traced: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    """File, line and module of each frame, the innermost last."""
    for frame, line in traceback.walk_tb(traced):
        yield frame.f_code.co_filename, line, str(frame.f_globals.get("__name__", ""))


def _line(path: str, line: int) -> str:
    text = " ".join(linecache.getline(path, line).split())[:_LONGEST]
    return f'{path}, line {line}: "{text}"' if text else f"{path}, line {line}."
