"""Reports exceptions and invalid results of other packages' models as errors of those models.

One message names the module, the image and the line; the exit code is 1, because neither the user's input nor panbench
is at fault. `--debug` shows the traceback.
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
from typing import Any, NamedTuple, cast

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

_PACKAGE = Path(__file__).resolve().parents[1]
_MOST_CHARACTERS = 300


def is_external(name: str) -> bool:
    """Returns whether a module, or `package.module:attribute`, is of another package than panbench."""
    return name.partition(":")[0].partition(".")[0] != "panbench"


def guarded_model_code(name: str, scenes: Sequence[Scene] = ()) -> contextlib.AbstractContextManager[None]:
    """Returns a context that turns another package's exceptions into ModelFailed, and lets panbench's own pass."""
    return external_code(name, scenes) if is_external(name) else contextlib.nullcontext()


@contextlib.contextmanager
def external_code(name: str, scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns exceptions of a model's own code within the block, `sys.exit` included, into ModelFailed.

    name: `package.module:attribute`; scenes: the images that it processes
    panbench's own errors, Ctrl-C, and out-of-memory errors (a smaller batch may work) pass unchanged. Code that changes
    the current folder also fails, because panbench's paths may be relative.
    """
    before = _working_directory()
    try:
        yield
        if before is not None and (after := _working_directory()) != before:
            raise ModelFailed(
                f"{name} changed the current folder to {after or 'one that is gone'}{_on_images(scenes)}."
            )
    except BaseException as error:
        if _passes_through(error):
            raise
        raise ModelFailed(
            f"{name} {_error_words(error)}{_on_images(scenes)}. {_model_source_line(error, name)}".rstrip()
        ) from error
    finally:
        if before is not None and _working_directory() != before:
            os.chdir(before)


def _passes_through(error: BaseException) -> bool:
    """Returns whether an exception is panbench's own, Ctrl-C or out of memory, and must stay unchanged."""
    return isinstance(error, PanbenchError | NonFiniteOutput | KeyboardInterrupt) or says_out_of_memory(error)


def _working_directory() -> str | None:
    """Returns the working directory; None if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def guarded_package_code(packages: Collection[str], scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns exceptions within the block into ModelFailed if code of these packages raised them.

    For user classes that a library builds and calls: it may wrap their exceptions, so causes count, too.
    """
    try:
        yield
    except BaseException as error:
        if _passes_through(error):
            raise
        raise_as_model_failure(error, packages, scenes)
        raise


def raise_as_model_failure(error: BaseException, packages: Collection[str], scenes: Sequence[Scene] = ()) -> None:
    """Raises ModelFailed if an exception, or one of its causes, comes from code of the given packages."""
    found = None
    for cause in exception_causes(error):
        modules = [module for module in cause.modules if module.partition(".")[0] in packages]
        found = (cause.error, modules[-1]) if modules else found
    if found is not None:
        root, module = found
        raise ModelFailed(
            f"{module} {_error_words(root)}{_on_images(scenes)}. {_model_source_line(root, module)}".rstrip()
        ) from error


class ExceptionCause(NamedTuple):
    """Holds an exception, and the modules of its traceback, the innermost last."""

    error: BaseException
    modules: list[str]


def exception_causes(error: BaseException | None) -> Iterator[ExceptionCause]:
    """Yields an exception, and then the exceptions that caused it (`__cause__`, else `__context__`)."""
    while error is not None:
        yield ExceptionCause(error, [module for _, _, module in _traceback_frames(error.__traceback__)])
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def checked_results_of(function: Any, scenes: Sequence[Scene] = ()) -> Iterator[None]:
    """Turns BadModel within the block into ModelFailed that names the line where the author's function begins.

    function: the function, class or object that gave the result; scenes: the images, if the error does not name them
    """
    try:
        yield
    except BadModel as error:
        reason = f"{error.reason.removesuffix('.')}{_on_images(scenes)}." if scenes else error.reason
        raise ModelFailed(f"{reason} {_definition_line(function)}".rstrip(), ways=error.ways) from error


def check_outputs(name: str, title: str, model: Any, outputs: Any, batch: Sequence[LoadedImage]) -> Sequence[Output]:
    """Checks that a model returned one valid output per image, and returns the outputs. Raises ModelFailed."""
    scenes = [image.scene for image in batch]
    with checked_results_of(model.candidates):
        _check_output_list(name, outputs, scenes)
    with checked_results_of(model.candidates, scenes):
        check_classes(outputs, model.class_names, title)
    return cast("Sequence[Output]", outputs)


def _check_output_list(name: str, outputs: Any, scenes: Sequence[Scene]) -> None:
    """Raises BadModel unless `candidates` returned a list with one valid output per image."""
    if not isinstance(outputs, (list, tuple)):
        raise BadModel(
            f"{name} returned {kind_of(outputs)}{_on_images(scenes)}; it must return a list with one output per image."
        )
    if len(outputs) != len(scenes):
        raise BadModel(f"{name} returned {len(outputs)} outputs for {len(scenes)} images{_on_images(scenes)}.")
    for output, scene in zip(outputs, scenes, strict=True):
        if (problem := _output_problem(output)) is not None:
            raise BadModel(f"{name} returned {problem}{_on_images([scene])}.")


