"""A model whose backbone, or complete network if it has none (EoMT), OpenVINO computes on a CPU.

OpenVINO converts the network with the first image as its example, once, for images of any size, and compiles it once
for each thread that runs the model. Images go through it one by one, because a network
converted with one image may not accept several. The first output for each size is compared with PyTorch's, so that a
size baked in by the conversion ends in an error, never in wrong numbers.
"""

import copy
import importlib
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panbench.base.errors import BadArgument, BadModel
from panbench.models.candidates import Output
from panbench.models.decoders import Decoder, sharing_weights
from panbench.models.host import HostedModel
from panbench.models.model import LoadedImage, Model

LARGEST_DISTANCE = 1e-2
"""The largest allowed difference to PyTorch's output, as a share of its largest value; rounding alone is 1e-6."""


def by_openvino(model: Model) -> Model:
    """Returns a copy of the model that OpenVINO computes. Raises BadModel and BadArgument if it cannot."""
    if not isinstance(model, HostedModel):
        raise BadModel(f"{model.spec.title} is a function of its own, which OpenVINO does not take.")
    if model.device.type != "cpu" or model.precision not in ("fp32", "ieee") or model.compiled:
        raise BadArgument("OpenVINO computes on a CPU, in fp32, what torch.compile has not changed.")
    return OpenVinoModel(model)


class OpenVinoModel(HostedModel):
    """A model of which OpenVINO computes the backbone, or the whole network; the rest runs in PyTorch."""

    def __init__(self, model: HostedModel) -> None:
        """Wraps a model so that OpenVINO computes the main part of its network; the weights are shared."""
        vars(self).update(vars(model))
        openvino = _import_openvino()
        self.adapter = copy.copy(model.adapter)
        self.adapter.versions = {**model.versions, "openvino": str(openvino.__version__)}
        self.module = sharing_weights(model.module)
        self._computed = OpenVinoForward(_submodule(model.module, model.adapter.compiled_part), model.spec.title)
        # The copy's part keeps its attributes, which adapters read.
        _submodule(self.module, model.adapter.compiled_part).forward = self._computed

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the model, with OpenVINO as its runtime."""
        return {**super().settings, "runtime": "OpenVINO"}

    def with_copied_network(self) -> tuple[Model, Decoder | None]:
        """Called for `--layers`: raises BadArgument, because OpenVINO does not run a network in parts."""
        raise BadArgument("--layers runs a network in parts, which OpenVINO does not. Leave +openvino out.")

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Runs the model on a batch. Raises BadModel if its adapter did not call the part that OpenVINO computes."""
        outputs = super().candidates(batch)
        if not self._computed.answers:
            raise BadModel(
                f"{self.spec.title}: its adapter does not call the forward of its network, so OpenVINO would compute "
                "nothing. Leave +openvino out."
            )
        return outputs


class OpenVinoForward:
    """Replaces the forward of a part of a network: OpenVINO computes it."""

    def __init__(self, part: nn.Module, title: str) -> None:
        """Takes the part of a network that OpenVINO shall compute, and the model's title for error messages."""
        self.part, self.title = part, title
        self.answers = 0
        self._lock = threading.Lock()
        self._converted: tuple[Any, Any] | None = None
        self._trusted: set[tuple[torch.Size, ...]] = set()
        self._per_thread = threading.local()

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Computes a part of the network by OpenVINO instead of PyTorch. Raises BadModel if their outputs differ."""
        tensors = (*inputs, *named.values())
        answers = [
            self._infer_image(image, tuple(named)) for image in zip(*(each.split(1) for each in tensors), strict=True)
        ]
        self.answers += len(answers)
        assert self._converted is not None
        joined = iter([torch.cat(each) for each in zip(*answers, strict=True)])
        return _map_tensors(self._converted[1], lambda _: next(joined))

    def _infer_image(self, image: tuple[Tensor, ...], names: tuple[str, ...]) -> list[Tensor]:
        """Computes the output tensors for one image; checks the first output of each image size against PyTorch."""
        flat = _FlatOutput(self.part, names)
        with self._lock:
            if self._converted is None:
                self._converted = self._convert_to_openvino(flat, image)
        if not hasattr(self._per_thread, "request"):
            self._per_thread.request = _openvino_request(self._converted[0])
        found = self._per_thread.request.infer([each.numpy() for each in image], share_inputs=True)
        answers = [torch.from_numpy(each) for each in found.values()]
        size = tuple(each.shape for each in image)
        if size not in self._trusted:
            self._check_against_pytorch(answers, flat(*image), image[0].shape)
            self._trusted.add(size)
        return answers

    def _convert_to_openvino(self, flat: "_FlatOutput", image: tuple[Tensor, ...]) -> tuple[Any, Any]:
        """Converts a part of a network to OpenVINO; also returns its output with empty tensors, for the structure."""
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # on sizes that tracing fixes: `_check_against_pytorch` finds those that matter
                flat(*image)
                return _import_openvino().convert_model(flat, example_input=image), flat.form
        except Exception as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
            raise BadModel(
                f"OpenVINO cannot convert {self.title} ({type(error).__name__}: {reason.strip()}). Leave +openvino out."
            ) from error

    def _check_against_pytorch(self, answers: Sequence[Tensor], expected: Sequence[Tensor], shape: torch.Size) -> None:
        """Raises BadModel if OpenVINO's output differs from PyTorch's by more than rounding."""
        for ours, theirs in zip(answers, expected, strict=True):
            if ours.shape == theirs.shape and _relative_distance(ours, theirs) <= LARGEST_DISTANCE:
                continue
            raise BadModel(
                f"OpenVINO's answer of {self.title} for an image of {shape[-2]}×{shape[-1]} is not PyTorch's. Leave "
                "+openvino out."
            )


class _FlatOutput(nn.Module):
    """Wraps a part of a network so that it returns a flat tuple of tensors, whatever structure its output has."""

    def __init__(self, part: nn.Module, names: Sequence[str]) -> None:
        """Wraps a part of a network; `names` are its keyword arguments, passed after the positional inputs."""
        super().__init__()
        self.part, self.names = part, names
        self.form: Any = None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the wrapped part of the network and returns all tensors of its nested output as a flat tuple.

        Stores the structure of the output, with empty tensors in it, in `form`.
        """
        count = len(tensors) - len(self.names)
        answer = self.part(*tensors[:count], **dict(zip(self.names, tensors[count:], strict=True)))
        found: list[Tensor] = []
        _map_tensors(answer, found.append)
        self.form = _map_tensors(answer, lambda each: each.new_empty(0))
        return tuple(found)


def _import_openvino() -> Any:
    """Imports openvino without its telemetry package, so that it sends no usage data."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _submodule(module: nn.Module, path: str) -> Any:
    """Returns the submodule at a path, or the network itself if there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return module


def _openvino_request(converted: Any) -> Any:
    """Compiles a converted model for the calling thread, on as many threads as PyTorch uses here."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # other threads of the run share the cores
    }
    return _import_openvino().Core().compile_model(converted, "CPU", settings).create_infer_request()


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Applies `change` to every tensor in nested tuples, lists, mappings and objects with attributes."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)([_map_tensors(each, change) for each in value])
    if isinstance(value, Mapping) or hasattr(value, "__dict__"):
        items = value.items() if isinstance(value, Mapping) else vars(value).items()
        return types.SimpleNamespace(**{name: _map_tensors(each, change) for name, each in items})
    return value


def _relative_distance(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest difference of two tensors, as a share of the largest value of `theirs`."""
    expected = theirs.float()
    return float((ours.float() - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