class ExternalModel(Wrapped):
    """Wraps a model of another package to check its results and to turn its exceptions into ModelFailed."""

    def __init__(self, spec: ModelSpec, inner: Model) -> None:
        """Checks the types of the model's class names, isthing, rule and device. Raises ModelFailed."""
        super().__init__(inner)
        self._name = spec.adapter
        with checked_results_of(inner.inner if isinstance(inner, Wrapped) else inner):
            _check_model_members(self._name, inner)

    def describe(self) -> ModelRecord:
        """Returns the run.json entry that the wrapped model gives. Raises ModelFailed for another type."""
        with external_code(self._name):
            found: Any = self.inner.describe()
        with checked_results_of(self.inner.describe):
            if not isinstance(found, ModelRecord):
                kind = type(found).__name__
                raise BadModel(f"{self._name}: describe() returned a {kind}; it must return a ModelRecord.")
        return found

    def load(self, scene: Scene) -> LoadedImage:
        """Loads a dataset's image by the wrapped model, and checks the result. Raises ModelFailed."""
        with external_code(self._name, [scene]):
            found = self.inner.load(scene)
        with checked_results_of(self.inner.load):
            if not isinstance(found, LoadedImage) or not isinstance(found.inputs, torch.Tensor):
                raise BadModel(f"{self._name}: load() returned no LoadedImage with a tensor{_on_images([scene])}.")
        return found

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Lets the wrapped model turn pixels into its input. Raises ModelFailed."""
        with external_code(self._name, [scene]):
            return self.inner.load_pixels(scene, rgb)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Runs the wrapped model on a batch, and checks its outputs. Raises ModelFailed."""
        with external_code(self._name, [image.scene for image in batch]):
            found = self.inner.candidates(batch)
            found = list(found) if not isinstance(found, (list, tuple)) and hasattr(found, "__next__") else found
        return check_outputs(self._name, self._name, self.inner, found, batch)


def _check_model_members(name: str, model: Any) -> None:
    """Raises BadModel for class names, isthing, a rule or a device of a wrong type."""
    names, isthing = model.class_names, model.isthing
    words = [isinstance(each, str) for each in names] if isinstance(names, (list, tuple)) else [False]
    if not all(words) or not isinstance(isthing, (list, tuple)) or len(isthing) != len(names):
        raise BadModel(f"{name}: class_names must be a tuple of text, and isthing as many truth values.")
    if not isinstance(model.rule, Rule):
        raise BadModel(f"{name}: rule is {kind_of(model.rule)}; it must be a fusion rule (models.rules).")
    if not isinstance(model.device, torch.device):
        raise BadModel(f"{name}: device is {kind_of(model.device)}; it must be a torch.device.")


def _output_problem(output: Any) -> str | None:
    """Describes in a few words what is invalid in a model's output for an image; None if it is valid."""
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
        return _id_range_problem(output.ids)
    counts = {part: len(value) for part, value in lengths.items()}
    if len(set(counts.values())) > 1:
        return f"{type(output).__name__} with {', '.join(f'{count} {part}' for part, count in counts.items())}"
    return None


def _id_range_problem(ids: Any) -> str | None:
    """Describes the range of an id map's ids if PNGs cannot hold them; None if they can."""
    least, most = (int(np.min(ids)), int(np.max(ids))) if np.size(ids) else (0, 0)
    return f"ids from {least} to {most}, which must lie in 0…{MAX_ID}," if least < 0 or most > MAX_ID else None


def _error_words(error: BaseException) -> str:
    """Describes an exception for "MODEL …": "raised ValueError: …", "called sys.exit(1)"."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs the Python package {error.name.partition('.')[0]}, which is not installed"
    try:
        words = " ".join(str(error).split())
    except Exception:  # str() of an unknown exception may fail
        words = ""
    words = words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]} …"
    return f"raised {type(error).__name__}: {words}".removesuffix(": ").rstrip(".")


def _on_images(scenes: Sequence[Scene]) -> str:
    """Returns ` on 000000000139.jpg (image 139)`; empty without images."""
    names = listed([f"{scene.image.file_name} (image {scene.image.id})" for scene in scenes], 3)
    return f" on {names}" if scenes else ""


def _model_source_line(error: BaseException, name: str) -> str:
    """Returns `FILE, line N: "text"` of the innermost line of a model's own code in a traceback; empty without one."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _source_line(error.filename, error.lineno)
    package = name.partition(":")[0].partition(".")[0]
    frames = list(_traceback_frames(error.__traceback__))
    own = [frame for frame in frames if frame[2].partition(".")[0] == package]
    others = [frame for frame in frames if _PACKAGE not in Path(frame[0]).parents]
    found = (own or others)[-1:]
    return _source_line(*found[0][:2]) if found else ""


def _definition_line(maker: Any) -> str:
    """Returns `FILE, line N: "text"` where a function or class begins; empty for panbench's own."""
    while isinstance(maker, functools.partial):
        maker = maker.func
    # `as_model` wraps objects that do not inherit from Model: look at the inner one.
    owner = getattr(maker, "__self__", None)
    if isinstance(owner, Wrapped):
        maker = getattr(owner.inner, maker.__name__)
    maker = maker if inspect.isroutine(maker) or inspect.isclass(maker) else type(maker)
    try:
        path, line = inspect.getsourcefile(maker), inspect.getsourcelines(maker)[1]
    except (TypeError, OSError):
        return ""
    return _source_line(path, line) if path and _PACKAGE not in Path(path).parents else ""


def _traceback_frames(traced: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    """Yields file, line and module of each stack frame of a traceback, the innermost last."""
    for frame, line in traceback.walk_tb(traced):
        yield frame.f_code.co_filename, line, str(frame.f_globals.get("__name__", ""))


def _source_line(path: str, line: int) -> str:
    """Returns `FILE, line N: "text"`."""
    text = " ".join(linecache.getline(path, line).split())[:_MOST_CHARACTERS]
    return f'{path}, line {line}: "{text}"' if text else f"{path}, line {line}."
